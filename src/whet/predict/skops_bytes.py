"""scikit-learn estimators as bytes that can be read without running what stands in them.

They are written by skops: a schema in JSON that names each type, and arrays. Before anything of it
is made, the types are held against an allow-list: what skops itself trusts, and what the caller
names. Nothing is pickled.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any
from zipfile import ZIP_STORED, ZipFile

from whet.errors import CheckpointError, InputError

INSTALL = "pip install 'whet[stacking]'"


def dumped(estimator: Any) -> bytes:
    """The bytes of an estimator.

    Raises:
        InputError: skops is not installed, or cannot save what the estimator consists of.
    """
    skops = _library()
    try:
        data: bytes = skops.dumps(estimator)
    except Exception as error:  # skops raises errors of many kinds
        raise InputError(
            f"{_name(estimator)} cannot be saved without pickle: {_first(error)} Leave out what "
            "skops does not save (functions of one's own, lambdas), or put it into a transformer."
        ) from error
    return data


def check(estimator: Any, trusted: Sequence[str]) -> None:
    """See that an estimator can be saved, and read again with these types trusted.

    Raises:
        InputError: naming the types that would not be read.
    """
    ready(trusted)
    data = dumped(estimator)
    odd = _untrusted(data, trusted)
    if odd:
        raise InputError(
            f"{_name(estimator)} holds types that are not read from a file unless they are named: "
            f"{', '.join(odd)}. Where you stand for what they do, give trusted={odd}, here and to "
            "Predictor.load; whoever loads the file must trust its origin as well."
        )
    try:
        loaded(data, trusted)
    except CheckpointError as error:
        raise InputError(
            f"{_name(estimator)} would not be read again: {error}. Functions and classes must be "
            "found in a module by their name."
        ) from error


def loaded(data: bytes, trusted: Sequence[str]) -> Any:
    """An estimator from its bytes.

    Raises:
        CheckpointError: a type is not trusted, or the bytes are damaged.
    """
    skops = _library()
    try:
        _check_archive(data)
        odd = _untrusted(data, trusted)
        if not odd:
            return skops.loads(data, trusted=list(trusted))
    except Exception as error:  # a changed file raises anything
        raise CheckpointError(f"a scikit-learn estimator in it is damaged: {error}") from error
    raise CheckpointError(
        f"a scikit-learn estimator in it holds types that nobody said to trust: {', '.join(odd)}. "
        "Such a type may run code or crash when it is made or used. If you know where the file is "
        f"from, and what these are, give trusted={odd}."
    )


def ready(trusted: Sequence[str]) -> None:
    """See that estimators can be read at all.

    Raises:
        InputError: skops is not installed, or `trusted` is no list of names.
    """
    if isinstance(trusted, str) or not all(isinstance(name, str) for name in trusted):
        raise InputError(f"trusted is {trusted!r}; give a list of names of types.")
    _library()


def _untrusted(data: bytes, trusted: Sequence[str]) -> list[str]:
    found = _library().get_untrusted_types(data=data)
    return sorted(set(found) - set(trusted))


def _check_archive(data: bytes) -> None:
    """As it is written nothing is compressed, so that it cannot grow beyond its own size."""
    with ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
    if any(part.compress_type != ZIP_STORED for part in parts):
        raise ValueError("it is compressed")
    if sum(part.file_size for part in parts) > len(data):
        raise ValueError("its parts are larger than the whole")


def _library() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise InputError(
            "to save and read scikit-learn estimators takes skops, which is not installed: "
            f"{INSTALL}."
        ) from error
    return skops.io


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".") + "."


def _name(estimator: Any) -> str:
    return f"the {type(estimator).__name__}"
