"""Test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import torch
from torch import Tensor

from whet import seeding
from whet.augmenting.fixed import FIXED, made
from whet.errors import InputError, NotApplicable
from whet.loading import in_order
from whet.method import Card, Layer, Method, Placement, by_settings, method
from whet.objectives.families import Family, family
from whet.predict import Predictor, Viewed, Views
from whet.training import Training


def over_views(
    model: Callable[[Tensor], Tensor], inputs: Tensor, views: Sequence[str] = ("flip",),
    kind: Family | None = None,
) -> Tensor:  # fmt: skip
    """The mean of the probabilities for inputs and their views, one forward each.

    Args:
        model: gives logits; in evaluation mode.
        inputs: `(N, ...)`.
        views: as `tta` has them, without functions.
        kind: the family (None: categorical).

    >>> x = torch.tensor([[[[4.0, 0.0]]]])
    >>> over_views(lambda x: x.flatten(1), x).tolist()      # softmax, of the mean logits too: 0.5
    [[0.5, 0.5]]
    """
    kind = kind or family("categorical")
    every = [inputs, *(view for text in views for view in made(text, inputs))]
    return torch.stack([kind.probabilities(model(view)) for view in every]).mean(0)


def _is_fixed(view: str) -> bool:
    return view.partition("=")[0] in FIXED


@method
class TTA(Method):
    r"""Judge the mean of the probabilities for each row and for views of it.

    $$p(y | x) = \frac{1}{K + 1} \Bigl( p_\theta(y | x)
    + \sum_{k=1}^{K} p_\theta(y | T_k(x)) \Bigr)$$

    Probabilities are averaged, not logits: one view that is sure of something else outweighs all
    others in a mean of logits. Training stays what it is. The views without chance, each with its
    default amount, a share of the side: `flip`, `vertical_flip`, `turn` (three quarter turns),
    `shift=0.0625` (four directions, a pixel at least), `crop=0.875` (the middle and the corners,
    scaled to the whole) for images, `time_shift=0.05` (earlier and later) for sounds; what comes
    in over an edge is reflected. Any other name is a resource of the task: a function
    `(inputs, generator) -> inputs` as FixMatch and `augment` have them, drawn as often as it
    stands in the list, always alike by a row's place in its batch, so that a prediction is the
    same whenever it is made; of several processes each has places of its own.

    A view must show what its target says: a digit that is mirrored does not. Where it does, gains
    come from views that training was augmented with, or that the data has by itself.

    Args:
        views: names, with amounts where wanted: `["flip", "shift=0.1", "weak", "weak"]`; none
            changes nothing.
        at: which inputs the views without chance change: `*` for all, a name or glob over the keys
            of a mapping (`image`), or a position.
        batched: all views in one forward, in K + 1 times its memory; false for one after another.

    Resources: a function for each name that is none of the views above.

    Shapes: inputs and outputs keep theirs.

    Cost: no pass in training; K + 1 forwards in prediction.

    Raises:
        InputError: a view is of another kind of input, or changes rows, shapes or targets; where
            there is a select part, before training.
        NotApplicable: words have targets of their own (objective `tokens`), from which a view
            without chance would move them.

    Paper: Shanmugam et al. 2021, arXiv:2011.11156.

    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    >>> with torch.no_grad():
    ...     probabilities = over_views(model, torch.rand(5, 1, 8, 8), ["flip", "shift"])
    """

    views: tuple[str, ...] = ("flip",)
    at: str = "*"
    batched: bool = True

    name: ClassVar[str] = "tta"
    layer: ClassVar[Layer] = Layer.PREDICTION
    needs: ClassVar[frozenset[str]] = by_settings(
        lambda one: frozenset(view for view in one.views if not _is_fixed(view))
    )
    placements: ClassVar[Placement] = Placement.OBSERVER
    # whoever makes several models: the views of a batch are made once for all of them
    outside: ClassVar[tuple[str, ...]] = ("ema", "snapshot", "swa", "temperature")
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"views": ()}
    card: ClassVar[Card] = Card(
        title="Test-time augmentation", paper="arXiv:2011.11156",
        cost="no pass in training, K + 1 forwards in prediction", tier=1, phase="after training",
        data="images or sounds; others with a view of the task's own",
        avoid_when="a view may show another thing than the target says (mirrored digits)",
        zh={
            "title": "测试时增强（TTA）", "cost": "训练不增加开销，预测需 K + 1 次前向传播",
            "phase": "训练之后", "data": "图像或音频；其他数据需任务自带视图函数",
            "avoid_when": "增强后的样本可能与标签不符（例如左右翻转的数字）",
        },
    )  # fmt: skip

    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind == "tokens" and any(_is_fixed(view) for view in self.views):
            raise NotApplicable(
                self.key, "the objective has a target for each word, and views that move words "
                "away from theirs have no mean. Use a view of the task's own that keeps places."
            )  # fmt: skip
        views, held = self._views(run), run.resources.get("select")
        if held is not None:
            with seeding.borrowed(), suppress(StopIteration):  # a mistake comes up before training
                views(next(in_order(held)).inputs)

    def predictor(self, run: Training, inner: Callable[[], Predictor]) -> Predictor:
        plain = inner()
        return Viewed(plain, self._views(run), batched=self.batched) if self.views else plain

    def _views(self, run: Training) -> Views:
        try:
            return Views(
                self.views, {name: run.resource(name, self) for name in self.needs}, self.at
            )
        except InputError as error:
            raise InputError(f"{self.key}: {error}") from None
