"""A recipe's file: what it may hold, and what is said of one that does not work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.fit import tiny
from tests.fit.tiny import asked
from whet.errors import InputError, NotApplicable, WhetError
from whet.fit import recipes
from whet.fit.conduct import EVALUATIONS, fit
from whet.run import Run
from whet.stage import Recipe, Stage

TWO = """import whet

def recipe(task):
    short = len(task.train[0]) // 10
    first = whet.Stage(updates=short, batch_size=8, methods=["r_drop"], optimizer="adamw")
    return whet.Recipe([first, whet.Stage(epochs=1, batch_size=8, starts_from="evaluation")],
                       methods=["ema"])
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.write(tmp_path)
    return tmp_path


def test_a_stage_as_it_stands(place: Path) -> None:
    text = "import whet\nrecipe = whet.Stage(updates=3, batch_size=8)\n"
    path = tiny.write(place, text, "r.py")
    assert recipes.load(path, tiny.made(place), 0) == Stage(updates=3, batch_size=8)


def test_stages_for_a_task(place: Path) -> None:
    path = tiny.write(place, TWO, "r.py")
    told = fit(asked(place, methods=None, recipe=path)).about
    assert (told["updates"], told["methods"]) == (4 + 5, None)
    stages = [Stage(updates=4, batch_size=8, methods=["r_drop"], optimizer="adamw"),
              Stage(epochs=1, batch_size=8, starts_from="evaluation")]  # fmt: skip
    run = Run(tiny.made(place), Recipe(stages, ["ema"]), device="cpu", log=None).fit()
    run.predictor().save(place / "by_hand" / "model.safetensors")
    assert tiny.same(tiny.weights(place / "model"), tiny.weights(place / "by_hand"))


def test_a_stage_that_stops_early(place: Path) -> None:
    """At a rate of 0 nothing gets better after the first evaluation; the model is written then."""
    text = (
        "import whet\nrecipe = whet.Stage(updates=60, optimizer={'name': 'sgd', 'lr': 0.0},\n"
        "                    batch_size=8, early_stopping={'patience': 3})\n"
    )
    path = tiny.write(place, text, "r.py")
    told = fit(asked(place, methods=None, recipe=path)).about
    assert told["updates"] == 4 * (60 // EVALUATIONS)
    assert told["metrics"]["select"]
    again = fit(asked(place, methods=None, recipe=path)).about
    assert again["updates"] == told["updates"]


def test_what_a_recipe_draws_is_seeded(place: Path) -> None:
    text = "import torch, whet\ndef recipe(task):\n    return whet.Stage(updates=1, optimizer={"
    path = tiny.write(place, text + "'name': 'sgd', 'lr': torch.rand(()).item()})\n", "r.py")
    state = torch.get_rng_state()
    rates = [recipes.load(path, tiny.made(place), seed).optimizer["lr"] for seed in (0, 0, 1)]  # type: ignore[union-attr]
    assert rates[0] == rates[1] != rates[2]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage = 1\ndef other(): pass\n", r"defines no `recipe`; functions in it: other. Let it"),
        ("recipe = ['ema']\n", r"recipe of .*r.py is a list; make it a whet.Stage"),
        ("def recipe(task):\n    return 3\n", r"recipe\(task\) of .*r.py is a int"),
        ("def recipe(task):\n    return 1 / 0\n", r"(?s)recipe\(task\) raised.*line 2.*ZeroDiv"),
        ("def recipe():\n    pass\n", r"(?s)recipe\(task\) raised.*takes 0 positional"),
        ("import nosuchthing\n", r"(?s)r.py: importing it raised.*line 1.*nosuchthing"),
        ("import whet\ndef recipe(task):\n    return whet.Stage()\n", r"exactly one of them"),
    ],
)
def test_mistakes_say_where_they_are(text: str, said: str, place: Path) -> None:
    path = tiny.write(place, text, "r.py")
    with pytest.raises(WhetError, match=said):
        fit(asked(place, methods=None, recipe=path))
    assert not (place / "model").exists()


def test_a_file_that_is_not_there(place: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file r.py. A recipe is a Python file that"):
        fit(asked(place, methods=None, recipe=Path("r.py")))


def test_what_does_not_apply_is_said_before_training(place: Path) -> None:
    text = "import whet\nrecipe = whet.Stage(updates=3, methods=['fgm'])\n"
    with pytest.raises(NotApplicable):
        fit(asked(place, methods=None, recipe=tiny.write(place, text, "r.py")))
