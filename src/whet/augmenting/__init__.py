"""Augmentations: weak and strong views of images, sounds, words and tables, row by row.

A view is a function `(inputs, generator) -> inputs`, as `fixmatch` and `moco` want them among a
task's resources, and as the method `augment` trains on. Each row is drawn for by itself, from the
generator that is given: what a row becomes is a function of its position in training, and not of
workers, other draws or the device.
"""

from whet.augmenting.foreign import back_translation, seeded
from whet.augmenting.sizes import centred, cropped, random_crops, resize_for, resized
from whet.augmenting.views import KINDS, View, images, spectrograms, table, tokens, waveforms

__all__ = [
    "KINDS", "View", "back_translation", "centred", "cropped", "images", "random_crops",
    "resize_for", "resized", "seeded", "spectrograms", "table", "tokens", "waveforms",
]  # fmt: skip
