"""Tables to tensors: categories to numbers of embeddings, numbers standardised."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from whet.data.labels import different, parsed
from whet.data.tables import Table, columns_of, number, text
from whet.errors import InputError, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

UNSEEN, MISSING, FIRST = 0, 1, 2  # ids of an unseen category, a missing one, the first known one
TYPES = ("category", "number", "drop")
LARGEST = float(np.finfo(float).max)
IDENTITY_ROWS = 20  # below so many fields nobody can tell an identifier from a category


@dataclass(frozen=True)
class Scale:
    """How a column of numbers is standardised.

    Args:
        mean: of the training part.
        std: likewise, in the population's sense; 1 for a constant column.
        median: what stands for a missing number.
        indicator: whether numbers were missing in the training part, so that a column says where.
    """

    mean: float
    std: float
    median: float
    indicator: bool


@dataclass(frozen=True)
class Columns:
    """An encoder of tables, fitted on the training part only.

    Categories: 0 is a category that the training part does not have, 1 a missing one, known ones
    count from 2 in sorted order. Numbers: $(x - mean) / std$ of the training part; a missing one
    becomes the training median, and a further column of 0 and 1 tells where, if the training part
    has missing ones. A column that is constant in the training part is left out.

    Types are inferred: a column is of numbers if all fields that are not empty are finite numbers
    and there are more than `few` different ones or one that is not whole; else of categories.

    Args:
        categories: the known categories of each column of categories.
        numbers: the scale of each column of numbers.
        left_out: columns that are not encoded, with the reason.
        empty: fields that count as missing, besides None, NaN and the empty one.

    >>> train = {"plan": ["a", "b", "a"], "age": [30.5, None, 40.5], "id": ["x1", "x2", "x3"]}
    >>> columns = Columns.fit(train, {"id": "drop"})
    >>> columns.cardinalities, columns.number_names
    ([4], ['age', 'age is missing'])
    >>> coded = columns.encode([{"plan": "c", "age": 30.5}, {"plan": "", "age": None}])
    >>> coded["categories"].tolist(), coded["numbers"].tolist()
    ([[0], [1]], [[-1.0, 0.0], [0.0, 1.0]])
    """

    categories: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, Scale]
    left_out: Mapping[str, str]
    empty: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls, table: Any, types: Mapping[str, str] | None = None, *, few: int = 20,
        max_categories: int = 1000, min_count: int = 1, empty: Sequence[str] = (),
    ) -> Columns:  # fmt: skip
        """The encoder of a training part.

        Args:
            table: rows as mappings, a mapping of columns, or a DataFrame, without the target.
            types: `category`, `number` or `drop` for the columns whose type is not to be inferred.
            few: whole numbers with at most so many different values are categories.
            max_categories: an inferred column of categories with more is refused.
            min_count: a category with fewer training rows counts as unseen, which trains the
                embedding of what is unseen.
            empty: further fields that count as missing, such as "?" or "NA".

        Raises:
            InputError: columns that look like identifiers or have too many categories, all named
                with the remedy; a field that is no number in a column said to be of numbers;
                nothing to encode.
        """
        columns, given = _fields(columns_of(table), empty), dict(types or {})
        _check_types(given, columns)
        chosen = {name: given.get(name) or infer(fields, few) for name, fields in columns.items()}
        _check_identities(columns, chosen, set(given), max_categories)
        categories: dict[str, tuple[str, ...]] = {}
        numbers: dict[str, Scale] = {}
        left_out: dict[str, str] = {}
        for name, fields in columns.items():
            if chosen[name] == "drop":
                left_out[name] = "as asked for"
            elif len(set(fields)) < 2:
                left_out[name] = "constant in the training part"
            elif chosen[name] == "number":
                numbers[name] = _scale(_numbers(name, fields))
            else:
                counted = Counter(filter(None, fields))
                categories[name] = tuple(sorted(n for n, c in counted.items() if c >= min_count))
        if not categories and not numbers:
            raise InputError(f"no column of the table can be encoded: {left_out or 'it has none'}.")
        return cls(categories, numbers, left_out, tuple(empty))

    @property
    def cardinalities(self) -> list[int]:
        """Rows of each embedding: the known categories and the two for unseen and missing."""
        return [FIRST + len(known) for known in self.categories.values()]

    @property
    def number_names(self) -> list[str]:
        """What the columns of `numbers` hold, in their order."""
        indicators = [
            f"{name} is missing" for name, scale in self.numbers.items() if scale.indicator
        ]
        return [*self.numbers, *indicators]

    def encode(self, table: Any) -> dict[str, Tensor]:
        """`categories`, int64 `(N, K)`, and `numbers`, float32 `(N, M)`; K or M may be 0.

        Columns that the encoder does not know are left alone.

        Raises:
            InputError: a column is not there, or a field is no number; with its row.
        """
        import torch

        table = columns_of(table)
        for name in (*self.categories, *self.numbers):
            if name not in table:
                raise UnknownName("column", name, table)
        wanted = {name: table[name] for name in (*self.categories, *self.numbers)}
        fields = _fields(wanted, self.empty)
        rows = len(next(iter(fields.values())))
        ids = [_ids(fields[name], known) for name, known in self.categories.items()]
        numbers = [_numbers(name, fields[name]) for name in self.numbers]
        scales = list(self.numbers.values())
        values = [_standard(*pair) for pair in zip(numbers, scales, strict=True)]
        pairs = zip(numbers, scales, strict=True)
        values += [np.isnan(column).astype(float) for column, scale in pairs if scale.indicator]
        # float32's range, so that a wild field cannot become infinite
        limited = np.array(values).reshape(len(values), rows).T.clip(-1e30, 1e30).astype(np.float32)
        coded = np.array(ids, np.int64).reshape(len(ids), rows).T
        return {
            "categories": torch.from_numpy(np.ascontiguousarray(coded)),
            "numbers": torch.from_numpy(np.ascontiguousarray(limited)),
        }

    def to_json(self) -> str:
        """The encoder as JSON."""
        return json.dumps({"whet": "columns", **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, written: str) -> Columns:
        """What `to_json` wrote."""
        found = parsed(written, "columns")
        parts = [found.get(key) for key in ("categories", "numbers", "left_out")]
        if not all(isinstance(part, dict) for part in parts):
            raise InputError("the columns lack categories, numbers or left_out. Fit them again.")
        categories, numbers, left_out = cast(list[dict[str, Any]], parts)
        if not categories.keys() | numbers.keys() or categories.keys() & numbers.keys():
            raise InputError("the columns hold none, or one of two types. Fit them again.")
        return cls(
            {name: different(categories, name, "columns") for name in categories},
            {name: _read_scale(name, scale) for name, scale in numbers.items()},
            {name: str(reason) for name, reason in left_out.items()},
            different(found, "empty", "columns"),
        )


def infer(fields: Sequence[str], few: int = 20) -> str:
    """`number` or `category`, by the rule of `Columns`.

    >>> infer(["1", "2", "1"]), infer(["1", "2.5", ""]), infer(["1", "x"])
    ('category', 'number', 'category')
    """
    values = {field: number(field) for field in set(fields) if field}
    numbers = [value for value in values.values() if value is not None]
    if not numbers or len(numbers) < len(values):
        return "category"
    whole = all(value.is_integer() for value in numbers)
    return "category" if whole and len(set(numbers)) <= few else "number"


def _fields(table: Table, empty: Sequence[str]) -> dict[str, list[str]]:
    absent = {*empty}
    return {
        name: ["" if field in absent else field for field in map(text, column)]
        for name, column in table.items()
    }


def _check_types(given: Mapping[str, str], columns: Mapping[str, Any]) -> None:
    for name, kind in given.items():
        if name not in columns:
            raise UnknownName("column", name, columns)
        if kind not in TYPES:
            raise UnknownName(f"type of column {name}", kind, TYPES)


def _check_identities(
    columns: Mapping[str, list[str]], chosen: Mapping[str, str], given: set[str], most: int
) -> None:
    """Inferred columns that tell rows apart instead of saying something about them."""
    odd: dict[str, str] = {}
    for name, fields in columns.items():
        present = [field for field in fields if field]
        different = len(set(present))
        if name in given:
            continue
        named = name.lower() == "id" or name.endswith(("ID", "Id", "_id", " id"))
        alone = len(present) >= IDENTITY_ROWS and different == len(present)
        often = len(present) >= IDENTITY_ROWS and different > len(present) / 2
        if chosen[name] == "category" and (different > most or often):
            odd[name] = f"{different} categories in {len(present)} rows"
        elif chosen[name] == "number" and named and alone:
            odd[name] = "another number in every row"
    if odd:
        raise InputError(
            f"columns that look like identifiers or free text: {odd}. Leave them out with types="
            f"{dict.fromkeys(odd, 'drop')}, or keep one as 'category' or 'number' there."
        )


def _numbers(name: str, fields: Sequence[str]) -> NDArray[np.float64]:
    found = np.full(len(fields), np.nan)
    for row, field in enumerate(fields):
        if field:
            value = number(field)
            if value is None:
                raise InputError(
                    f"column {name!r}, row {row}: {field!r} is no finite number. Mend it, name it "
                    "in empty= if it means missing, or make the column a 'category' in types=."
                )
            found[row] = value
    return found


def _scale(values: NDArray[np.float64]) -> Scale:
    present = values[~np.isnan(values)]
    largest = float(abs(present).max()) or 1.0  # squares of large numbers would overflow
    parts = present / largest
    constant = bool(present.min() == present.max())
    return Scale(
        mean=float(present[0] if constant else parts.mean() * largest),
        std=1.0 if constant else float(parts.std() * largest) or 1.0,
        median=float(np.median(parts) * largest),
        indicator=len(present) < len(values),
    )


def _read_scale(name: str, scale: Any) -> Scale:
    """A scale that `to_json` wrote."""
    reals = ("mean", "std", "median")
    known = isinstance(scale, dict) and scale.keys() == {*reals, "indicator"}
    values = [scale[key] for key in reals] if known else []
    plain = all(type(value) in (int, float) and abs(value) <= LARGEST for value in values)
    if not known or not plain or scale["std"] <= 0 or not isinstance(scale["indicator"], bool):
        raise InputError(f"column {name!r}: {scale} is no scale of numbers. Fit the columns again.")
    mean, std, median = map(float, values)
    return Scale(mean, std, median, scale["indicator"])


def _standard(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        filled = np.where(np.isnan(values), scale.median, values)
        return np.asarray((filled - scale.mean) / scale.std)


def _ids(fields: Sequence[str], known: Sequence[str]) -> list[int]:
    ids = {"": MISSING} | {name: at for at, name in enumerate(known, FIRST)}
    return [ids.get(field, UNSEEN) for field in fields]
