"""A study in Python: of a function, and in a real notebook kernel with its report inline."""

import asyncio
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from whet import Study, Task
from whet.errors import InputError
from whet.study import identity
from whet.study.rehearsal import Rehearsal

SCALE = 1.0


def clouds(seed: int) -> Task:
    """Two clouds."""
    y = torch.arange(90) % 2
    x = SCALE * torch.randn(90, 2) + y[:, None]
    cut = [(x[a:b], y[a:b]) for a, b in ((0, 30), (30, 60), (60, 90))]
    return Task(torch.nn.Linear(2, 2), *cut)


clouds.about = {"updates": 6, "batch_size": 10, "seeds": 3}  # type: ignore[attr-defined]


def quiet() -> Console:
    return Console(quiet=True)


def test_a_function_is_studied_in_this_process(tmp_path: Path) -> None:
    study = Study(
        clouds, methods=["ema", {"name": "sam", "rho": 0.1}], out=tmp_path, console=quiet()
    )
    rehearsal = study.rehearse()
    assert isinstance(rehearsal, Rehearsal)
    assert {row["status"] for row in rehearsal.rows.values()} == {"done"}
    found = study.run()
    assert [each.arm for each in found.comparisons] == ["ema", "sam:rho=0.1"]
    assert found.study["task"]["title"] == "Two clouds"
    assert len(found.rows) == 9
    page = found._repr_html_()
    assert page.startswith('<iframe title="report" sandbox=""')
    assert "Two clouds" in page
    assert "<script" not in page


def test_a_tasks_mistake_is_told(tmp_path: Path) -> None:
    def broken(seed: int) -> Task:
        raise ValueError("no data here")

    with pytest.raises(InputError, match=r"(?s)broken.*no data here"):
        Study(broken, methods=["ema"], out=tmp_path, console=quiet()).run()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (clouds(0), "needs a new Task for every seed"),
        (Console, "is no plain function"),
        (3, "a Study is of a task's name"),
    ],
)
def test_what_is_no_task_is_refused(given: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Study(given)  # type: ignore[arg-type]


def written(body: str, more: str = "") -> str:
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(f"{more}\ndef make(seed):\n    {body}\n", scope)
    return identity.code_of_function(scope["make"])  # type: ignore[arg-type]


def test_the_identity_of_a_function_is_that_of_all_it_names() -> None:
    helper, constant = "def deep(x):\n    return x + 1", "RATE = 3"
    base = written("return deep(seed) * RATE", f"{helper}\n{constant}")
    assert written("return deep(seed) * RATE  # why", f"{helper}\n{constant}") == base
    assert written("return deep(seed) * RATE", f"{helper}\n{constant}\nUNUSED = 1") == base
    assert written("return deep(seed) * RATE", f"{helper}\nRATE = 4") != base
    deeper = helper.replace("+ 1", "+ 2")
    assert written("return deep(seed) * RATE", f"{deeper}\n{constant}") != base
    network = "class Net:\n    def forward(self, x):\n        return x"
    assert written("return Net()", network) != written("return Net()", network.replace("x", "y", 1))
    inner = "return [deep(x) for x in range(seed)]"
    assert written(inner, helper) != written(inner, deeper)


CELLS = (
    "import torch, whet",
    """def task(seed):
    y = torch.arange(90) % 2
    x = torch.randn(90, 2) + y[:, None]
    return whet.Task(torch.nn.Linear(2, 2), *[(x[a:a + 30], y[a:a + 30]) for a in (0, 30, 60)])

task.about = {"updates": 4}""",
    "found = whet.Study(task, methods=['ema'], seeds=3, out='out').run()\nfound",
    "whet.Study('digits', methods=['ema'], seeds=1, out='digits').rehearse().mistakes()",
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kernels = tmp_path / "kernels" / "kernels" / "here"
    kernels.mkdir(parents=True)
    command = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernels / "kernel.json").write_text(
        f'{{"argv": {command}, "display_name": "here", "language": "python"}}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "kernels"))
    book = new_notebook(cells=[new_code_cell(source) for source in CELLS])
    client = nbclient.NotebookClient(
        book, timeout=240, kernel_name="here", resources={"metadata": {"path": str(tmp_path)}}
    )
    asyncio.run(client.async_execute())
    nbformat.validate(book)
    shown = book.cells[2].outputs
    widgets = [o for o in shown if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert widgets, "the progress is a widget"
    frames = [o for o in shown if "<iframe" in o.get("data", {}).get("text/html", "")]
    assert len(frames) == 1
    assert book.cells[3].outputs[-1]["data"]["text/plain"] == "[]"
