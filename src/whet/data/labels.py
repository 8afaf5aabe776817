"""The target of a classification: names of classes to numbers and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet import parsing
from whet.data.tables import number, text
from whet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """Sorted class names, numbered from 0; names that are all numbers are sorted as numbers.

    Args:
        names: the classes in the order of their numbers.

    >>> labels = Labels.fit(["yes", "no", "yes"])
    >>> labels.names, labels.encode(["no", "yes"]).tolist()
    (('no', 'yes'), [0, 1])
    """

    names: tuple[str, ...]

    @classmethod
    def fit(cls, values: Iterable[Any], what: str = "the target") -> Labels:
        """The classes among the training part's targets.

        Args:
            values: one class per row.
            what: what an error calls them, such as a column and its file.

        Raises:
            InputError: a row without a class, or fewer than two classes.
        """
        found = set(_named(values, what))
        if len(found) < 2:
            raise InputError(
                f"{what} has {len(found)} class{'es' if not found else ''}"
                f"{'' if not found else ': ' + next(iter(found))}; it takes two to tell apart."
            )
        numbers = {name: number(name) for name in found}
        return cls(tuple(sorted(found, key=lambda name: _rank(name, numbers))))

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, values: Iterable[Any], what: str = "the target") -> Tensor:
        """Numbers of the classes, int64 `(N,)`.

        Args:
            values: one class per row.
            what: what an error calls them, such as a column and its file.

        Raises:
            InputError: a class that the training part did not have; it is named.
        """
        import torch

        ids = {name: at for at, name in enumerate(self.names)}
        found = _named(values, what)
        odd = next((row for row, name in enumerate(found) if name not in ids), None)
        if odd is not None:
            listed = ", ".join(self.names[:10]) + (", ..." if len(self.names) > 10 else "")
            raise InputError(
                f"{what}: row {odd} has class {found[odd]!r}, which the training part does not "
                f"have; it has {listed}. Drop such rows, or split so that training sees every "
                "class."
            )
        return torch.tensor([ids[name] for name in found], dtype=torch.int64)

    def decode(self, ids: Iterable[Any]) -> list[str]:
        """Names of the classes with these numbers."""
        return [self.names[int(at)] for at in ids]

    def to_json(self) -> str:
        """The classes as JSON."""
        return json.dumps({"whet": "labels", "names": list(self.names)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, written: str) -> Labels:
        """What `to_json` wrote."""
        return cls(different(parsed(written, "labels"), "names", "labels"))


def parsed(written: str, what: str) -> dict[str, Any]:
    """The JSON object that a `to_json` wrote.

    Raises:
        InputError: it is no JSON, or that of something else.
    """
    try:
        found = parsing.values(written)
    except ValueError as error:
        raise InputError(f"the {what} are no JSON: {error}.") from error
    if not isinstance(found, dict) or found.get("whet") != what:
        raise InputError(f"this JSON does not hold {what} that whet wrote.")
    return found


def different(found: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    """The texts under a key of what `parsed` gave, which all differ.

    Raises:
        InputError: they are no texts, or one stands twice.
    """
    held = found.get(key)
    texts = isinstance(held, list) and all(isinstance(each, str) for each in held)
    if not texts or len(set(held or ())) < len(held or ()):
        raise InputError(f"{key} of the {what} is no list of different texts. Fit them again.")
    return tuple(held or ())


def _named(values: Iterable[Any], what: str) -> list[str]:
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    names = [text(value) for value in listed]
    if "" in names:
        raise InputError(
            f"{what}: row {names.index('')} has no class. Drop the rows without a target."
        )
    return names


def _rank(name: str, numbers: dict[str, float | None]) -> tuple[float, str]:
    value = numbers[name]
    return (0.0 if value is None or None in numbers.values() else value, name)
