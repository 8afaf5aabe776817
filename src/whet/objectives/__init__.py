"""What is learned: one file per objective, and the families of targets."""

from whet.objectives.contrastive import Contrastive, info_nce
from whet.objectives.families import FAMILIES, Family, family
from whet.objectives.masked_tokens import MaskedTokens
from whet.objectives.objective import Objective, call, logits, make
from whet.objectives.supervised import Supervised

__all__ = [
    "FAMILIES", "Contrastive", "Family", "MaskedTokens", "Objective", "Supervised", "call",
    "family", "info_nce", "logits", "make",
]  # fmt: skip
