r"""FixRes: the last layers tuned to the size of a test, and the training at that size beside it.

A network that was trained on crops of size $s$ is tested better at a larger $r$, because random
crops make objects look larger than a test does; but at $r$ the activations that reach the
classifier are distributed otherwise. FixRes trains at $s$ and then tunes the classifier and the
batch normalisation before it, in the view of the test at $r$; all else stands still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from whet import modes
from whet.errors import InputError, UnknownName
from whet.forward import Window
from whet.method import InnerWindow, Layer, Method, method
from whet.stage import Recipe, Stage
from whet.training import Training

SGD: Mapping[str, Any] = {"name": "sgd", "lr": 1e-3, "momentum": 0.9}
SHARE = 0.25  # of the training's length, that is tuned
FORWARD = 1 / 3  # of an update's work, where the backward stops at the last layers


@method
class TunesOnly(Method):
    """All stands still but the named modules; everything else is in evaluation mode.

    `Stage.freeze` stops parameters, and puts modules that have any into evaluation mode. A dropout
    and a batch normalisation without parameters are not among them, and the statistics of one that
    is frozen would stand still.

    Args:
        tuned: names of the modules that train.
        follow: names of batch normalisations that keep their parameters, and learn statistics.
    """

    name: ClassVar[str] = "tunes_only"
    layer: ClassVar[Layer] = Layer.BATCH_SOURCE  # the outermost: other methods' passes are within

    tuned: Sequence[str] = ()
    follow: Sequence[str] = ()

    def build(self, run: Training) -> None:
        kept = {id(p) for m in _within(run.module, self.tuned) for p in m.parameters()}
        for parameter in run.module.parameters():
            if id(parameter) not in kept:
                parameter.requires_grad_(False)

    def step(self, run: Training, window: Window, inner: InnerWindow) -> None:
        moving = _within(run.module, [*self.tuned, *self.follow])
        before = [(module, module.training) for module in run.module.modules()]
        try:
            for module, _ in before:
                module.training = module in moving
            inner(window)
        finally:
            for module, training in before:
                module.training = training


def _within(model: nn.Module, names: Sequence[str]) -> set[nn.Module]:
    return {module for name in names for module in model.get_submodule(name).modules()}


def fixres(
    model: nn.Module, stage: Stage, train: Any, test: Any, *, classifier: str | None = None,
    norm: str | None = None, affine: bool = True, share: float = SHARE,
    optimizer: Any = SGD, schedule: Any = None,
) -> Recipe:  # fmt: skip
    r"""A recipe of two stages: training as it is, and the last layers tuned as they are tested.

    $$\min_{W, \gamma, \beta} \; L(W\,\mathrm{BN}_{\gamma,\beta}(\phi(x_r))), \qquad \phi \text{
    trained on } x_s$$

    Args:
        model: the task's, for the names of its layers.
        stage: the training at the small size.
        train: its data: crops of size s, or images that a method of the stage crops.
        test: the same rows as a test sees them at size r, without augmentation.
        classifier: name of the last layer; found where the model lists its layers in order.
        norm: name of the batch normalisation before it, of which the statistics follow; `""` for
            none.
        affine: whether its scale and shift are tuned too.
        share: length of the tuning as a share of the stage's, above 0.
        optimizer: of the tuning; the paper's SGD with a rate of 1e-3 by default.
        schedule: of the tuning.

    Cost: `share` times the updates, of a forward at size r and a backward of two layers.

    Raises:
        InputError: no such layer; a setting out of its range; before anything is trained.

    Paper: Touvron et al. 2019, arXiv:1906.06423.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
    ...                       nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> labels, small, large = torch.zeros(8).long(), torch.rand(8, 1, 6, 6), torch.rand(8, 1, 9, 9)
    >>> recipe = fixres(model, Stage(updates=40), (small, labels), (large, labels))
    >>> recipe.stages[1].updates, recipe.stages[1].methods
    (10, [tunes_only(tuned=['5', '1'], follow=[])])
    """
    classifier, norm = last_layers(model, classifier, norm)
    norms = [norm] if norm else []
    only = TunesOnly([classifier, *norms], []) if affine else TunesOnly([classifier], norms)
    last = Stage(
        **_length(stage, share), batch_size=stage.batch_size, accumulate=stage.accumulate,
        micro_batch=stage.micro_batch, objective=stage.objective, workers=stage.workers,
        optimizer=optimizer, schedule=schedule, data=test, methods=[only],
        starts_from="evaluation",
    )  # fmt: skip
    return Recipe([replace(stage, data=train), last])


def control(stage: Stage, test: Any, *, sizes: tuple[int, int], share: float = SHARE) -> Stage:
    r"""Training at the test's size from the start, for as much work as `fixres` takes.

    $$U_r = U_s \left( (s/r)^2 + \tfrac13\,\mathrm{share} \right)$$

    for the work of a convolution grows with the pixels, and a forward is a third of an update.

    Args:
        stage: the training at the small size.
        test: data at size r: crops of that size, or images that a method of the stage crops.
        sizes: s and r, the sides in pixels.
        share: as given to `fixres`; 0 for the work of the training at s alone.

    Raises:
        InputError: sizes or share out of range.

    >>> control(Stage(updates=400), None, sizes=(24, 32), share=0.0).updates
    225
    """
    small, large = sizes
    if not 0 < small <= large or share < 0.0:
        raise InputError(f"sizes={sizes} must satisfy 0 < s <= r, and share={share} be 0 or more.")
    return replace(stage, **_length(stage, (small / large) ** 2 + FORWARD * share), data=test)


def _length(stage: Stage, share: float) -> dict[str, Any]:
    if share <= 0.0:
        raise InputError(f"share={share} of the training's length: it must be above 0.")
    if stage.updates is not None:
        return {"updates": max(1, round(share * stage.updates)), "epochs": None}
    assert stage.epochs is not None
    return {"epochs": share * stage.epochs, "updates": None}


def last_layers(
    model: nn.Module, classifier: str | None = None, norm: str | None = None
) -> tuple[str, str]:
    """Names of the classifier, and of the batch normalisation before it; `""` where there is none.

    Where they are not given, the last Linear in the model's own list of its layers is taken, and
    the last batch normalisation that stands before it there.

    Raises:
        InputError: there is no Linear, or nothing of a name that was given.
    """
    names = dict(model.named_modules())
    for given in (classifier, norm):
        if given and given not in names:
            raise UnknownName("layer", given, [name for name in names if name])
    if classifier is None:
        linear = [name for name, module in names.items() if isinstance(module, nn.Linear)]
        if not linear:
            raise InputError("the model has no Linear layer to tune: give classifier=NAME.")
        classifier = linear[-1]
    if norm is None:
        order = list(names)
        before = [n for n in modes.batch_norms(model) if order.index(n) < order.index(classifier)]
        norm = before[-1] if before else ""
    return classifier, norm
