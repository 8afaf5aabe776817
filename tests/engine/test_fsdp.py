"""Sharded models train as whole ones do: launched by torchrun, two processes over gloo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract.fixture import close, equal, make_run, make_task
from tests.contract.found import names
from tests.engine import ranks, shards
from tests.engine.shards import MADE, UNEVEN
from tests.engine.test_distributed import Found, Launch, launch, same_as
from tests.engine.tiny import tiny
from whet import fsdp, nesting, reducing, sharding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable, UnknownName
from whet.forward import Window
from whet.loading import open_loader
from whet.methods import EMA, FGM, SAM, SWA, ClipGradNorm, LabelSmoothing, Snapshot
from whet.predict import Predictor
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.world import World


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """One launch for all tests; before it, one process leaves a checkpoint."""
    folder = tmp_path_factory.mktemp("sharded")
    make_run(MADE, **UNEVEN, folder=folder / "from one").fit(until=3)
    found = launch("sharded", folder, nodes=1)
    found.found[0]["folder"] = str(folder)
    return found


@pytest.fixture(scope="module")
def two(launched: Launch) -> Found:
    return launched.found


class TestEquality:
    @pytest.mark.parametrize("name", names())
    def test_equals_one_process_or_is_refused(self, name: str, two: Found) -> None:
        if name in shards.equal_ones():
            one = ranks.trained([shards.equal_ones()[name]])
            assert len(one["history"]) == 3
            assert all(same_as(one, found["methods"][name]) for found in two)
        elif name in shards.drawing_ones():
            for found in two:
                assert same_as(found["drawn whole"][name], found["drawn sharded"][name])
        else:
            method = shards.refused_ones()[name]
            said = f"{method.key} does not apply.*fsdp.*[Uu]se strategy='ddp'"
            with pytest.raises(NotApplicable, match=said):
                make_run([method], strategy="fsdp")

    def test_what_is_refused(self) -> None:
        """What needs whole copies, or passes of its own over the data."""
        assert {*shards.refused_ones()} == {
            "arcface", "cosface", "feature_distillation", "moco", "precise_bn", "random_noise",
            "self_distillation", "snapshot", "sphereface", "weight_diversity",
        }  # fmt: skip

    def test_bare_and_methods_together(self, two: Found) -> None:
        several = [SAM(0.1, across="global"), EMA(0.9), FGM(0.5, scope="example")]
        one = ranks.trained(several), ranks.trained([])
        for found in two:
            assert same_as(one[0], found["together"])
            assert same_as(one[1], found["bare"])

    @pytest.mark.parametrize("name", [*shards.VARIANTS])
    def test_other_settings(self, name: str, two: Found) -> None:
        one = ranks.trained([shards.VARIANTS[name]])
        assert all(same_as(one, found["variants"][name]) for found in two)

    def test_stages_blocks_tied_and_frozen_weights(self, two: Found) -> None:
        one = ranks.told(shards.towers().fit())
        assert [row["stage"] for row in one["history"]] == [0, 1, 2]
        assert all(same_as(one, found["towers"]) for found in two)

    def test_a_methods_own_head_beside_the_parts(self, two: Found) -> None:
        one = shards.headed()
        for found in two:
            assert same_as(one, found["headed"])
            assert torch.allclose(one["head"], found["headed"]["head"], atol=1e-6)

    @pytest.mark.parametrize("name", shards.OPTIMIZERS)
    def test_optimizers(self, name: str, two: Found) -> None:
        one = ranks.trained([], optimizer={"name": name, "lr": 0.01})
        assert all(same_as(one, found["optimized"][name]) for found in two)

    def test_processes_are_alike_to_the_bit(self, two: Found) -> None:
        for kind in ("methods", "drawn sharded"):
            for name, first in two[0][kind].items():
                assert equal(first["weights"], two[1][kind][name]["weights"])
                assert first["history"] == two[1][kind][name]["history"]

    def test_a_model_that_each_process_draws_is_the_firsts(self, two: Found) -> None:
        first = ranks.unequal(0)
        assert all(equal(first, found["unequal"]) for found in two)

    def test_samples_of_a_dataset(self, two: Found) -> None:
        assert all(close(ranks.samples()["weights"], found["samples"]) for found in two)

    def test_mixed_precision(self, two: Found) -> None:
        one = shards.halved("ddp")
        assert equal(two[0]["halved"]["weights"], two[1]["halved"]["weights"])
        assert close(one["weights"], two[0]["halved"]["weights"], atol=2e-3)
        assert not close(one["weights"], make_task(coupled=False).model.state_dict(), atol=2e-2)


class TestShares:
    def test_each_holds_its_part(self, two: Found) -> None:
        every = sum(p.numel() for p in shards.tower().parameters())
        held = [found["shares"]["here"] for found in two]
        assert sum(held) == every == two[0]["shares"]["all"]
        assert max(held) < 0.6 * every
        assert all(found["shares"]["whole"] == 0 for found in two)
        assert all(found["shares"]["tied"] for found in two)

    def test_all_make_the_same_passes_and_exchanges(self, two: Found) -> None:
        """Of four micro-batches, of the last of which one process has no row."""
        calls = {name: found["calls"] for name, found in two[0]["waits"].items()}
        assert calls["none"] == calls["ema"] == calls["focal"] == 4
        assert calls["sam"] == calls["fgm"] == 8
        assert calls["freelb"] == 12
        assert two[0]["waits"] == two[1]["waits"]
        assert all(found["travelling"] for found in two[0]["waits"].values())


class TestBlocks:
    def test_rule(self) -> None:
        """Children of containers that hold parameters, the inner ones first; no tied ones."""
        model = shards.tower()
        found = fsdp.blocks(model)
        inner = [[*layer.body.children()] for layer in model.layers]  # GELU holds none
        held = [module for body in inner for module in body if [*module.parameters()]]
        assert {*found} == {*held, *model.layers}
        assert all(found.index(held[n]) < found.index(model.layers[n // 3]) for n in range(9))
        assert model.embed not in found

    def test_tied_weights_stay_with_the_root(self) -> None:
        one, other = nn.Linear(3, 3), nn.Linear(3, 3)
        other.weight = one.weight
        assert fsdp.blocks(nn.Sequential(one, nn.ReLU(), other)) == []
        twice = nn.Linear(3, 3)  # one module that is called twice is one block
        assert fsdp.blocks(nn.Sequential(twice, nn.ReLU(), twice)) == [twice]


class TestCheckpoints:
    def test_in_as_many_processes_to_the_bit(self, two: Found) -> None:
        for found in two:
            assert found["saved"]["at"] == [3, 3, 3, 5]
            through, again = found["saved"]["through"], found["saved"]["fsdp goes on"]
            assert equal(through["weights"], again["weights"])
            assert torch.equal(through["judged"], again["judged"])
            assert through["history"] == again["history"]

    def test_across_strategies_and_numbers_of_processes(self, two: Found) -> None:
        one = ranks.trained(MADE)
        five = ranks.told(make_run(MADE, **UNEVEN).fit(until=5))
        for found in two:
            assert all(same_as(five, found["saved"][name]) for name in ("fsdp", "ddp", "from one"))
            assert same_as(one, found["saved"]["ddp goes on"])

    def test_one_process_goes_on(self, two: Found) -> None:
        folder = Path(two[0]["folder"]) / "ddp"  # where a sharded run went on, until 5
        run = make_run(MADE, **UNEVEN, folder=folder)
        assert run.updates == 5
        assert same_as(ranks.trained(MADE), ranks.told(run.fit()))

    def test_a_file_is_that_of_whole_models(self, two: Found) -> None:
        """The same names, shapes and kinds, and tied weights once."""
        folder = Path(two[0]["folder"])
        shapes = []
        for run in (make_run(MADE, **UNEVEN, folder=folder / "whole").fit(until=5),
                    make_run(MADE, **UNEVEN, folder=folder / "ddp")):  # fmt: skip
            place = run.folder / "checkpoints" / "00000005" / "state.pt"
            state = torch.load(place, weights_only=True)
            shapes.append([*_shapes({k: state[k] for k in ("model", "stack", "optimizer")})])
        assert shapes[0] == shapes[1]

    def test_a_state_in_memory_is_the_first_processs(self, two: Found) -> None:
        for found in two:
            again = found["carried over"]
            assert equal(again["first"]["weights"], again["second"]["weights"])
        held = [found["carried over"]["held"] for found in two]
        assert held[1] < 0.2 * held[0]  # the others keep shapes

    def test_an_exported_predictor(self, two: Found) -> None:
        path = Path(two[0]["folder"]) / "towers.safetensors"
        given = Batch.of(ranks.data(20, 2))
        one = shards.towers().fit().predictor()
        again = Predictor.load(path, shards.tower())
        assert torch.allclose(one(given), again(given), atol=1e-5)
        for found in two:  # another run starts from the file
            assert equal(again.members()[0], found["exported"])


def _shapes(nest: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(nest, dict):
        for key, value in nest.items():
            yield from _shapes(value, f"{path}/{key}")
    elif isinstance(nest, list):
        for at, value in enumerate(nest):
            yield from _shapes(value, f"{path}/{at}")
    elif isinstance(nest, torch.Tensor):
        yield path, (nest.shape, nest.dtype, nest.device)
    else:
        yield path, type(nest)


class TestSpareRows:
    def test_a_share_of_no_row_is_a_row_that_does_not_count(self) -> None:
        world = World(1, 2)
        world.sharded = True
        for given in (ranks.data(), ranks.Squares()):
            *_, last = sharding.share(open_loader(given, 13), world).epoch(0)
            assert last.size == 1
            assert last.spare
            assert not last.rows_with_target().any()
            assert last.to("cpu").take(slice(0, 1)).spare
        window = Window.of([last], lambda batch: 7.0)
        assert (window.items, window.rows) == (0.0, 0)

    def test_it_is_no_micro_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor a row: the totals of all processes are those of one."""
        row = Batch.of(ranks.data(1))
        window = Window.of([row, row.replace(spare=True)], lambda batch: float(batch.size))
        monkeypatch.setattr(World, "sums", lambda world, *values: list(values))
        totals = reducing.totals(window, World(1, 2))
        assert (totals.items, totals.rows, totals.micros) == (1.0, 1, 1)

    def test_its_loss_and_terms_are_nothing(self) -> None:
        """Also those that count rows: the key to a process without rows making the passes."""
        run = make_run([LabelSmoothing(0.1)], coupled=False)
        row = Batch.of(ranks.data(1))
        run.stack.gradients(run.stack.window([row.replace(spare=True)]))
        grads = [p.grad for p in run.module.parameters()]
        assert all(grad is not None and not grad.any() for grad in grads)
        assert run.stack.loss == 0.0


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "words"),
        [("sharded", "strategy='fsdp'"), ("scalar", "temperature"), ("mixed", "float64")],
    )
    def test_names_thing_and_remedy(self, kind: str, words: str, two: Found) -> None:
        assert all(words in found["refusals"][kind] for found in two)

    def test_unknown_strategy(self) -> None:
        with pytest.raises(UnknownName, match=r"unknown strategy 'fdsp'.*ddp, fsdp"):
            make_run(strategy="fdsp")

    def test_fp16(self) -> None:
        with pytest.raises(InputError, match=r"precision='fp16'.*strategy='fsdp' use 'bf16'"):
            fsdp.check("fsdp", "fp16")

    @pytest.mark.parametrize(
        ("method", "remedy"),
        [(SAM(0.1), "across='global'"), (FGM(1.0), "scope='output'"), (SWA(swag=3), "swag=0"),
         (EMA((0.9, 0.99)), "one decay")],
    )  # fmt: skip
    def test_says_with_which_settings_it_does(self, method: Any, remedy: str) -> None:
        with pytest.raises(NotApplicable, match=f"Set .*{remedy}.* use strategy='ddp'"):
            make_run([method], strategy="fsdp")

    def test_what_does_not_say_that_it_can(self) -> None:
        """A method of a user's own is taken to need whole weights, unless it says otherwise."""
        with pytest.raises(NotApplicable, match="mine does not apply"):
            nesting.check_sharded([tiny("mine")])
        nesting.check_sharded([tiny("mine", whole_weights=False)])

    def test_a_later_stage_too(self) -> None:
        recipe = Recipe([Stage(updates=1), Stage(updates=4, methods=[Snapshot(2)])])
        with pytest.raises(NotApplicable, match="snapshot"):
            Run(make_task(), recipe, strategy="fsdp")

    def test_one_process_trains_the_whole_and_says_so(self) -> None:
        run = make_run([ClipGradNorm(1.0)], strategy="fsdp")
        assert run.notes == [fsdp.ALONE]
        assert not hasattr(next(run.module.parameters()), "full_tensor")
        assert equal(
            run.fit().module.state_dict(), make_run([ClipGradNorm(1.0)]).fit().module.state_dict()
        )


def test_a_killed_process_stops_all_with_one_message(launched: Launch) -> None:
    """It dies within a pass, where torch itself exchanges weights."""
    assert launched.codes == [1]
    output, folder = launched.output, Path(launched.found[0]["folder"])
    assert output.count("LostProcess: process") <= 1
    assert output.count("Traceback (most recent call last)") <= 2  # the launcher's own, and one
    assert "RuntimeError" not in output
    resumed = make_run([EMA(0.9)], **UNEVEN, folder=folder / "killed")
    assert resumed.updates == 2
    assert same_as(ranks.trained([EMA(0.9)]), ranks.told(resumed.fit()))
