"""What two processes exchange and learn: methods that pass twice, teachers, shares of rows."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.contract.fixture import close, equal
from tests.engine.twice import EPSILON, RHO, SIZE, Net, Normed, labels, make, rows
from tests.methods.traps import trap

ROOT = Path(__file__).parents[2]
Told = dict[str, Any]


@cache
def launched() -> list[Told]:
    """One launch, for all tests: what each process found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "tests.engine.twice"]
        started = [
            subprocess.Popen(
                [*words, str(rank), folder], cwd=ROOT, env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for rank in range(SIZE)
        ]  # fmt: skip
        try:
            output = "".join(each.communicate(timeout=120)[0] for each in started)
        finally:
            for each in started:
                each.kill()
        assert [each.returncode for each in started] == [0] * SIZE, output
        files = [Path(folder) / f"{rank}.pt" for rank in range(SIZE)]
        return [torch.load(file, weights_only=True) for file in files]


def told(name: str) -> list[Told]:
    return [found[name] for found in launched()]


def exchanges(name: str) -> list[int]:
    """How often each process sent gradients."""
    return [len(one["sent"]) for one in told(name)]


# what each process's own rows give ----------------------------------------------------------------
def gradient(model: Net, ids: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = F.cross_entropy(model(ids), labels(ids))
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def attacked(ids: Tensor) -> dict[str, Tensor]:
    """Clean plus adversarial gradient."""
    model = make()
    clean = gradient(model, ids)
    table = clean["embed.weight"]
    model.embed.weight.data += EPSILON * table / table.norm()
    return {name: clean[name] + grad for name, grad in gradient(model, ids).items()}


def climbed(ids: Tensor) -> dict[str, Tensor]:
    """The gradient at the worst point nearby."""
    model = make()
    clean = gradient(model, ids)
    norm = torch.stack([grad.norm() for grad in clean.values()]).norm()
    for name, parameter in model.named_parameters():
        parameter.data += RHO * clean[name] / norm
    return gradient(model, ids)


EXPECTED = {"fgm": attacked, "sam": climbed}


def learned_of_own_rows(name: str) -> None:
    """Each process moves by its rows' gradient; what is learned is the mean of the processes'."""
    found = told(name)
    each = [EXPECTED[name[:3]](one["met"]) for one in found]
    assert not torch.equal(found[0]["met"], found[1]["met"])
    assert equal(found[0]["learned"], found[1]["learned"])
    assert close(found[0]["learned"], {n: sum(g[n] for g in each) / SIZE for n in each[0]})


# traps ------------------------------------------------------------------------------------------
@trap(right="fgm, no_sync", wrong="fgm, as wrapped")
def test_fgm_exchanges_gradients_once(name: str) -> None:
    """As the engine does."""
    assert exchanges(name) == exchanges("fgm") == [1, 1]


@trap(right="fgm, no_sync", wrong="fgm, no_sync too late")
def test_the_clean_forward_is_within_no_sync(name: str) -> None:
    """DistributedDataParallel decides in the forward whether the backward will exchange."""
    assert exchanges(name) == [1, 1]


@trap(right="fgm", wrong="fgm, summed")
def test_a_summed_clean_gradient_is_not_summed_again(name: str) -> None:
    learned_of_own_rows(name)


@trap(right="sam, no_sync", wrong="sam, as wrapped")
def test_each_process_climbs_its_own_gradient(name: str) -> None:
    learned_of_own_rows(name)


@trap(right="sam, no_sync", wrong="sam, no_sync too late")
def test_the_first_forward_of_sam_is_within_no_sync(name: str) -> None:
    learned_of_own_rows(name)


def test_loop_and_engine_learn_the_same() -> None:
    """Of other rows: the engine shuffles them."""
    for name in ("fgm", "fgm, no_sync", "sam", "sam, no_sync"):
        assert exchanges(name) == [1, 1]
        learned_of_own_rows(name)


@trap(right="window, no_sync", wrong="window, as wrapped")
def test_a_window_exchanges_once(name: str) -> None:
    learned = told(name)[0]["learned"]
    assert close(learned, gradient(make(), torch.cat([one["met"] for one in told("fgm, no_sync")])))
    assert exchanges(name) == [1, 1]


@trap(right="rows", wrong="shares")
def test_a_row_weighs_as_any_other(name: str) -> None:
    """Eight rows in one process and two in the other."""
    first, second = told(name)
    assert equal(first["learned"], second["learned"])
    assert close(first["learned"], gradient(make(), rows()[0]))


@trap(right="pooled", wrong="first")
def test_batch_statistics_are_of_all_rows(name: str) -> None:
    """In the first process too, whose they are in a checkpoint."""
    ids = torch.cat([one["met"] for one in told(name)])
    expected = 0.1 * make(kind=Normed).embed(ids).mean(1).mean(0)
    assert torch.allclose(told(name)[0]["mean"], expected, atol=1e-6)


@trap(right="by rank", wrong="one seed")
def test_processes_draw_differently(name: str) -> None:
    assert not torch.equal(*told(name))


@trap(right="beside", wrong="inside")
def test_a_student_beside_its_teacher_trains(name: str) -> None:
    """What waits for gradients of a teacher never sends the student's."""
    first, second = told(name)
    assert first["told"] == second["told"] == ""
    assert exchanges(name) == [2, 2]
    assert torch.equal(first["weights"], second["weights"])


@trap(right="beside", wrong="inside, searched")
def test_a_teacher_is_not_in_the_wrapper(name: str) -> None:
    size = sum(parameter.numel() for parameter in make().parameters())
    for one in told(name):
        assert one["sent"] == [size, size], "its gradients are sent"
        assert one["held"] == [f"module.{held}" for held in make().state_dict()]
        assert not one["training"], "train() of the student is the teacher's too"


@trap(right="teacher", wrong="teacher, registered")
def test_the_engine_sends_no_teacher(name: str) -> None:
    assert [one["sent"] for one in told(name)] == [one["sent"] for one in told("plain")]
