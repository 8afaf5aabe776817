"""Encoders, methods and arms from anything written: an error with its reason, or they work."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.safety.mutations import ODD, changed, changed_json, fuzz, only_whet_errors
from whet import methods, parsing
from whet.data import Columns, Labels, Vocabulary
from whet.errors import InputError
from whet.study import arms

TABLE = {"plan": ["a", "b", "a"], "age": ["30.5", "", "40.5"], "id": ["1", "2", "3"]}
COLUMNS = json.loads(Columns.fit(TABLE, {"id": "drop"}, empty=["?"]).to_json())
LABELS = json.loads(Labels.fit(["yes", "no"]).to_json())
VOCABULARY = json.loads(Vocabulary.fit(["pay my card", "card"]).to_json())
DEFAULTS = {name: kind().settings() for name, kind in methods.registry().items()}


@fuzz(120)
@given(changed_json(COLUMNS))
def test_changed_columns(written: bytes) -> None:
    with only_whet_errors():
        columns = Columns.from_json(written.decode("utf-8", "replace"))
        coded = columns.encode({**TABLE, **{name: ["1"] * 3 for name in columns.numbers}})
        assert len(coded["numbers"]) == len(coded["categories"]) == 3
        assert coded["numbers"].isfinite().all()


@fuzz(60)
@given(changed_json(LABELS))
def test_changed_labels(written: bytes) -> None:
    with only_whet_errors():
        labels = Labels.from_json(written.decode("utf-8", "replace"))
        assert labels.decode(range(len(labels))) == list(labels.names)


@fuzz(60)
@given(changed_json(VOCABULARY))
def test_changed_vocabularies(written: bytes) -> None:
    with only_whet_errors():
        words = Vocabulary.from_json(written.decode("utf-8", "replace"))
        assert words.encode(["pay my card"]).max() < len(words)


@fuzz(150)
@given(st.data())
def test_changed_methods(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(DEFAULTS)))
    given = DEFAULTS[name] | {"during": [0.0, 0.5], "label": "one"}
    with only_whet_errors():
        method = methods.make(data.draw(changed(given)))
        again = methods.make(json.loads(json.dumps(method.settings())))
        assert again.settings() == method.settings()
        assert repr(again) == repr(method)


WORDS = st.sampled_from(
    ["ema", "fgm", "emma", ":", ",", "=", "[", "]", "{", "}", '"', "during", "decay", "label",
     "0.9", "1e999", "NaN", "null", "[0.5,1]", " ", "\x00", "é", "[" * 3000, "9" * 5000, "\ud800"]
)  # fmt: skip


@fuzz(150)
@given(st.lists(WORDS, max_size=12).map("".join))
def test_any_text_for_arms(text: str) -> None:
    with only_whet_errors():
        found = arms.parse(text, methods.catalogue())
        for arm in found:
            for given in arm.methods:
                methods.make(given)
    with only_whet_errors():
        assert arms.parse(f"ema:decay={text}", methods.catalogue())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "ema", "decay": 10**400}, "ema: decay is"),
        ({"name": "ema", "during": 0.5}, r"ema: during is 0\.5; it must be two numbers"),
        ({"name": "ema", "during": [0, "1"]}, "it must be two numbers"),
        ({"name": "ema", "label": 7}, "ema: label is 7; it must be a text"),
        ({"name": "fgm", "at": 7}, "fgm: at is 7; it must be a text"),
        ({"name": "fgm", "exclude": "*position*"}, "it must be a list of texts"),
        ({"name": "sam", "adaptive": "no"}, "it must be one of False, True"),
        ({"name": ["ema"]}, "unknown method"),
        (["ema"], "is no method"),
    ],
)  # fmt: skip
def test_settings_of_another_kind_are_refused(settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        methods.make(settings)


class TestJson:
    def test_depth_has_an_end(self) -> None:
        assert parsing.values("[" * 64 + "]" * 64)
        for depth in (65, 900, 10**6):
            with pytest.raises(ValueError, match="more than 64 levels deep"):
                parsing.values("[" * depth + "]" * depth)

    def test_half_a_character_is_refused_and_a_whole_one_is_not(self) -> None:
        assert parsing.values('"\\ud83d\\ude00 \\\\ud800"') == "\U0001f600 \\ud800"
        with pytest.raises(ValueError, match="surrogates"):
            parsing.values(b'{"a": "\\ud800"}')

    def test_constants(self) -> None:
        assert parsing.values("[Infinity]") == [float("inf")]
        with pytest.raises(ValueError, match="NaN is no JSON"):
            parsing.values("[NaN]", constants=False)

    def test_the_odd_values_are_all_tried(self) -> None:
        assert {type(value) for value in ODD} == {type(None), bool, int, float, str, list, dict}
