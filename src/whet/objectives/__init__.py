"""What is learned: one file per objective, and the families of targets."""

from whet.errors import UnknownName
from whet.objectives.contrastive import Contrastive, info_nce
from whet.objectives.families import FAMILIES, Family, family
from whet.objectives.masked_tokens import MaskedTokens
from whet.objectives.objective import Objective, call, logits
from whet.objectives.supervised import Supervised

__all__ = [
    "FAMILIES", "Contrastive", "Family", "MaskedTokens", "Objective", "Supervised", "call",
    "family", "info_nce", "logits", "make",
]  # fmt: skip

_SUPERVISED = [name for name in FAMILIES if name != "embedding"]
_OTHERS: dict[str, type[Objective]] = {"masked_tokens": MaskedTokens, "contrastive": Contrastive}


def make(spec: Objective | str) -> Objective:
    """An objective from its name, or another one like it.

    Raises:
        UnknownName: there is none of that name.
    """
    if isinstance(spec, Objective):
        return spec.anew()
    if spec in _SUPERVISED:
        return Supervised(family_name=spec)
    if spec not in _OTHERS:
        raise UnknownName("objective", spec, [*_SUPERVISED, *_OTHERS])
    return _OTHERS[spec]()
