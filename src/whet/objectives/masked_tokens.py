"""Masked tokens: predict what the collator hid."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from whet.batch import Batch
from whet.errors import InputError
from whet.method import Card, method
from whet.objectives.families import Family, family
from whet.objectives.objective import Objective


@method
class MaskedTokens(Objective):
    """Cross-entropy at the positions that the collator masked; -100 everywhere else.

    $$L = -\\frac{1}{|M|} \\sum_{t \\in M} \\log p(x_t \\mid \\tilde x)$$

    Masking belongs to the collator (`transformers.DataCollatorForLanguageModeling` or one's own),
    so that the number of masked tokens is known before any forward and an accumulation window
    weights its tokens exactly. Batches are mappings with `labels` `(N, T)`.

    Cost: 1 forward, 1 backward.

    Raises:
        InputError: no position is ignored, so nothing was masked.

    Paper: Devlin et al. 2019, arXiv:1810.04805.
    """

    name: ClassVar[str] = "masked_tokens"
    card: ClassVar[Card] = Card(
        title="Masked tokens", paper="arXiv:1810.04805", cost="1 pass", tier=1,
        phase="pre-training", data="tokens", avoid_when="the collator does not mask",
    )  # fmt: skip

    @property
    def family(self) -> Family:
        return family("tokens")

    def _check_first(self, batch: Batch, output: Tensor) -> None:
        super()._check_first(batch, output)
        assert batch.targets is not None
        hidden = self.family.item_mask(batch.targets)  # soft targets too: a method may smooth them
        if hidden is not None and hidden.all():
            raise InputError(
                "objective 'masked_tokens': every position of 'labels' has a target, so the "
                "collator masked nothing. Use a masking collator such as transformers' "
                "DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)."
            )
