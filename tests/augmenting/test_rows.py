"""Augmented sounds, words and tables, and views made of what others wrote."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as theirs
import numpy as np
import pytest
import torch
from kornia.augmentation.auto import RandAugment
from torch import Tensor

from tests.methods.traps import trap
from whet import seeding
from whet.augmenting import (
    back_translation,
    seeded,
    sounds,
    spectrograms,
    table,
    tables,
    tokens,
    waveforms,
    words,
)
from whet.errors import InputError

MAKER = seeding.generator
TEXTS = torch.tensor([[1, 5, 6, 7, 8, 9, 2, 0, 0], [1, 4, 2, 0, 0, 0, 0, 0, 0]])  # 1, 2: special
SPECIAL = (1, 2)
MANY = torch.tensor([[1, *range(10, 30), 2, 0, 0, 0]]).repeat(500, 1)


# sounds --------------------------------------------------------------------------------------


def test_masks_are_bands_and_stretches_in_the_mean() -> None:
    given = torch.randn(200, 16, 40, generator=MAKER(1))
    found = sounds.masked(given, bands=0.25, times=0.2, count=1, generator=MAKER(0))
    gone = (found != given).numpy()
    mean = given.numpy().mean((1, 2))
    for row, old, new, m in zip(gone, given.numpy(), found.numpy(), mean, strict=True):
        bands, times = row.all(1), row.all(0)
        assert bands.sum() <= 4
        assert times.sum() <= 8
        assert np.array_equal(row, bands[:, None] | times[None])
        assert np.allclose(new, np.where(row, m, old), atol=1e-6)
    assert gone.any((1, 2)).mean() > 0.9


def test_spectrograms_of_several_channels_are_masked_alike() -> None:
    given = torch.randn(20, 2, 8, 10, generator=MAKER(1))
    found = spectrograms("strong", 1.0)(given, MAKER(0))
    assert found.shape == given.shape
    flat = sounds.masked(given, 0.3, 0.3, 2, MAKER(0)) != given
    assert torch.equal(flat[:, 0], flat[:, 1])


def test_waves_are_shifted_louder_noisy_and_silent_by_what_was_said() -> None:
    waves = torch.sin(torch.arange(4000.0) / 9).repeat(300, 1)
    noise = sounds.in_noise(waves, 0.1, MAKER(0)) - waves
    ratio = noise.square().mean(1).sqrt() / waves.square().mean(1).sqrt()
    assert ratio.min() >= 0.0
    assert 0.09 < ratio.max() < 0.105
    gain = (sounds.louder(waves, 6.0, MAKER(0)) / waves)[:, 1:].mean(1)
    assert abs(20 * gain.log10()).max() < 6.001
    assert abs(20 * gain.log10()).max() > 5.5
    silent = sounds.silenced(waves + 5, 0.1, MAKER(0)).eq(0).sum(1)
    assert 350 < silent.max() <= 400
    late = sounds.time_shifted(waves + 5, 0.1, "zero", MAKER(0))
    assert 350 < late.eq(0).sum(1).max() <= 400
    assert waveforms("strong", 1.0)(waves[:, None], MAKER(0)).shape == (300, 1, 4000)


# words ---------------------------------------------------------------------------------------


def test_swapped_words_are_the_same_words_in_pairs() -> None:
    found = tokens("weak", 0.5, special=SPECIAL)(MANY, MAKER(0))
    assert torch.equal(found.sort(1)[0], MANY.sort(1)[0])
    changed = (found != MANY).sum(1)
    assert changed.max() == 4  # two pairs of twenty words
    assert (changed == 0).float().mean() < 0.02  # a pair that was swapped back
    assert len(found.unique(dim=0)) > 100


def test_deleted_words_leave_the_others_in_order() -> None:
    free, real = words.movable(MANY, 0, SPECIAL), MANY.ne(0)
    source, there = words.deleted(free, real, 0.1, MAKER(0))
    found = MANY.gather(1, source) * there
    lost = real.sum(1) - there.sum(1)
    assert abs(lost.float().mean() - 2.0) < 0.2
    for row in found.tolist():
        kept = [word for word in row if word]
        assert (kept[0], kept[-1]) == SPECIAL
        assert kept[1:-1] == sorted(kept[1:-1])
        assert row == kept + [0] * (len(row) - len(kept))


def test_padding_before_the_words_stays_before_them() -> None:
    left = TEXTS.flip(1)
    free, real = words.movable(left, 0, SPECIAL), left.ne(0)
    source, there = words.deleted(free, real, 0.5, MAKER(1))
    found = left.gather(1, source) * there
    assert (there.sum(1) < real.sum(1)).any()
    for row in found.tolist():
        kept = [word for word in row if word]
        assert row == [0] * (len(row) - len(kept)) + kept


def test_the_last_word_is_never_left_out() -> None:
    free, real = words.movable(TEXTS, 0, SPECIAL), TEXTS.ne(0)
    for seed in range(20):
        source, there = words.deleted(free, real, 1.0, MAKER(seed))
        found = TEXTS.gather(1, source) * there
        assert torch.equal(words.movable(found, 0, SPECIAL).sum(1), torch.tensor([1, 1]))


class Anywhere:
    """Swaps and deletes any places of the row: [CLS] is in the middle, and padding among words."""

    def __call__(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        order = torch.randperm(ids.shape[1], generator=generator)
        ids = ids.clone()
        ids[:, order[:2]] = ids[:, order[:2].flip(0)]
        kept = (torch.rand(ids.shape[1], generator=generator) > 0.1).nonzero().flatten()
        return torch.nn.functional.pad(ids[:, kept], (0, ids.shape[1] - len(kept)))


@trap(right=tokens("strong", 1.0, special=SPECIAL), wrong=Anywhere())
def test_padding_and_special_words_stay(view: Any) -> None:
    for seed in range(30):
        found = view(TEXTS, MAKER(seed))
        assert (found[:, 0] == 1).all()
        lengths = found.ne(0).sum(1)
        assert torch.equal(found.ne(0), torch.arange(9) < lengths[:, None])
        assert (found.gather(1, lengths[:, None] - 1) == 2).all()


def ids_alone(inputs: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Words close up and the mask does not know."""
    ids = tokens("strong", 1.0, special=SPECIAL)(inputs["input_ids"], generator)
    return {**inputs, "input_ids": ids}


@trap(right=tokens("strong", 1.0, special=SPECIAL), wrong=ids_alone)
def test_masks_and_types_go_with_their_words(view: Any) -> None:
    inputs = {"input_ids": TEXTS, "attention_mask": TEXTS.ne(0).long(), "types": TEXTS % 2}
    for seed in range(10):
        found = view(inputs, MAKER(seed))
        ids = found["input_ids"]
        assert torch.equal(found["attention_mask"], ids.ne(0).long())
        assert torch.equal(found["types"], ids % 2)


# tables --------------------------------------------------------------------------------------


def test_noise_is_in_deviations() -> None:
    given = torch.zeros(5000, 2)
    found = table("weak", 0.5, std=3.0)(given, MAKER(0))
    assert torch.allclose(found.std(0), torch.tensor(0.1 * 3.0), rtol=0.05)


def whole_rows(columns: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Takes other rows whole, under a target that is not theirs."""
    takes = torch.rand(len(columns), generator=generator) < rate
    order = torch.randperm(len(columns), generator=generator)
    return torch.where(takes[:, None], columns[order], columns)


@trap(right=tables.swapped, wrong=whole_rows)
def test_a_row_keeps_most_of_its_own(swap: Any) -> None:
    """Each value by itself: with probability `rate` that of another row in the same column."""
    given = torch.arange(400)[:, None] + 1000 * torch.arange(10)
    found = swap(given, 0.15, MAKER(0))
    assert torch.equal(found // 1000, given // 1000)  # each in its column
    other = (found != given).float()
    assert abs(other.mean() - 0.15) < 0.02
    assert other.mean(1).max() < 0.8


def test_swapped_is_never_ones_own_and_one_row_stays() -> None:
    given = torch.arange(7)[:, None].expand(7, 50)
    found = tables.swapped(given, 1.0, MAKER(0))
    assert (found != given).all()
    counts = found[0].bincount(minlength=7)
    assert counts[1:].min() > 0
    assert torch.equal(tables.swapped(given[:1], 1.0, MAKER(0)), given[:1])


def test_categories_are_swapped_and_numbers_noisy_too() -> None:
    inputs = {"categories": torch.randint(5, (60, 3)), "numbers": torch.randn(60, 2)}
    found = table("strong", 1.0)(inputs, MAKER(0))
    assert found["categories"].dtype == torch.int64
    assert (found["categories"] != inputs["categories"]).any()
    assert (found["numbers"] != inputs["numbers"]).all()
    with pytest.raises(InputError, match="the weak set is noise"):
        table("weak", at="categories")(inputs, MAKER(0))


# what others wrote ---------------------------------------------------------------------------

PIXELS = torch.rand(4, 3, 8, 8, generator=MAKER(1))


class Unseeded:
    """The augmentation as it is: it draws on from wherever torch's generator stands."""

    def __init__(self, augmentation: Any) -> None:
        self.augmentation = augmentation

    def __call__(self, inputs: Tensor, generator: Any) -> Tensor:
        return self.augmentation(inputs)


@trap(right=seeded, wrong=Unseeded)
def test_kornias_augmentations_draw_by_position(made: Any) -> None:
    for augmentation in (RandAugment(2, 9), theirs.RandomErasing(p=1.0)):
        view = made(augmentation)
        torch.manual_seed(5)
        before = torch.default_generator.get_state()
        one = view(PIXELS, MAKER(3))
        assert torch.equal(torch.default_generator.get_state(), before)
        torch.rand(7)  # what else is drawn does not matter
        assert torch.equal(one, view(PIXELS, MAKER(3)))
        assert not torch.equal(one, view(PIXELS, MAKER(4)))


def test_a_translation_there_and_back() -> None:
    known = ["", "a", "good", "fine", "film", "very"]

    def encode(texts: list[str]) -> Tensor:
        rows = [[known.index(word) for word in text.split()] for text in texts]
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    there = {"a good film": "a fine film", "fine": "", "good": "very very very fine"}
    view = back_translation(
        lambda ids: [" ".join(known[i] for i in row if i) for row in ids],
        lambda texts, generator: [there[text] for text in texts], encode,
    )  # fmt: skip
    given = torch.tensor([[1, 2, 4], [3, 0, 0], [2, 0, 0]])
    assert view(given, MAKER(0)).tolist() == [[1, 3, 4], [3, 0, 0], [5, 5, 5]]
    with pytest.raises(InputError, match="what goes with words"):
        view({"ids": given, "mask": given.ne(0)}, MAKER(0))
    short = back_translation(lambda ids: ["x"] * 3, lambda texts, g: texts[:2], encode)
    with pytest.raises(InputError, match="2 translations of 3 texts"):
        short(given, MAKER(0))


@pytest.mark.parametrize(
    ("view", "shape", "told"),
    [
        (spectrograms(), (4, 5), r"spectrograms are floating \(N, F, T\)"),
        (waveforms(), (4, 5, 6, 7), r"waveforms are floating \(N, T\)"),
        (tokens(), (4, 5), r"words are swapped in ids \(N, T\)"),
    ],
)
def test_inputs_of_another_kind_are_told(view: Any, shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        view(torch.zeros(shape), MAKER(0))
