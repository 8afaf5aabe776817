"""CutMix."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import data, equal, make_model, make_stack, weights
from tests.methods.record_libraries import recorded
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import Clash, InputError, NotApplicable
from whet.methods.cutmix import Box, CutMix, cutmix, draw_box, pasted
from whet.methods.label_smoothing import LabelSmoothing, smooth
from whet.methods.mixup import MixUp
from whet.methods.moco import MoCo
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    CutMix(alpha=1.0, at="image"), accumulates="rows are mixed within their own micro-batch"
)

BATCHES = Batch.of(data()).split(6)
H, W = 7, 5
PIXELS = torch.randn(6, 2, H, W, generator=seeding.generator(3))
IMAGES = Batch(PIXELS, torch.tensor([0, 1, 2, 0, 1, 2]))


def passed(method: Any, batch: Batch, objective: str = "categorical", window: int = 0) -> Batch:
    """The batch that reaches the objective in the first micro-batch of a window."""
    stack = stack_of([method], objective)
    stack.run.objective._width, stack.run.window = 3, window
    seen: list[Batch] = []
    method.forward(stack.run, batch, seen.append)
    return seen[0]


def stack_of(methods: Any, objective: str = "categorical") -> Stack:
    seeding.seed_default(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * H * W, 3))
    return Stack(model, objective, methods, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def drawn(
    alpha: float, rows: int, run: Any = None, height: int = H, width: int = W
) -> tuple[Box, Tensor]:
    """Box and permutation as the method draws them at this position."""
    run, method = run or stack_of([]).run, CutMix(alpha)
    draws = random.Random(run.key(method))
    box = draw_box(height, width, draws.betavariate(alpha, alpha), draws)
    return box, torch.randperm(rows, generator=run.generator(method))


def kept(found: Tensor, given: Tensor) -> list[float]:
    """Share of each row's pixels that are still its own, counted."""
    same = (found == given).all(1)
    return same.double().mean((1, 2)).tolist()


def windows_that_cut(count: int = 10) -> list[int]:
    """Windows in which a box is drawn that is neither empty nor the whole image."""
    run, found = stack_of([]).run, []
    for run.window in range(60):
        box, _ = drawn(1.0, 6, run)
        if 0.0 < box.kept(H, W) < 1.0:
            found.append(run.window)
    return found[:count]


# the value -----------------------------------------------------------------------------------


def test_formula() -> None:
    x, y = np.arange(36.0, dtype=np.float32).reshape(3, 1, 3, 4), np.eye(3, dtype=np.float32)
    order, box = [2, 0, 1], Box(top=1, bottom=3, left=0, right=3)
    wanted = x.copy()
    wanted[:, :, 1:3, 0:3] = x[order][:, :, 1:3, 0:3]
    images, soft = cutmix(torch.tensor(x), torch.tensor(y), torch.tensor(order), box)
    assert np.array_equal(images, wanted)
    assert np.allclose(soft, 0.5 * y + 0.5 * y[order], atol=1e-6)  # 6 of 12 pixels


@pytest.mark.parametrize("share", [0.0, 0.19, 0.5, 0.75, 0.99, 1.0])
def test_the_boxs_area_before_clipping_is_one_less_lambda(share: float) -> None:
    """Sides floor(H sqrt(1-lambda)) and floor(W sqrt(1-lambda)), seen where nothing is clipped."""
    rows, columns = math.floor(20 * math.sqrt(1 - share)), math.floor(30 * math.sqrt(1 - share))
    sizes, draws = set(), random.Random(0)
    for _ in range(300):
        box = draw_box(20, 30, share, draws)
        assert 0 <= box.top <= box.bottom <= 20
        assert 0 <= box.left <= box.right <= 30
        sizes.add((box.bottom - box.top, box.right - box.left))
    assert max(sizes) == (rows, columns)


class Centred(random.Random):
    """Draws these, in the place of a centre."""

    def __init__(self, *values: int) -> None:
        super().__init__(0)
        self.values = list(values)

    def randrange(self, *args: Any, **kwargs: Any) -> int:
        return self.values.pop(0)


def test_equals_timms_boxes_and_shares() -> None:
    """As they were recorded for given centres, with odd sides and cut by the image's edges."""
    for share, y, x, top, bottom, left, right, kept in recorded("timm")["cutmix"]:
        box = draw_box(11, 13, share, Centred(y, x))
        assert list(box) == [top, bottom, left, right]
        assert box.kept(11, 13) == pytest.approx(kept)


def test_the_centre_is_uniform() -> None:
    draws, hits = random.Random(0), np.zeros((4, 5))
    for _ in range(8000):
        box = draw_box(4, 5, 1 - 1 / 16, draws)  # sides 1 and 1
        hits[box.top, box.left] += 1
    assert hits.sum() == 8000
    assert abs(hits / 8000 - 1 / 20).max() < 0.01


def test_the_method_draws_one_box_and_one_permutation() -> None:
    run = stack_of([]).run
    for window in windows_that_cut():
        run.window = window
        found = passed(CutMix(alpha=1.0), IMAGES, window=window)
        box, permutation = drawn(1.0, 6, run)
        x, y = cutmix(PIXELS, F.one_hot(IMAGES.targets, 3).float(), permutation, box)
        assert torch.equal(found.inputs, x)
        assert torch.allclose(found.targets, y)


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([CASE.method]), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = make_stack().run
    for run.window, batch in enumerate(BATCHES):
        stack.step(batch)
        box, permutation = drawn(1.0, batch.size, run, 4, 4)
        soft = F.one_hot(batch.targets, 3).float()
        image, soft = cutmix(batch.inputs["image"], soft, permutation, box)
        seeding.seed_default(run.position())
        optimizer.zero_grad()
        F.cross_entropy(call(model, batch.inputs | {"image": image}), soft).backward()
        optimizer.step()
    assert equal(weights(model), weights(stack.run.module))


def test_without_alpha_the_batch_goes_through_as_it_is() -> None:
    assert passed(CutMix(alpha=0.0), IMAGES) is IMAGES


# traps ---------------------------------------------------------------------------------------


class LambdaAsDrawn(CutMix):
    """Mixes the targets by the lambda that was drawn, whatever the image's edge cut off the box."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        share = random.Random(run.key(self)).betavariate(self.alpha, self.alpha)
        _, permutation = drawn(self.alpha, batch.size, run)
        soft = run.objective.family.mix(batch.targets, batch.targets[permutation], share, 6)
        return super().forward(run, batch, lambda mixed: inner(mixed.replace(targets=soft)))


@trap(right=CutMix, wrong=LambdaAsDrawn)
def test_a_labels_weight_is_the_share_of_pixels_kept(kind: type[CutMix]) -> None:
    """Counted in the images that come out, at every position."""
    run, rows = stack_of([]).run, torch.arange(6)
    one = torch.eye(6)  # a class for each row
    for run.window in windows_that_cut(20):
        seen: list[Batch] = []
        run.objective._width = 6
        method = kind(alpha=1.0)
        _, permutation = drawn(1.0, 6, run)
        method.forward(run, IMAGES.replace(targets=rows), seen.append)
        shares = torch.tensor(kept(seen[0].inputs, PIXELS))
        moved = permutation != rows
        wanted = torch.lerp(one[permutation], one, shares[:, None].float())
        assert torch.allclose(seen[0].targets[moved], wanted[moved], atol=1e-6)


def halved(height: int, width: int, share: float, draws: random.Random) -> Box:
    """The usual centre ± cut // 2: an odd side loses a pixel, and a side of 1 is none."""
    cut_h, cut_w = (math.floor(n * math.sqrt(1 - share)) // 2 for n in (height, width))
    y, x = draws.randrange(height), draws.randrange(width)
    return Box(max(y - cut_h, 0), min(y + cut_h, height), max(x - cut_w, 0), min(x + cut_w, width))


@trap(right=draw_box, wrong=halved)
def test_odd_sides_are_whole(draw: Any) -> None:
    """On an 8x8 image with lambda 3/4 + a bit, a box of 3x3 has 9 pixels and not 4."""
    draws, areas = random.Random(0), []
    for _ in range(400):
        box = draw(8, 8, 1 - 9.5 / 64, draws)
        areas.append((box.bottom - box.top) * (box.right - box.left))
    assert max(areas) == 9


class InPlace(CutMix):
    """for i, j in enumerate(perm): x[i, :, a:b, c:d] = x[j, :, a:b, c:d]."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        box, permutation = drawn(self.alpha, batch.size, run)
        x = batch.inputs
        for row, other in enumerate(permutation):
            place = (slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
            x[row][place] = x[other][place]
        soft = run.objective.family.mix(
            batch.targets, batch.targets[permutation], box.kept(H, W), 3
        )  # fmt: skip
        return inner(batch.replace(inputs=x, targets=soft))


@trap(right=CutMix, wrong=InPlace)
def test_never_in_place(kind: type[CutMix]) -> None:
    """A box that a row has been given must not wander on to the next; the data stay as they are."""
    run = stack_of([]).run
    for window in windows_that_cut():
        run.window = window
        batch = IMAGES.map(torch.clone)
        found = passed(kind(alpha=1.0), batch, window=window)
        box, permutation = drawn(1.0, 6, run)
        assert torch.equal(batch.inputs, PIXELS)
        assert torch.equal(found.inputs, pasted(PIXELS, permutation, box))


class OnTheLoss(CutMix):
    """lam * criterion(out, a) + (1 - lam) * criterion(out, b), beside a smoothing it never sees."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        box, permutation = drawn(self.alpha, batch.size, run)
        forward = inner(batch.replace(inputs=pasted(batch.inputs, permutation, box)))
        output, a, share = forward.output, batch.targets, box.kept(H, W)
        return forward.replace(
            losses=share * F.cross_entropy(output, a, reduction="none")
            + (1 - share) * F.cross_entropy(output, a[permutation], reduction="none")
        )


@trap(right=CutMix, wrong=OnTheLoss)
def test_composes_with_label_smoothing_in_a_stack(kind: type[CutMix]) -> None:
    window = windows_that_cut()[0]
    stack = stack_of([LabelSmoothing(0.1), kind(alpha=1.0)])
    stack.run.window = window
    model = stack_of([]).run.module
    box, permutation = drawn(1.0, 6, stack.run)
    x, y = cutmix(PIXELS, F.one_hot(IMAGES.targets, 3).float(), permutation, box)
    F.cross_entropy(model(x), smooth(y, 0.1, 3)).backward()
    stack.gradients(stack.window(IMAGES))
    assert torch.allclose(model[1].weight.grad, stack.run.module[1].weight.grad, atol=1e-7)


class WholeWindow(CutMix):
    """Draws once for all micro-batches of a window."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        micro, run.micro = run.micro, 0
        try:
            return super().forward(run, batch, inner)
        finally:
            run.micro = micro


@trap(right=CutMix, wrong=WholeWindow)
def test_each_micro_batch_draws_its_own(kind: type[CutMix]) -> None:
    run, method, seen = stack_of([]).run, kind(alpha=1.0), []
    run.objective._width, run.window = 3, windows_that_cut()[0]
    for run.micro in (0, 1):
        method.forward(run, IMAGES, seen.append)
    assert not torch.equal(seen[0].inputs, seen[1].inputs)


class Unclaimed(CutMix):
    """Mixes beside MixUp: a row is then of up to four others and its label says otherwise."""

    owns = frozenset()


class UnclaimedMixUp(MixUp):
    owns = frozenset()


@trap(right=[CutMix(), MixUp()], wrong=[Unclaimed(), UnclaimedMixUp()])
def test_mixup_and_cutmix_never_act_together_in_silence(pair: Any) -> None:
    message = ""
    try:
        stack_of(pair)
    except Clash as error:
        message = str(error)
    assert "both claim the input mixing" in message


# rows without a target -----------------------------------------------------------------------


class IgnoresMask(CutMix):
    """Permutes all rows, so that labelled rows take in targets that are none."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        mask = batch.mask
        return super().forward(
            run, batch.replace(mask=None), lambda mixed: inner(mixed.replace(mask=mask))
        )


@trap(right=CutMix, wrong=IgnoresMask)
def test_rows_without_a_target_stay_to_the_bit(kind: type[CutMix]) -> None:
    mask, window = torch.tensor([True, False, True, True, False, True]), windows_that_cut()[0]
    odd = PIXELS.clone()
    odd[1] = float("nan")  # what no label belongs to may be anything, and must reach nobody
    found = passed(kind(alpha=1.0), IMAGES.replace(inputs=odd, mask=mask), window=window)
    assert torch.equal(found.inputs[4], PIXELS[4])
    assert found.inputs[1].isnan().all()
    alone = passed(CutMix(alpha=1.0), IMAGES.take(mask), window=window)
    assert torch.equal(found.inputs[mask], alone.inputs)
    assert torch.equal(found.targets[mask], alone.targets)
    assert torch.equal(found.mask, mask)


def test_what_stands_for_a_missing_target_may_be_anything() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    odd = IMAGES.replace(mask=mask, targets=IMAGES.targets.masked_fill(~mask, -100))
    assert torch.isfinite(passed(CutMix(alpha=1.0), odd).targets).all()
    nothing = IMAGES.replace(targets=None)
    assert passed(CutMix(alpha=1.0), nothing) is nothing


# inputs and targets of every kind ------------------------------------------------------------


def test_at_names_what_is_mixed() -> None:
    window = windows_that_cut()[0]
    nest = {"a": {"x": PIXELS, "ids": torch.arange(6)}, "b": (PIXELS, -PIXELS)}
    found = passed(CutMix(alpha=1.0, at="a.x"), IMAGES.replace(inputs=nest), window=window).inputs
    assert torch.equal(found["a"]["ids"], torch.arange(6))
    assert torch.equal(found["b"][0], PIXELS)
    assert not torch.equal(found["a"]["x"], PIXELS)
    found = passed(CutMix(alpha=1.0, at="b"), IMAGES.replace(inputs=nest), window=window).inputs
    assert torch.equal(found["a"]["x"], PIXELS)
    assert torch.equal(found["b"][0], -found["b"][1])  # one box for all
    assert not torch.equal(found["b"][0], PIXELS)


def test_a_name_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match=r"no input matches at='imgae'; .*: tokens, floats, image"):
        passed(CutMix(at="imgae"), BATCHES[0])


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 9)])
def test_inputs_without_two_spatial_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    wanted = rf"the input has shape \({', '.join(map(str, shape))}\); .* are none, use mixup"
    with pytest.raises(InputError, match=wanted):
        passed(CutMix(), IMAGES.replace(inputs=torch.zeros(shape)))


def test_an_input_that_is_no_image_is_named_among_others() -> None:
    with pytest.raises(InputError, match=r"input 'tokens' has shape \(6, 5\).* by at=\.\.\., or"):
        passed(CutMix(), BATCHES[0])


def test_inputs_of_several_sizes_have_no_one_share() -> None:
    inputs = (PIXELS, torch.zeros(6, 1, 3, 3))
    with pytest.raises(InputError, match=r"differ in height and width \(0 \(7, 5\), 1 \(3, 3\)\)"):
        passed(CutMix(), IMAGES.replace(inputs=inputs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8, torch.bool])
def test_any_dtype_is_pasted_and_kept(dtype: torch.dtype) -> None:
    given = (PIXELS * 3).to(dtype)
    window = windows_that_cut()[0]
    found = passed(CutMix(alpha=1.0), IMAGES.replace(inputs=given), window=window)
    run = stack_of([]).run
    run.window = window
    box, permutation = drawn(1.0, 6, run)
    assert found.inputs.dtype == dtype
    assert torch.equal(found.inputs, pasted(given, permutation, box))


def test_frames_of_a_video_share_the_box() -> None:
    video = PIXELS[:, :, None].repeat(1, 1, 4, 1, 1)
    window = windows_that_cut()[0]
    found = passed(CutMix(alpha=1.0), IMAGES.replace(inputs=video), window=window).inputs
    alone = passed(CutMix(alpha=1.0), IMAGES, window=window).inputs
    assert torch.equal(found, alone[:, :, None].expand_as(video))


def test_reals_and_labels_are_mixed() -> None:
    window, run = windows_that_cut()[0], stack_of([]).run
    run.window = window
    box, permutation = drawn(1.0, 6, run)
    share, reals = box.kept(H, W), torch.arange(6.0)
    found = passed(CutMix(alpha=1.0), IMAGES.replace(targets=reals), "real", window).targets
    assert torch.allclose(found, reals * share + reals[permutation] * (1 - share))
    labels = torch.eye(3, dtype=torch.long).repeat(2, 1)
    found = passed(CutMix(alpha=1.0), IMAGES.replace(targets=labels), "multi-label", window).targets
    assert torch.allclose(found, labels * share + labels[permutation] * (1 - share))


@pytest.mark.parametrize("objective", ["tokens", "masked_tokens", "contrastive"])
def test_does_not_apply_where_targets_have_no_mixture(objective: str) -> None:
    methods = [MoCo(dim=2), CutMix()] if objective == "contrastive" else [CutMix()]
    with pytest.raises(NotApplicable, match=r"cutmix does not apply: .* mix"):
        Stack(
            nn.Linear(4, 3), objective, methods, data=torch.ones(4, 4),
            resources={"view": lambda x, g: x},
        )  # fmt: skip


def test_a_class_out_of_range_is_named() -> None:
    bad = IMAGES.replace(targets=torch.tensor([0, 1, 7, 0, 1, 2]))
    with pytest.raises(InputError, match="targets out of range"):
        stack_of([CutMix(alpha=1.0)]).step([bad])
