"""Tables to tensors: types, ids, scales, what is missing or unseen, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from whet.data import Columns, Labels
from whet.data.columns import infer
from whet.data.tables import columns_of, text
from whet.errors import InputError

TRAIN: dict[str, list[Any]] = {
    "plan": ["basic", "plus", "", "basic"],
    "age": [20.5, None, 40.5, 62.0],
    "paid": ["1.5", "2.5", "3.5", "4.5"],
}


class TestInferring:
    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            (["1", "2", "3"], "category"),  # whole and few
            ([str(n) for n in range(21)], "number"),  # whole and many
            ([str(n) for n in range(20)], "category"),
            (["1.0", "2.0"], "category"),
            (["1.5", "2"], "number"),
            (["", "1.5", ""], "number"),
            (["1.5", "x"], "category"),
            (["1.5", "inf"], "category"),
            (["1.5", "nan"], "category"),
            (["1_000.5", "2.5"], "category"),
            (["", ""], "category"),
        ],
    )
    def test_the_rule(self, fields: list[str], kind: str) -> None:
        assert infer(fields) == kind

    def test_few_can_be_set(self) -> None:
        assert Columns.fit({"n": [1, 2, 3]}, few=2).number_names == ["n"]

    def test_a_given_type_goes_before(self) -> None:
        columns = Columns.fit({"n": [1.5, 2.5], "m": [1, 2]}, {"n": "category", "m": "number"})
        assert list(columns.categories) == ["n"]
        assert list(columns.numbers) == ["m"]


class TestCategories:
    def test_ids(self) -> None:
        columns = Columns.fit(TRAIN)
        coded = columns.encode({**TRAIN, "plan": ["plus", "gold", None, float("nan")]})
        assert coded["categories"].tolist() == [[3], [0], [1], [1]]
        assert coded["categories"].dtype == torch.int64
        assert columns.cardinalities == [4]

    def test_every_id_lies_in_its_embedding(self) -> None:
        columns = Columns.fit({"a": list("xyz"), "b": list("pqp")})
        coded = columns.encode({"a": list("xyzw"), "b": [*"pqr", ""]})["categories"]
        assert (coded.max(0).values < torch.tensor(columns.cardinalities)).all()
        assert coded.min() == 0

    def test_a_whole_number_is_one_category_however_written(self) -> None:
        columns = Columns.fit({"code": ["1", "2", "1"]})
        coded = columns.encode({"code": [1, 2.0, np.int64(1), np.float64(2.0)]})
        assert coded["categories"].flatten().tolist() == [2, 3, 2, 3]

    def test_truths(self) -> None:
        columns = Columns.fit({"yes": [True, False, True]})
        assert columns.encode({"yes": [np.bool_(True), "False"]})["categories"].tolist() == [
            [3],
            [2],
        ]

    def test_rare_categories_train_the_embedding_of_the_unseen(self) -> None:
        columns = Columns.fit({"a": ["x", "x", "y"]}, min_count=2)
        assert columns.encode({"a": ["x", "y"]})["categories"].tolist() == [[2], [0]]

    def test_fields_that_mean_missing(self) -> None:
        columns = Columns.fit({"a": ["x", "?", "y"], "n": ["1.5", "NA", "2.5"]}, empty=("?", "NA"))
        assert columns.number_names == ["n", "n is missing"]
        again = Columns.from_json(columns.to_json())
        assert again.encode({"a": ["?"], "n": ["NA"]})["categories"].tolist() == [[1]]


class TestNumbers:
    def test_standardised_by_the_training_part(self) -> None:
        coded = Columns.fit(TRAIN).encode(TRAIN)["numbers"]
        paid = np.array([1.5, 2.5, 3.5, 4.5])
        expected = (paid - paid.mean()) / paid.std()
        assert coded[:, 1].tolist() == pytest.approx(expected, abs=1e-6)
        assert coded.dtype == torch.float32

    def test_missing_is_the_training_median_and_an_indicator(self) -> None:
        columns = Columns.fit(TRAIN)
        present = np.array([20.5, 40.5, 62.0])
        scale = columns.numbers["age"]
        assert (scale.mean, scale.std) == pytest.approx((present.mean(), present.std()))
        assert columns.number_names == ["age", "paid", "age is missing"]
        coded = columns.encode({**TRAIN, "age": ["", 40.5, None, math.nan]})["numbers"]
        assert coded[:, 2].tolist() == [1, 0, 1, 1]
        assert coded[0, 0] == coded[1, 0]  # the median of 20.5, 40.5, 62

    def test_missing_at_last_without_any_in_training(self) -> None:
        columns = Columns.fit({"n": [1.5, 2.5, 9.5]})
        first, second = columns.encode({"n": [None, 2.5]})["numbers"].flatten().tolist()
        assert first == second == pytest.approx(-2 / np.std([1.5, 2.5, 9.5]))

    def test_what_is_judged_does_not_move_the_scale(self) -> None:
        columns = Columns.fit({"n": [0.5, 1.5]})
        before = columns.to_json()
        assert columns.encode({"n": [100.5]})["numbers"].item() == 199.0
        assert columns.to_json() == before

    def test_constant_columns_are_left_out(self) -> None:
        columns = Columns.fit(
            {"a": ["x", "x"], "n": ["2.5", "2.5"], "m": [1.5, 2.5], "e": ["", ""]}
        )
        assert columns.number_names == ["m"]
        assert columns.cardinalities == []
        assert set(columns.left_out) == {"a", "n", "e"}
        coded = columns.encode({"m": [1.5]})
        assert coded["categories"].shape == (1, 0)

    def test_constant_but_for_the_missing(self) -> None:
        columns = Columns.fit({"n": [2.5, None, 2.5]})
        assert columns.encode({"n": [2.5, None]})["numbers"].tolist() == [[0, 0], [0, 1]]

    def test_no_field_becomes_infinite(self) -> None:
        columns = Columns.fit({"n": [1e308, -1e308, 1e300, 0.5]})
        assert columns.encode({"n": [1.7e308]})["numbers"].isfinite().all()
        narrow = Columns.fit({"n": [0.5, 0.5 + 1e-16, 0.5000000001]})
        assert narrow.encode({"n": [1e300]})["numbers"].isfinite().all()

    def test_a_field_that_is_no_number(self) -> None:
        columns = Columns.fit({"n": [1.5, 2.5]})
        with pytest.raises(InputError, match="column 'n', row 1: 'much' is no finite number"):
            columns.encode({"n": [1.5, "much"]})
        with pytest.raises(InputError, match="'inf' is no finite number"):
            columns.encode({"n": [math.inf]})


class TestIdentifiers:
    def test_all_are_named_with_the_remedy(self) -> None:
        table = {
            "customer": [f"c{n}" for n in range(50)],
            "rowID": list(range(50)),
            "plan": ["a", "b"] * 25,
        }
        with pytest.raises(InputError, match="identifiers") as caught:
            Columns.fit(table)
        said = str(caught.value)
        assert "types={'customer': 'drop', 'rowID': 'drop'}" in said
        assert "plan" not in said
        columns = Columns.fit(table, {"customer": "drop", "rowID": "drop"})
        assert columns.cardinalities == [4]

    def test_a_number_that_differs_in_every_row_is_none_by_itself(self) -> None:
        assert Columns.fit({"day": list(range(50))}).number_names == ["day"]

    def test_too_many_categories(self) -> None:
        table = {"city": [f"c{n % 30}" for n in range(100)]}
        with pytest.raises(InputError, match="30 categories in 100 rows"):
            Columns.fit(table, max_categories=20)
        assert Columns.fit(table, {"city": "category"}, max_categories=20).cardinalities == [32]

    def test_few_rows_tell_nothing(self) -> None:
        assert Columns.fit({"name": list("abcdef")}).cardinalities == [8]


class TestShapesOfTables:
    def test_rows_columns_and_frames_are_the_same(self) -> None:
        rows = [dict(zip(TRAIN, row, strict=True)) for row in zip(*TRAIN.values(), strict=True)]
        frame = pandas.DataFrame(TRAIN)
        columns = Columns.fit(TRAIN)
        assert Columns.fit(rows) == columns == Columns.fit(frame)
        for table in (rows, frame):
            for name, coded in columns.encode(table).items():
                assert torch.equal(coded, columns.encode(TRAIN)[name])

    def test_pandas_own_kinds(self) -> None:
        frame = pandas.DataFrame({
            "c": pandas.Categorical(["x", None, "y"]),
            "n": pandas.array([1, None, 2], dtype="Int64"),
            "s": pandas.array(["p", "q", None], dtype="string"),
        })  # fmt: skip
        coded = Columns.fit(frame).encode(frame)
        assert coded["categories"].tolist() == [[2, 2, 2], [1, 1, 3], [3, 3, 1]]

    def test_a_row_may_lack_a_field(self) -> None:
        assert columns_of([{"a": 1}, {"a": 2, "b": 3}]) == {"a": [1, 2], "b": [None, 3]}

    def test_further_columns_are_left_alone(self) -> None:
        columns = Columns.fit({"a": ["x", "y"]})
        assert columns.encode({"z": [1], "a": ["y"]})["categories"].tolist() == [[3]]

    def test_no_rows(self) -> None:
        coded = Columns.fit({"a": ["x", "y"], "n": [0.5, 1.5]}).encode({"a": [], "n": []})
        assert (coded["categories"].shape, coded["numbers"].shape) == ((0, 1), (0, 1))

    def test_what_is_not_needed_is_not_imported(self) -> None:
        code = (
            "import sys, whet.data; from whet.data import Columns; "
            "light = {'torch', 'sklearn', 'PIL'} & {*sys.modules}; "
            "Columns.fit({'a': ['x', 'y']}).encode([{'a': 'x'}]); "
            "print(light, 'pandas' in sys.modules)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == "set() False"

    @pytest.mark.parametrize(
        ("table", "says"),
        [
            ("abc", "give rows as mappings"),
            ([1, 2], "give rows as mappings"),
            ({"a": "abc"}, "column 'a' of the table is a str"),
            ({"a": [1, 2], "b": [1]}, "differ in length"),
            ({}, "no column of the table can be encoded"),
            ({"a": ["x", "x"]}, "no column of the table can be encoded.*constant"),
        ],
    )
    def test_no_tables(self, table: Any, says: str) -> None:
        with pytest.raises(InputError, match=says):
            Columns.fit(table)

    def test_a_column_is_not_there(self) -> None:
        with pytest.raises(InputError, match="unknown column 'plan'; did you mean 'plans'"):
            Columns.fit(TRAIN).encode({"plans": ["a"], "age": [1], "paid": [1]})

    def test_types_of_what_is_not_there(self) -> None:
        with pytest.raises(InputError, match="unknown column 'aged'; did you mean 'age'"):
            Columns.fit(TRAIN, {"aged": "number"})
        with pytest.raises(InputError, match="unknown type of column age 'numeric'"):
            Columns.fit(TRAIN, {"age": "numeric"})


def test_json_there_and_back() -> None:
    columns = Columns.fit(TRAIN, {"paid": "drop"})
    again = Columns.from_json(columns.to_json())
    assert again == columns
    assert torch.equal(again.encode(TRAIN)["numbers"], columns.encode(TRAIN)["numbers"])


@pytest.mark.parametrize("written", ["{", "[]", '{"whet": "labels", "names": []}'])
def test_json_of_something_else(written: str) -> None:
    with pytest.raises(InputError, match="columns"):
        Columns.from_json(written)


def test_text_of_missing_things() -> None:
    missing = [None, "", "  ", math.nan, np.nan, pandas.NA, pandas.NaT]
    assert [text(value) for value in missing] == [""] * len(missing)


class TestLabels:
    def test_sorted_numbered_and_back(self) -> None:
        labels = Labels.fit(["b", "a", "b", "c"])
        assert labels.names == ("a", "b", "c")
        assert labels.encode(np.array(["c", "a"])).tolist() == [2, 0]
        assert labels.decode(torch.tensor([2, 0])) == ["c", "a"]
        assert len(labels) == 3

    def test_numbers_are_sorted_as_numbers(self) -> None:
        assert Labels.fit([10, 9, -1]).names == ("-1", "9", "10")
        assert Labels.fit(["10", "9", "x"]).names == ("10", "9", "x")

    def test_the_same_number_however_written(self) -> None:
        assert Labels.fit([1, 2]).encode(["1", 2.0, np.float32(1)]).tolist() == [0, 1, 0]

    def test_an_unseen_class_is_named(self) -> None:
        with pytest.raises(InputError, match="row 1 has class 'z', which the training part"):
            Labels.fit(["a", "b"]).encode(["a", "z"])

    def test_a_row_without_a_class(self) -> None:
        with pytest.raises(InputError, match="row 1 has no class"):
            Labels.fit(["a", None, "b"])

    @pytest.mark.parametrize("values", [[], ["a", "a"]])
    def test_nothing_to_tell_apart(self, values: list[str]) -> None:
        with pytest.raises(InputError, match="takes two"):
            Labels.fit(values)

    def test_json_there_and_back(self) -> None:
        labels = Labels.fit(["ja", "nein", "是"])
        assert Labels.from_json(labels.to_json()) == labels
