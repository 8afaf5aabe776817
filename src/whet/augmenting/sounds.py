"""Sounds: spectrograms and waveforms, shifted in time, masked, and in noise."""

from __future__ import annotations

import torch
from torch import Tensor

from whet.augmenting.draws import moved, per_row, spans, steps, uniform

Draws = torch.Generator | None


def time_shifted(sounds: Tensor, share: float, edge: str, generator: Draws = None) -> Tensor:
    """Each row `(N, ..., T)` earlier or later by up to `share` of its length."""
    most = round(share * sounds.shape[-1])
    return moved(sounds, steps(sounds, most, generator), -1, edge)


def masked(
    spectrograms: Tensor, bands: float, times: float, count: int = 2, generator: Draws = None
) -> Tensor:
    """`count` bands and `count` stretches of each spectrogram `(N, ..., F, T)` in its mean.

    SpecAugment (arXiv:1904.08779): widths uniform from 0 to `bands` of F, and to `times` of T.
    """
    marked = torch.zeros((), dtype=torch.bool, device=spectrograms.device)
    between = [1] * (spectrograms.ndim - 3)
    for dim, share in ((-2, bands), (-1, times)):
        size = spectrograms.shape[dim]
        for _ in range(count):
            span = spans(spectrograms, size, round(share * size), generator)
            shape = (-1, *between, size, 1) if dim == -2 else (-1, *between, 1, size)
            marked = marked | span.view(shape)
    mean = per_row(spectrograms.flatten(1).mean(1), spectrograms)
    return torch.where(marked, mean, spectrograms)


def silenced(waves: Tensor, share: float, generator: Draws = None) -> Tensor:
    """A stretch of each wave `(N, ..., T)` silent, of up to `share` of its length."""
    size = waves.shape[-1]
    span = spans(waves, size, round(share * size), generator)
    return waves.masked_fill(span.view(len(waves), *[1] * (waves.ndim - 2), size), 0.0)


def in_noise(waves: Tensor, share: float, generator: Draws = None) -> Tensor:
    """Gaussian noise of up to `share` of each wave's root mean square (0.1: 20 dB below it)."""
    loud = waves.flatten(1).square().mean(1).sqrt()
    drawn = torch.randn(waves.shape, generator=generator).to(waves)
    return waves + drawn * per_row(loud * uniform(waves, 0, share, generator).to(loud), waves)


def louder(waves: Tensor, decibels: float, generator: Draws = None) -> Tensor:
    """Each wave louder or softer by up to so many decibels."""
    return waves * per_row(10.0 ** (uniform(waves, -decibels, decibels, generator) / 20.0), waves)


def spectrograms(sounds: Tensor, policy: str, strength: float, generator: Draws) -> Tensor:
    """The weak or strong set, for `(N, F, T)` or `(N, C, F, T)`; strength in (0, 1]."""
    found = time_shifted(sounds, 0.2 * strength, "repeat", generator)
    if policy == "weak":
        return found
    return masked(found, 0.3 * strength, 0.2 * strength, 2, generator)


def waveforms(waves: Tensor, policy: str, strength: float, generator: Draws) -> Tensor:
    """The weak or strong set, for `(N, T)` or `(N, C, T)`; strength in (0, 1]."""
    found = time_shifted(waves, 0.2 * strength, "zero", generator)
    if policy == "weak":
        return found
    found = in_noise(louder(found, 6.0 * strength, generator), 0.1 * strength, generator)
    return silenced(found, 0.2 * strength, generator)
