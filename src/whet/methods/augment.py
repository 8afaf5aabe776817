"""Training on augmented rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from whet import augmenting
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, by_settings, method
from whet.settings import choice, number
from whet.training import Training


@method
class Augment(Method):
    r"""Train on a random view of each row, under the row's own target.

    $$L = \frac1N \sum_i \ell\bigl(f(T_{\omega_i}(x_i)), y_i\bigr)$$

    with ω drawn for each row by itself, by the position in training: neither workers nor other
    draws change it, and a resumed run sees the same views. What is judged, and the rows of the
    select and judge parts, stay as they are. The sets `weak` and `strong` are those of
    `whet.augmenting`, which also gives them as views for FixMatch and MoCo: `augmenting.images`.
    With `kind="view"` it trains on a view of the task's own, among them FixMatch's: strong
    augmentation alone is the control that FixMatch's gain is to be held against.

    How much is right depends on the data: with too much, rows no longer show what their targets
    say and can only be learned by heart. So compare strengths: `augment:strength=0.3|0.6`.

    Args:
        kind: `images`, `spectrograms`, `waveforms`, `tokens`, `table`, or `view`.
        policy: `weak` or `strong`.
        strength: in [0, 1]; 0 changes nothing. What it means stands with each kind in
            `whet.augmenting`; a `view` is taken as it is.
        flip: whether images may be mirrored; False where that makes another thing of them.
        padding: of tokens, its id.
        special: of tokens, ids that stay where they are.
        std: of a table's numbers, a column's deviation; 1 for standardised ones.
        view: the resource that `kind="view"` takes.
        at: which inputs: `*` for all, or a name or glob over the keys of a mapping (`image`), or
            the positions of a tuple (`0`).

    Resources: `valid_range`, if there is one, is what strong images are clipped to; with
    `kind="view"`, a function `(inputs, generator) -> inputs` under the name `view`.

    Shapes: inputs keep theirs, and their rows.

    Cost: no pass; a few copies of the augmented inputs.

    Raises:
        InputError: an input is of another kind, or `at` matches none; a view changes the number of
            rows.
        NotApplicable: words have targets of their own (objective `tokens`), which would be lost.

    Paper: Cubuk et al. 2020, arXiv:1909.13719 (images); Park et al. 2019, arXiv:1904.08779
    (sounds); Wei & Zou 2019, arXiv:1901.11196 (words).

    >>> view = augmenting.images("strong", strength=0.5)
    >>> x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 1, 0])
    >>> x = view(x, torch.Generator().manual_seed(0))       # in training only; y stays
    """

    kind: str = choice("images", *augmenting.KINDS, "view")
    policy: str = choice("weak", "weak", "strong")
    strength: float = number(0.5, 0.0, 1.0)
    flip: bool = choice(True, True, False)
    padding: int = number(0, 0, whole=True)
    special: tuple[int, ...] = number((), 0, whole=True, several=True)
    std: float = number(1.0, 0.0, open_low=True)
    view: str = "strong"
    at: str = "*"

    name: ClassVar[str] = "augment"
    layer: ClassVar[Layer] = Layer.BATCH_SOURCE
    needs: ClassVar[frozenset[str]] = by_settings(
        lambda one: frozenset({one.view} if one.kind == "view" else ())
    )
    outside: ClassVar[tuple[str, ...]] = ("fixmatch",)  # whose unlabelled rows have views of theirs
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"strength": 0.0}
    card: ClassVar[Card] = Card(
        title="Augmentation, weak or strong", paper="arXiv:1909.13719", cost="no pass", tier=1,
        phase="whole training", data="images, sounds, words or tables",
        avoid_when="a view may show another thing than the target says (mirrored digits)",
        zh={
            "title": "数据增强（弱增强或强增强）", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "图像、音频、文本或表格",
            "avoid_when": "增强后的样本可能与标签不符（例如左右翻转的数字）",
        },
    )  # fmt: skip

    def build(self, run: Training) -> None:
        if self.kind == "tokens" and run.objective.family.name == "tokens":
            raise NotApplicable(
                self.key, "the objective has a target for each word, and a word that is moved or "
                "left out would lose its own. Leave it out, or use a view that keeps places."
            )  # fmt: skip
        if self.kind == "view" and not callable(run.resource(self.view, self)):
            raise InputError(
                f"{self.key}: resource {self.view!r} is no function (inputs, generator) -> inputs."
            )

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.strength == 0.0:
            return inner(batch)
        inputs = self.made(run)(batch.inputs, run.generator(self))
        rows = Batch(inputs).size
        if rows != batch.size:
            raise InputError(
                f"{self.key}: resource {self.view!r} made {rows} rows of {batch.size}; a view must "
                "keep the rows."
            )
        return inner(batch.replace(inputs=inputs))

    def made(self, run: Training) -> Callable[[Any, torch.Generator], Any]:
        """The view that is trained on."""
        if self.kind == "view":
            given: Callable[[Any, torch.Generator], Any] = run.resource(self.view, self)
            return given
        return augmenting.View(
            self.kind, self.policy, self.strength, self.at, self.flip,
            run.resources.get("valid_range"), self.padding, self.special, self.std,
        )  # fmt: skip
