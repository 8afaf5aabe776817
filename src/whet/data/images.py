"""Images in a zip, `<part>/<class>/<file>` or `<class>/<file>`; images as tensors."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from whet import parsing
from whet.data.parts import Array, Part
from whet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
PARTS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
Member = tuple[str, str, str]  # part, class, name in the archive


def pixels(images: Array) -> Tensor:
    """Images as `load` gives them, as floats `(N, C, H, W)` in [0, 1].

    Args:
        images: uint8 `(N, H, W)`, or `(N, H, W, C)` with 1, 3 or 4 channels.

    Raises:
        InputError: they have another dtype or shape.

    >>> pixels(np.full((2, 4, 5, 3), 51, np.uint8))[0, :, 0, 0]
    tensor([0.2000, 0.2000, 0.2000])
    """
    import torch

    plain = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3, 4))
    if images.dtype != np.uint8 or not plain:
        raise InputError(
            f"these images are {images.dtype} {images.shape}; give uint8 (N, H, W), or (N, H, W, C)"
            " with 1, 3 or 4 channels, as data.load does."
        )
    moved = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    # a copy in this order: a view would be laid out with channels last, and train otherwise
    copied = torch.from_numpy(np.array(moved, order="C"))
    return copied.to(torch.get_default_dtype()).div_(255)


def read(files: Mapping[str, Path], wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Loaded` from zips of images; members are read and never extracted."""
    members = [(path, *member) for part, path in files.items() for member in _members(path, part)]
    classes = tuple(sorted({kind for _, _, kind, _ in members}))
    told = wishes["facts"].classes
    if told is not None and set(told) == set(classes):
        classes = told
    ids = {name: at for at, name in enumerate(classes)}
    parts: dict[str, Part] = {}
    for part in ("train", "valid", "test"):
        own = [(path, kind, name) for path, place, kind, name in members if place == part]
        if own:
            inputs = _decoded([(path, name) for path, _, name in own], wishes["size"])
            targets = np.array([ids[kind] for _, kind, _ in own], np.int64)
            parts[part] = Part(inputs, targets, {"file": [name for _, _, name in own]})
    if "train" not in parts:
        raise InputError(f"{next(iter(files.values()))} has no images under train/<class>/.")
    return {**parts, "kind": "images", "classes": classes, "objective": "categorical"}


def _members(path: Path, part: str) -> list[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            parsing.check_archive(archive, path.stat().st_size)
            names = [PurePosixPath(item.filename) for item in archive.infolist()]
    except Exception as error:  # zipfile stumbles over what is damaged in many ways
        raise InputError(f"{path} cannot be read ({error}). Get the file again.") from error
    found = [
        name for name in names if name.suffix.lower() in ENDINGS and "__MACOSX" not in name.parts
    ]
    members: list[Member] = []
    for name in found:
        parts = [PARTS[folder.lower()] for folder in name.parts[:-2] if folder.lower() in PARTS]
        if len(name.parts) < 2:
            raise InputError(f"{path}: {name} lies in no folder that is called after its class.")
        members.append((parts[0] if parts else part, name.parts[-2], str(name)))
    if not members:
        raise InputError(f"{path} holds no image ({', '.join(ENDINGS)}).")
    return sorted(members)


def _decoded(members: list[tuple[Path, str]], size: tuple[int, int] | None) -> Array:
    images: list[Array] = []
    archives: dict[Path, zipfile.ZipFile] = {}
    room = sum(path.stat().st_size for path in {path for path, _ in members})
    try:
        for path, name in members:
            if path not in archives:
                archives[path] = zipfile.ZipFile(path)
            images.append(_image(archives[path], path, name, size))
            if images[-1].shape != images[0].shape:
                raise InputError(
                    f"{path}: {name} is {images[-1].shape[:2]}, others {images[0].shape[:2]} "
                    "(height and width). Give size=(height, width) to resize all of them."
                )
            try:
                parsing.check_unpacked(room, len(images) * images[0].nbytes)
            except ValueError as error:
                raise InputError(f"{path}: {error}, or give a smaller size=.") from error
    finally:
        for archive in archives.values():
            archive.close()
    return np.stack(images)


def _image(archive: zipfile.ZipFile, path: Path, name: str, size: tuple[int, int] | None) -> Array:
    from PIL import Image

    try:
        # by the forms that are read: behind another one PIL calls programs (Ghostscript)
        with Image.open(io.BytesIO(archive.read(name)), formats=FORMATS) as image:
            colours = image.convert("RGB")
            if size is not None:
                colours = colours.resize((size[1], size[0]), Image.Resampling.LANCZOS)
            return np.asarray(colours, np.uint8)
    except Exception as error:  # PIL and zipfile stumble over what is damaged in many ways
        raise InputError(f"{path}: {name} cannot be read ({error}). Get the file again.") from error
