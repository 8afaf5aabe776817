"""Temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from whet import evaluation, scores
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.loading import in_order
from whet.method import Card, Layer, Method, Placement, method
from whet.objectives.families import Family, family
from whet.predict import Calibrated, Predictor
from whet.settings import number
from whet.training import Training
from whet.world import World


def fit_temperature(
    logits: Tensor, targets: Tensor, kind: Family | None = None, limit: float = 100.0
) -> float:
    """The T that minimises the mean loss of `logits / T`, within [1/limit, limit].

    Args:
        logits: `(N, C)` of rows that the model was not trained on.
        targets: classes `(N,)`, or what the family wants.
        kind: the family (None: categorical).
        limit: where all rows are right, the best T would be 0.

    >>> z = torch.tensor([[4.0, 0.0]] * 4)      # sure of what is right three times of four
    >>> round(fit_temperature(z, torch.tensor([0, 0, 0, 1])), 4)        # 4 / log 3
    3.641
    """
    kind, most = kind or family("categorical"), math.log(limit)
    z, log = logits.detach().double(), torch.zeros((), dtype=torch.float64, requires_grad=True)
    targets = targets.double() if targets.is_floating_point() else targets
    # strong Wolfe: without it, at the small fixed rate that is usual, it stops on the way
    search = torch.optim.LBFGS(
        [log], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        search.zero_grad()
        value = kind.losses(z / log.clamp(-most, most).exp(), targets).mean()
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    return math.exp(min(max(log.item(), -most), most))


def calibrated(
    plain: Predictor, held: Iterable[Batch], limit: float = 100.0, world: World | None = None
) -> tuple[Calibrated, dict[str, float]]:
    """A predictor at its best temperature; that, and its calibration error before and after.

    Raises:
        InputError: there is no row with a target, or logits are not finite.
    """
    logits, targets = evaluation.predict(plain, held, world, logits=True)
    z, y = torch.from_numpy(logits), torch.as_tensor(targets)
    if not z.isfinite().all():
        raise InputError(
            "the model's logits of the select part are not finite, so that no temperature fits "
            "them. See why training diverged."
        )
    found = Calibrated(plain, fit_temperature(z, y, _of_items(plain.family), limit))
    return found, {
        "temperature": found.temperature,
        "ece_before": _error(plain.family, z, targets),
        "ece_after": _error(plain.family, z / found.temperature, targets),
    }


@method
class TemperatureScaling(Method):
    r"""Divide the judged logits by the one T that makes held-out rows likeliest.

    $$T = \arg\min_{T > 0} \; \frac{1}{n} \sum_i -\log \mathrm{softmax}(z_i / T)_{y_i}, \qquad
    p(y | x) = \mathrm{softmax}(z / T)$$

    over the select part, which training does not see; the judge part is never looked at. The
    search is over log T, by L-BFGS with a line search (strong Wolfe). Training and the likeliest
    class stay what they are; what changes is how sure the model is. T is found for the weights
    that are judged, of an ensemble for the mean of its members, each time they are judged, and is
    exported with them. On the select part itself losses and calibration errors come out a little
    too good.

    The log tells T and the calibration error (15 bins, each without its lower edge) on the select
    part before and after.

    Resources: `select`, held-out data with targets; a run takes its task's select part.

    Args:
        limit: the largest T, from 1, and one over the smallest: where every row of the select part
            is right, the likeliest T is 0. 1 changes nothing.

    Shapes: logits as the objective has them; a label or a token is scaled as a row is.

    Cost: no pass in training; a forward of the select part whenever the model is judged.

    Raises:
        InputError: there is no select part.
        NotApplicable: the targets are reals or embeddings.

    Paper: Guo et al. 2017, arXiv:1706.04599.

    >>> logits, labels = torch.randn(50, 3), torch.randint(3, (50,))       # held out
    >>> temperature = fit_temperature(logits, labels)
    >>> probabilities = (torch.randn(2, 3) / temperature).softmax(-1)
    """

    limit: float = number(100.0, 1.0)

    name: ClassVar[str] = "temperature_scaling"
    layer: ClassVar[Layer] = Layer.PREDICTION
    needs: ClassVar[frozenset[str]] = frozenset({"select"})
    placements: ClassVar[Placement] = Placement.OBSERVER
    # whoever chooses or averages what is judged: the result is calibrated, not its parts
    outside: ClassVar[tuple[str, ...]] = ("ema", "snapshot", "swa", "temperature", "tta")
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"limit": 1.0}
    card: ClassVar[Card] = Card(
        title="Temperature scaling", paper="arXiv:1706.04599",
        cost="no pass in training, a forward of the select part per evaluation", tier=1,
        phase="after training", data="classes",
        avoid_when="only the likeliest class counts, or the select part has very few rows",
        zh={
            "title": "温度校准（Temperature Scaling）",
            "cost": "训练不增加开销，每次评估对验证部分做一次前向传播",
            "phase": "训练之后", "data": "分类任务",
            "avoid_when": "只关心最可能的类别，或验证部分样本极少",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._found: dict[str, float] = {}

    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind in ("real", "embedding"):
            raise NotApplicable(
                self.key, f"objective '{kind}' has no probabilities to calibrate. Leave it out, or "
                "use objective 'categorical', 'multi-label' or 'tokens'."
            )  # fmt: skip

    def predictor(self, run: Training, inner: Callable[[], Predictor]) -> Predictor:
        plain = inner()
        if self.limit == 1.0:
            return plain
        held = in_order(run.resource("select", self))
        try:
            found, self._found = calibrated(plain, held, self.limit, run.world)
        except InputError as error:
            raise InputError(f"{self.key}: {error}") from None
        return found

    def readings(self) -> Mapping[str, float]:
        return self._found


def _of_items(kind: Family) -> Family:
    """Tokens come one by one, without those to ignore: each is classified as a row is."""
    return family("categorical") if kind.name == "tokens" else kind


def _error(kind: Family, logits: Tensor, targets: Any) -> float:
    return float(scores.ece(kind.probabilities(logits).numpy(), targets))
