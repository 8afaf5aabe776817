"""FixMatch: confident pseudo-labels of a weak view teach the strong view."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from whet import objectives
from whet.batch import Batch, leaves
from whet.errors import InputError, NotApplicable
from whet.forward import Forward, Term
from whet.method import Card, InnerForward, Layer, Method, Resource, method
from whet.objectives.families import Family, family
from whet.objectives.objective import Objective
from whet.settings import choice, number
from whet.training import Training


def pseudo_labels(
    output: Tensor, threshold: float = 0.95, kind: Family | None = None
) -> tuple[Tensor, Tensor]:
    """Hard labels of an output and where they are confident; nothing of it carries a gradient.

    Args:
        output: logits `(N, C)`.
        threshold: confidence from which a label counts, in [0, 1].
        kind: categorical (None), or multi-label, where each label has a confidence of its own.

    Returns:
        categorical: classes `(N,)` and bool `(N,)`; multi-label: 0/1 `(N, C)` and bool `(N, C)`.

    >>> labels, confident = pseudo_labels(torch.tensor([[9.0, 0.0], [0.1, 0.0]]))
    >>> labels.tolist(), confident.tolist()
    ([0, 0], [True, False])
    """
    kind = kind or family("categorical")
    p = kind.probabilities(output.detach().float())
    if kind.name == "multi-label":
        return (p > 0.5).float(), torch.maximum(p, 1 - p) >= threshold
    best, labels = p.max(-1)
    return labels, best >= threshold


def fix_match_losses(
    strong: Tensor, labels: Tensor, confident: Tensor, objective: Objective | None = None
) -> Tensor:
    """Losses `(N,)` of the strong view's logits `(N, C)`; zero where the label is not confident.

    Their mean is over all rows, those without a confident label included.

    >>> weak, strong = torch.randn(2, 6, 3)
    >>> fix_match_losses(strong, *pseudo_labels(weak, 0.95)).mean().shape
    torch.Size([])
    """
    objective = objective or objectives.make("categorical")
    if labels.ndim == 2 and confident.ndim == 2:  # multi-label: each label counts by itself
        each = objective.losses(strong.reshape(-1, 1), labels.reshape(-1, 1)).view(strong.shape)
        return torch.where(confident, each, each.new_zeros(())).mean(1)
    each = objective.losses(strong, labels)
    return torch.where(confident, each, each.new_zeros(()))


def interleaved(rows: int, chunks: int) -> Tensor:
    """The order `(rows,)` that deals the rows out to `chunks` chunks of equal size.

    >>> interleaved(6, 3).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return torch.arange(rows).view(-1, chunks).T.reshape(-1)


@method
class FixMatch(Method):
    """Train the strong view of an unlabelled row on the confident label of its weak view.

    $$L = L_x + \\frac{w}{\\mu B} \\sum_{b=1}^{\\mu B}
    1[\\max p_b \\ge \\tau]\\, H(\\arg\\max p_b,\\ f(\\mathrm{strong}(u_b))),
    \\quad p_b = f(\\mathrm{weak}(u_b))$$

    The mean is over all unlabelled rows, so the term grows as the model becomes sure. Labelled,
    weak and strong rows go through the model in one forward and dealt out, as in the official
    code: every chunk that normalises by itself (ghost batch normalisation, data parallelism) then
    sees all three kinds, where separate forwards would move the running statistics three times and
    leave those of the strong view last. Labels come from the weights that are trained; an EMA
    beside it is for evaluation only. The labelled rows are as the loader gives them: give it the
    weak augmentation.

    For multi-label targets each label counts where p or 1 - p reaches the threshold. Methods
    inside see unlabelled rows as rows without a target (`Batch.mask`), with index -1; what they add
    per row is a mean over all rows of the joint forward.

    Args:
        threshold: tau in [0, 1].
        mu: unlabelled rows per labelled row, from 0 (off).
        weight: w, from 0.
        control: train on strong views of the *labelled* rows, under their own targets, in place of
            the unlabelled ones: what strong augmentation gives by itself, at the same cost.

    Resources: `unlabelled` rows shaped as the labelled ones; `weak` and `strong`, functions
    `(inputs, generator) -> inputs`.

    Cost: 1 forward and backward of (1 + 2 mu) times the rows.

    Raises:
        NotApplicable: the objective is neither categorical nor multi-label.
        InputError: a view changes the number of rows, or unlabelled rows do not fit the labelled.

    Paper: Sohn et al. 2020, arXiv:2001.07685.

    >>> weak, strong = torch.randn(2, 6, 3, requires_grad=True)     # logits of both views
    >>> labels, confident = pseudo_labels(weak, threshold=0.95)
    >>> loss = fix_match_losses(strong, labels, confident).mean()
    """

    threshold: float = number(0.95, 0.0, 1.0)
    mu: int = number(7, 0, whole=True)
    weight: float = number(1.0, 0.0)
    control: bool = choice(False, False, True)

    name: ClassVar[str] = "fixmatch"
    layer: ClassVar[Layer] = Layer.BATCH_SOURCE
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.UNLABELLED_STREAM})
    needs: ClassVar[frozenset[str]] = frozenset({"unlabelled", "weak", "strong"})
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"mu": 0}
    card: ClassVar[Card] = Card(
        title="FixMatch", paper="arXiv:2001.07685", cost="1 + 2 mu times the rows", tier=1,
        phase="late training", data="unlabelled rows, weak and strong views",
        avoid_when="the model is rarely sure or often wrong; compare with control=True",
        zh={
            "title": "半监督学习（FixMatch）", "cost": "每步样本数变为原来的 1 + 2μ 倍",
            "phase": "训练后期", "data": "无标签样本，以及弱增强和强增强视图",
            "avoid_when": "模型很少有把握或经常出错；请与 control=True 对照",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._sure: Tensor | None = None  # on the device: reading it each update would wait
        self._of = 0

    @property
    def rate(self) -> float:
        """Share of pseudo-labels that were confident in the last update; NaN before the first."""
        return float("nan") if self._sure is None else float(self._sure) / self._of

    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind not in ("categorical", "multi-label"):
            raise NotApplicable(
                self.key,
                f"objective '{kind}' has no labels to be sure of, only 'categorical' and "
                "'multi-label' have. Use a consistency method (R-Drop) on the unlabelled rows.",
            )

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.mu == 0 or (self.control and batch.targets is None):
            return inner(batch)
        n, more = batch.size, self.mu * batch.size
        drawn = (
            Batch.join([batch] * self.mu) if self.control else run.draw("unlabelled", more, self)
        )
        views = [self._view(run, name, drawn.inputs, batch, more) for name in ("weak", "strong")]
        joint = Batch.join([batch.replace(indices=None), *views])
        if batch.indices is not None:  # -1: the rows of another data set have no place in this one
            joint = joint.replace(indices=_pad(batch.indices, 2 * more))
        order = interleaved(joint.size, 2 * self.mu + 1).to(batch.device)
        forward = inner(joint.take(order))
        if len(forward.output) != joint.size:
            raise InputError(
                f"{self.key}: a method inside gave {len(forward.output)} rows for {joint.size}; "
                "it must give back the rows it was given."
            )
        back = order.argsort()
        output = forward.output[back]
        labels, sure = self._labels(run, drawn, output[n : n + more])
        values = fix_match_losses(output[n + more :], labels, sure, run.objective)
        run.stage(self, (sure.sum(), sure.numel()))
        labelled = _rows(forward, back[:n], n / joint.size)
        return labelled.add("fixmatch", values, per="rows", weight=self.weight / self.mu)

    def after_update(self, run: Training) -> None:
        if staged := run.staged(self):
            self._sure = torch.stack([sure for sure, _ in staged]).sum()
            self._of = sum(of for _, of in staged)

    def _view(self, run: Training, name: str, inputs: Any, batch: Batch, rows: int) -> Batch:
        view = Batch(run.resource(name, self)(inputs, run.generator(self, name)))
        if view.size != rows:
            raise InputError(
                f"{self.key}: resource {name!r} made {view.size} rows of {rows}; a view must keep "
                "the rows."
            )
        here, there = _shapes(batch), _shapes(view)
        if here != there:
            raise InputError(
                f"{self.key}: labelled rows are {here} and the {name} view of unlabelled rows "
                f"{there}; they go through the model together, so names, shapes and dtypes must "
                "agree. Pad sequences to one length."
            )
        return view

    def _labels(self, run: Training, drawn: Batch, weak: Tensor) -> tuple[Tensor, Tensor]:
        kind = run.objective.family
        if not self.control:
            return pseudo_labels(weak, self.threshold, kind)
        assert drawn.targets is not None
        labels, known = drawn.targets, drawn.rows_with_target()
        return labels, known[:, None].expand(weak.shape) if kind.name == "multi-label" else known

    def state_dict(self) -> dict[str, Any]:
        return {"sure": self._sure, "of": self._of}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sure, self._of = state["sure"], state["of"]


def _shapes(batch: Batch) -> dict[str, tuple[Any, ...]]:
    return {path: (*one.shape[1:], str(one.dtype)) for path, one in leaves(batch.inputs)}


def _pad(indices: Tensor, more: int) -> Tensor:
    return torch.cat([indices, indices.new_full((more,), -1)])


def _rows(forward: Forward, rows: Tensor, share: float) -> Forward:
    # the window's `rows` counts labelled rows, and what was added per row has all rows of the joint
    # forward: without the share a method inside would weigh 1 + 2 mu times what its user gave
    def fair(term: Term) -> Term:
        return replace(term, weight=term.weight * share) if term.per == "rows" else term

    def some(tensor: Tensor) -> Tensor:
        return tensor[rows]

    return forward.replace(
        batch=forward.batch.take(rows), output=some(forward.output), losses=some(forward.losses),
        mask=None if forward.mask is None else some(forward.mask),
        logits=None if forward.logits is None else some(forward.logits),
        terms=tuple(map(fair, forward.terms)),
    )  # fmt: skip
