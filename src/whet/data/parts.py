"""What a folder of data holds, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError, UnknownName

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a data set: inputs, targets, and what else is known of each row.

    Args:
        inputs: by kind: an array of images, a list of waves, a list of texts, a mapping of a
            table's columns, the numbers of a graph's nodes.
        targets: an array with one entry per row; None where nothing is known.
        extra: further columns by name, such as the speaker or the pair of a row.

    >>> part = Part({"age": ["30", "40"]}, np.array([0, 1]))
    >>> len(part), part.take([1]).inputs
    (2, {'age': ['40']})
    """

    inputs: Any
    targets: Array | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        if isinstance(self.inputs, Mapping):
            return len(next(iter(self.inputs.values()), ()))
        return len(self.inputs)

    def take(self, rows: Sequence[int] | Array) -> Part:
        """The part of these rows, such as those of a `Split`."""
        places = np.asarray(rows, np.int64)
        targets = None if self.targets is None else self.targets[places]
        return Part(_take(self.inputs, places), targets, _take(self.extra, places))

    def column(self, name: str) -> Any:
        """The values of one column, of a table's inputs or of `extra`, such as groups to split by.

        Raises:
            UnknownName: there is none of this name.

        >>> Part(["a", "b"], extra={"author": ["ann", "bob"]}).column("author")
        ['ann', 'bob']
        """
        columns = {**self.extra, **(self.inputs if isinstance(self.inputs, Mapping) else {})}
        if name not in columns:
            raise UnknownName("column of the data", name, columns)
        return columns[name]


def _take(values: Any, rows: Array) -> Any:
    if isinstance(values, Mapping):
        return {name: _take(column, rows) for name, column in values.items()}
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def _join(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return {name: _join([one[name] for one in values]) for name in first}
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    return [value for one in values for value in one]


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph and the sparse 0/1 features of its nodes.

    Args:
        nodes: how many; they are numbered from 0.
        edges: int64 `(M, 2)`, each edge once.
        indptr: with `indices`, the features in compressed rows: those of node k are
            `indices[indptr[k]:indptr[k + 1]]`; None where nodes have no features.
        indices: see `indptr`.
        width: how many features there are.
        names: what the nodes are called in the file, where that is not their number.
    """

    nodes: int
    edges: Array
    indptr: Array | None = None
    indices: Array | None = None
    width: int = 0
    names: tuple[str, ...] | None = None

    def features(self) -> Array:
        """The features, float32 `(N, F)`.

        >>> rows = Graph(2, np.array([[0, 1]]), np.array([0, 1, 3]), np.array([2, 0, 1]), 3)
        >>> rows.features().tolist()
        [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
        """
        dense = np.zeros((self.nodes, self.width), np.float32)
        if self.indptr is not None and self.indices is not None:
            dense[np.repeat(np.arange(self.nodes), np.diff(self.indptr)), self.indices] = 1
        return dense


@dataclass(frozen=True, eq=False)
class Loaded:
    """A data set as it was found; nothing is encoded but the classes.

    Args:
        name: of the folder.
        kind: `images`, `arrays`, `audio`, `texts`, `sentences`, `table` or `graph`.
        train: rows to train on; all rows where the folder has no parts.
        valid: rows to choose by, where the folder has them.
        test: rows to judge by, where the folder has them.
        objective: what the targets are: `categorical`, `multi-label`, `real`; None without any.
        classes: names of the classes in the order of their numbers. Categorical targets always
            have them: those that nobody named are called "0", "1", ...; several labels have them
            where they are known.
        target: the name of a table's target column.
        types: types of a table's columns where its README tells them, for `Columns.fit`.
        names: names of what numbers in `extra` mean, such as speakers.
        graph: of a graph: its edges and features.
        licence: the README's words on it; empty where it has none.
    """

    name: str
    kind: str
    train: Part
    valid: Part | None = None
    test: Part | None = None
    objective: str | None = None
    classes: tuple[str, ...] | None = None
    target: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    graph: Graph | None = None
    licence: str = ""

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that there are, by name."""
        found = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: part for name, part in found.items() if part is not None}

    def joined(self) -> tuple[Part, Array | None]:
        """The rows of all parts as one, and the numbers of the test part's; None without one.

        For `split`: `judge=` these numbers keeps a given test part, and without it all rows are
        split anew. An extra column that one of the parts lacks is left out.

        Raises:
            InputError: some parts have targets and others none, or their rows differ in shape.

        >>> data = Loaded("two", "texts", Part(["a", "b"]), test=Part(["c"]))
        >>> rows, test = data.joined()
        >>> rows.inputs, test.tolist()
        (['a', 'b', 'c'], [2])
        """
        parts = list(self.parts.values())  # test comes last
        without = [name for name, part in self.parts.items() if part.targets is None]
        if without and len(without) < len(parts):
            raise InputError(
                f"{self.name}: {', '.join(without)} has no targets and other parts have: use the "
                "parts one by one."
            )
        known = [name for name in self.train.extra if all(name in part.extra for part in parts)]
        try:
            every = Part(
                _join([part.inputs for part in parts]),
                None if without else _join([part.targets for part in parts]),
                {name: _join([part.extra[name] for part in parts]) for name in known},
            )
        except (KeyError, ValueError) as error:
            raise InputError(f"{self.name}: the parts cannot be joined: {error}.") from error
        test = 0 if self.test is None else len(self.test)
        return every, np.arange(len(every) - test, len(every)) if test else None
