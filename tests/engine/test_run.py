"""Run: the loop, its lengths, its stages and what stands still in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.contract.fixture import (
    data,
    equal,
    make_model,
    make_run,
    make_task,
    weights,
)  # fmt: skip
from tests.contract.test_singles import same
from tests.engine.tiny import linear, rows, sgd, tiny
from whet import callback, checkpoint, entering, seeding
from whet.batch import Batch
from whet.errors import CheckpointError, Clash, InputError
from whet.method import Layer, Method, Resource, method
from whet.predict import Predictor
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.streams import Replayed
from whet.task import Task
from whet.training import Training

PLAIN = {"name": "sgd", "lr": 0.1}


def small(count: int = 20, **changes: Any) -> Task:
    given: dict[str, Any] = {"model": linear(), "train": rows(count)} | changes
    return Task(**given)


def run_of(task: Task, recipe: Any = None, **changes: Any) -> Run:
    recipe = recipe or Stage(updates=4, batch_size=4, optimizer=PLAIN)
    return Run(task, recipe, **({"device": "cpu"} | changes))


class TestTheLoop:
    def by_hand(self, updates: int, size: int, seed: int, accumulate: int = 1) -> nn.Module:
        """The same training with torch alone, and randomness by position."""
        model, given = make_model(seed), data()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        labels, count = given["labels"], len(given["labels"])
        window = epoch = 0
        while window < updates:
            key = seeding.key(seeding.key(seed, 0), "train", "order", epoch)
            order = torch.randperm(count, generator=torch.Generator().manual_seed(key))
            parts = order.split(size)
            for at in range(0, len(parts), accumulate):
                if window == updates:
                    break
                optimizer.zero_grad()
                micros = parts[at : at + accumulate]
                total = sum(map(len, micros))
                for micro, part in enumerate(micros):
                    position = seeding.mix(seeding.mix(seeding.key(seed, 0, 0), window), micro)
                    torch.manual_seed(position)
                    output = model(given["tokens"][part], given["floats"][part])
                    losses = nn.functional.cross_entropy(output, labels[part], reduction="none")
                    (losses.mean() if accumulate == 1 else losses.sum() / total).backward()
                optimizer.step()
                window += 1
            epoch += 1
        return model

    @pytest.mark.parametrize("accumulate", [1, 2, 3])
    def test_it_equals_a_loop_by_hand_to_the_bit(self, accumulate: int) -> None:
        """Batch normalisation, dropout, momentum; two epochs and a tail window in each."""
        run = make_run(seed=3, updates=11, batch_size=6, accumulate=accumulate).fit()
        by_hand = self.by_hand(11, 6, seed=3, accumulate=accumulate)
        assert equal(weights(run.module), weights(by_hand))

    def test_the_seed_decides(self) -> None:
        one, same_seed = make_run(seed=1).fit(), make_run(seed=1).fit()
        assert equal(weights(one.module), weights(same_seed.module))
        task = make_task(1)
        other = Run(task, make_run(seed=1).recipe, seed=2, device="cpu").fit()
        assert not equal(weights(one.module), weights(other.module))

    def test_what_others_draw_does_not_matter(self) -> None:
        def disturb(run: Run) -> None:
            torch.manual_seed(run.updates)

        plain = make_run().fit()
        run = make_run()
        run.callbacks = callback.made([disturb])
        assert equal(weights(plain.module), weights(run.fit().module))


class TestLength:
    @pytest.mark.parametrize(
        ("stage", "updates", "epochs"),
        [
            ({"updates": 7}, 7, 1),
            ({"epochs": 1}, 5, 1),
            ({"epochs": 2.4}, 12, 2),
            ({"epochs": 0.01}, 1, 0),
            ({"epochs": 2, "accumulate": 2}, 6, 2),
            ({"epochs": 2, "accumulate": 9}, 2, 2),
            ({"epochs": 2, "batch_size": 3}, 14, 2),
            ({"epochs": 2, "batch_size": 3, "drop_last": True}, 12, 2),
        ],
    )
    def test_updates_or_epochs(self, stage: dict[str, Any], updates: int, epochs: int) -> None:
        run = run_of(small(), Stage(**({"batch_size": 4} | stage))).fit()
        assert run.updates == run.stack.run.updates == updates
        assert run.stack.run.epoch == epochs

    def test_a_loaders_own_length(self) -> None:
        batch = rows(20)
        assert batch.targets is not None
        ready = DataLoader(TensorDataset(batch.inputs, batch.targets), batch_size=8)
        assert run_of(small(train=ready), Stage(epochs=2)).fit().updates == 6

    def test_a_stream_of_unknown_length(self) -> None:
        class Stream(IterableDataset[tuple[Tensor, Tensor]]):
            def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
                batch = rows(10)
                assert batch.targets is not None
                yield from zip(batch.inputs, batch.targets, strict=True)

        with pytest.raises(InputError, match=r"does not say how long.*Stage\(updates=N\)"):
            run_of(small(train=Stream()), Stage(epochs=1))
        run = run_of(small(train=Stream()), Stage(updates=7, batch_size=4, accumulate=2)).fit()
        assert (run.updates, run.stack.run.epoch, run.stack.run.micros) == (7, 3, 11)

    def test_windows_never_cross_an_epoch(self) -> None:
        sizes: list[list[int]] = []

        def gradients(self: Method, run: Training, window: Any, inner: Any) -> None:
            sizes.append([batch.size for batch in window.batches])
            inner(window)

        stage = Stage(epochs=2, batch_size=6, accumulate=3, methods=[tiny(gradients=gradients)])
        run_of(small(20), stage).fit()
        assert sizes == [[6, 6, 6], [2]] * 2

    def test_until(self) -> None:
        run = run_of(small(), Recipe([Stage(updates=3), Stage(updates=4)]))
        assert run.fit(until=2).updates == 2
        assert run.fit(until=2).updates == 2
        assert run.fit(until=5).stage_number == 1
        assert run.fit().fit().updates == 7

    @pytest.mark.parametrize(
        "given",
        [{}, {"updates": 1, "epochs": 1}, {"updates": 0}, {"epochs": -1}, {"updates": 1,
         "batch_size": 0}, {"updates": 1, "accumulate": 0}, {"updates": 1, "methods": "ema"},
         {"updates": 1, "freeze": "head"}],
    )  # fmt: skip
    def test_a_bad_stage(self, given: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            Stage(**given)

    def test_a_bad_recipe(self) -> None:
        with pytest.raises(InputError, match="at least one Stage"):
            Recipe([])
        with pytest.raises(InputError, match=r"methods is a list: write methods=\['ema'\]"):
            Recipe([Stage(updates=1)], methods="ema")


class TestInterrupted:
    def test_an_error_within_an_update_loses_no_batch(self) -> None:
        """Who catches it and calls `fit` again goes on with the window that was not trained."""

        def fail(self: Method, run: Training, window: Any, inner: Any) -> None:
            if run.window == 2 and not failed:
                failed.append(1)
                raise KeyboardInterrupt
            inner(window)

        failed: list[int] = [1]
        plain = run_of(
            small(), Stage(updates=6, batch_size=4, methods=[tiny(gradients=fail)])
        ).fit()
        failed.clear()
        run = run_of(small(), Stage(updates=6, batch_size=4, methods=[tiny(gradients=fail)]))
        with pytest.raises(KeyboardInterrupt):
            run.fit()
        run.fit()
        assert equal(weights(plain.module), weights(run.module))

    def test_resumed_in_the_middle_of_an_accumulated_epoch(self, tmp_path: Path) -> None:
        through = make_run(updates=8, accumulate=3).fit()
        for until in (1, 2, 3, 5):
            make_run(updates=8, accumulate=3, folder=tmp_path).fit(until=until)
        assert same(
            through.state_dict(),
            make_run(updates=8, accumulate=3, folder=tmp_path).fit().state_dict(),
        )


class Counter(Method):
    """Counts its updates, over stages where it stands on the recipe."""

    name = "counter"
    layer = Layer.GRADIENT

    def __init__(self) -> None:
        self.seen = 0
        self.starts = 0

    def start(self, run: Training) -> None:
        self.starts += 1

    def after_update(self, run: Training) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class TestStages:
    def seen(self, run: Run, key: str = "counter") -> int:
        [found] = [one for one in run.stack.methods if one.key == key]
        assert isinstance(found, Counter)
        return found.seen

    def test_methods_of_the_recipe_keep_their_state_and_a_stages_begin_anew(self) -> None:
        stages = [Stage(updates=n, methods=[Counter().labelled("own")]) for n in (3, 2, 4)]
        run = run_of(small(), Recipe(stages, methods=[Counter()])).fit()
        assert self.seen(run) == 9
        assert self.seen(run, "counter:own") == 4

    def test_over_a_resume(self, tmp_path: Path) -> None:
        recipe = Recipe([Stage(updates=3), Stage(updates=4)], methods=[Counter().during(0.5)])
        for until in (1, 3, 4, 6):
            run_of(small(), recipe, folder=tmp_path).fit(until=until)
        run = run_of(small(), recipe, folder=tmp_path).fit()
        assert self.seen(run) == self.seen(run_of(small(), recipe).fit()) == 4

    def test_modules_that_the_recipes_methods_built_stay(self) -> None:
        @method
        class Headed(Method):
            name: ClassVar[str] = "headed"
            layer: ClassVar[Layer] = Layer.GRADIENT

            def build(self, run: Training) -> None:
                with seeding.borrowed(run.stage_number):
                    run.heads[self.key] = nn.Linear(2, 2)

        run = run_of(small(), Recipe([Stage(updates=2), Stage(updates=2)], methods=[Headed()]))
        first = run.stack.run.heads["headed"].weight.clone()
        run.fit()
        assert torch.equal(first, run.stack.run.heads["headed"].weight)

    def test_training_weights_go_on(self) -> None:
        recipe = Recipe([Stage(updates=2, optimizer=PLAIN)] * 2)
        starts = self.starts_of(recipe)
        assert equal(starts["end of 0"], starts["start of 1"])

    def test_evaluation_weights_go_on(self) -> None:
        ema: dict[str, Any] = {"name": "ema", "decay": 0.9}
        first = Stage(updates=3, optimizer=PLAIN, methods=[ema])
        second = Stage(updates=2, optimizer=PLAIN, starts_from="evaluation")
        starts = self.starts_of(Recipe([first, second]))
        assert equal(starts["judged at 0"], starts["start of 1"])
        assert not equal(starts["end of 0"], starts["start of 1"])

    def starts_of(self, recipe: Recipe) -> dict[str, dict[str, Tensor]]:
        run = run_of(small(), recipe).fit(until=recipe.stages[0].updates)
        found = {"end of 0": weights(run.module), "judged at 0": run.predictor().members()[0]}
        entering.hand_over(run)
        return found | {"start of 1": weights(run.module)}

    @pytest.mark.parametrize("at", [0, 1])
    def test_an_artifact(self, tmp_path: Path, at: int) -> None:
        path = tmp_path / "first.safetensors"
        trained = run_of(small()).fit()
        trained.predictor().save(path)
        stages = [Stage(updates=1), Stage(updates=1)]
        stages[at] = Stage(updates=1, starts_from=str(path))
        run = run_of(small(model=linear(9)), Recipe(stages)).fit(until=at)
        if at == 1:
            entering.hand_over(run)
        assert equal(weights(trained.module), weights(run.module))

    def test_an_artifact_of_another_model(self, tmp_path: Path) -> None:
        path = tmp_path / "first.safetensors"
        run_of(small()).predictor().save(path)
        stage = Stage(updates=1, starts_from=str(path))
        with pytest.raises(CheckpointError, match=r"another model.*weight \(3, 5\) \(\(4, 5\)\)"):
            run_of(small(model=linear(classes=4)), stage)
        with pytest.raises(CheckpointError, match=r"nothing\.safetensors is no predictor"):
            run_of(small(), Stage(updates=1, starts_from=str(tmp_path / "nothing.safetensors")))

    def test_an_artifact_of_several_models(self, tmp_path: Path) -> None:
        path = tmp_path / "many.safetensors"
        run = run_of(small(), Stage(updates=4, methods=[{"name": "snapshot", "cycles": 2}])).fit()
        run.predictor().save(path)
        with pytest.raises(InputError, match="holds 2 models; a stage starts from one"):
            run_of(small(), Stage(updates=1, starts_from=str(path)))

    def test_every_stage_has_its_own_randomness_and_data(self) -> None:
        orders: list[list[int]] = []

        def gradients(self: Method, run: Training, window: Any, inner: Any) -> None:
            orders.append([i for batch in window.batches for i in batch.indices.tolist()])
            inner(window)

        watched = tiny(gradients=gradients)
        stages = [Stage(updates=1, batch_size=20), Stage(updates=1, batch_size=20),
                  Stage(updates=1, batch_size=20, data=rows(7))]  # fmt: skip
        run_of(small(), Recipe(stages, methods=[watched])).fit()
        assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))
        assert orders[0] != orders[1]
        assert sorted(orders[2]) == list(range(7))

    def test_another_objective(self) -> None:
        real = rows(20).replace(targets=rows(20).inputs[:, :3])
        stages = [Stage(updates=2, data=real, objective="real"), Stage(updates=2)]
        run = run_of(small(select=rows(9)), Recipe(stages)).fit()
        assert run.stack.objective.family.name == "categorical"
        assert [row["stage"] for row in run.history] == [1], "a stage of reals is not judged"

    def test_a_later_stages_mistake_is_found_before_the_first_is_trained(self) -> None:
        owner = tiny("warm", owns=frozenset({Resource.LEARNING_RATE}))
        good = Stage(updates=1)
        with pytest.raises(InputError, match="unknown method 'emma'; did you mean 'ema'"):
            run_of(small(), Recipe([good, Stage(updates=1, methods=["emma"])]))
        with pytest.raises(Clash, match="second gradient"):
            run_of(small(), Recipe([good, Stage(updates=1, methods=["fgm", "freelb"])]))
        with pytest.raises(Clash, match="learning rate"):
            run_of(small(), Recipe([good, Stage(updates=1, methods=[owner], schedule="cosine")]))


class TestFrozen:
    def net(self) -> nn.Sequential:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        return nn.Sequential(body, nn.BatchNorm1d(6), nn.Linear(6, 3))

    @pytest.mark.parametrize("pattern", ["0", "0.*"])
    def test_a_module_stands_still(self, pattern: str) -> None:
        model = self.net()
        before = weights(model)
        run = run_of(small(model=model), Stage(updates=3, freeze=[pattern])).fit()
        moved = {
            name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])
        }
        assert moved == {"1.weight", "1.bias", "1.running_mean", "1.running_var",
                         "1.num_batches_tracked", "2.weight", "2.bias"}  # fmt: skip
        assert not any(module.training for module in model[0].modules())
        assert model.training
        assert model[1].training
        assert len(run.stack.optimizer.param_groups) == 2
        assert sum(len(group["params"]) for group in run.stack.optimizer.param_groups) == 4

    def test_evaluating_leaves_it_in_evaluation_mode(self) -> None:
        model = self.net()
        run_of(
            small(model=model, select=rows(8)), Stage(updates=3, freeze=["0"]), evaluate_every=1
        ).fit()
        assert not model[0][2].training
        assert model[1].training

    def test_some_parameters_of_a_module(self) -> None:
        model = self.net()
        before = weights(model)
        run_of(small(model=model), Stage(updates=2, freeze=["*.bias"])).fit()
        assert torch.equal(model[2].bias, before["2.bias"])
        assert not torch.equal(model[2].weight, before["2.weight"])
        assert model[1].training, "a module that is frozen in part still trains"

    def test_the_next_stage_thaws(self) -> None:
        model = self.net()
        model[2].bias.requires_grad_(False)
        recipe = Recipe([Stage(updates=1, freeze=["0"]), Stage(updates=1)])
        run_of(small(model=model), recipe).fit()
        assert model[0].training
        assert model[0][0].weight.requires_grad
        assert not model[2].bias.requires_grad, "what its user froze stays frozen"

    def test_a_tied_weight_by_either_name(self) -> None:
        for pattern in ("0", "1"):
            model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
            model[1].weight = model[0].weight
            run = run_of(small(model=nn.Sequential(model, nn.Linear(5, 3))),
                         Stage(updates=1, freeze=[f"0.{pattern}"]))  # fmt: skip
            assert not model[0].weight.requires_grad
            assert not model[0].training
            assert not model[1].training
            run.fit()

    def test_no_match_lists_candidates(self) -> None:
        with pytest.raises(
            InputError, match=r"no parameter matches 'encoder'; there are: 0\.0, 0\.1, 1"
        ):
            run_of(small(model=self.net()), Stage(updates=1, freeze=["encoder"]))

    def test_everything(self) -> None:
        with pytest.raises(InputError, match="empty parameter list"):
            run_of(small(model=self.net()), Stage(updates=1, freeze=["*"]))


class TestWatching:
    def test_history(self) -> None:
        task = small(select=rows(12, 1), metrics=["accuracy", "log_loss"])
        recipe = Recipe([Stage(updates=5, batch_size=4), Stage(updates=2, batch_size=4)])
        run = run_of(task, recipe, evaluate_every=2).fit()
        assert [row["update"] for row in run.history] == [2, 4, 5, 6, 7]
        assert [row["stage"] for row in run.history] == [0, 0, 0, 1, 1]
        assert all(list(row["metrics"]) == ["accuracy", "log_loss"] for row in run.history)
        assert run.history[-1]["metrics"] == run.evaluate("select")
        assert all(row["loss"] > 0 for row in run.history)
        json.dumps(run.history)

    def test_stage_ends_only(self) -> None:
        run = run_of(small(select=rows(12, 1))).fit()
        assert [row["update"] for row in run.history] == [4]
        assert run_of(small()).fit().history == []

    def test_methods_are_told(self) -> None:
        told: list[list[str]] = []
        watcher = tiny(evaluated=lambda self, run, metrics: told.append(list(metrics)))
        stage = Stage(updates=2, methods=[watcher])
        run_of(small(select=rows(9), metrics=["accuracy"]), stage, evaluate_every=1).fit()
        assert told == [["accuracy"], ["accuracy"]]

    def test_a_function_after_each_update(self) -> None:
        seen: list[int] = []
        run_of(small(), callbacks=[lambda run: seen.append(run.updates)]).fit()
        assert seen == [1, 2, 3, 4]

    def test_a_skipped_update_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[int] = []
        run = run_of(small(), callbacks=[lambda run: seen.append(run.updates)])
        step, skip = run.stack.step, iter([False, True, False, False])

        def skipping(batches: list[Batch]) -> bool:
            if not next(skip, True):
                run.stack.gradients(run.stack.window(batches))
                run.stack.after_update(False)
                return False
            return step(batches)

        monkeypatch.setattr(run.stack, "step", skipping)
        run.fit()
        assert seen == [1, 2, 3, 4]
        assert run.stack.run.window == 7


class TestPrecision:
    def test_bf16_on_a_cpu(self) -> None:
        dtypes: list[torch.dtype] = []
        task = make_task()
        task.model.hidden.register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
        stage = Stage(updates=4, batch_size=6, accumulate=2, optimizer=PLAIN)
        run = Run(task, stage, device="cpu", precision="bf16").fit()
        assert set(dtypes) == {torch.bfloat16}
        assert all(p.dtype == torch.float32 for p in task.model.parameters())
        dtypes.clear()
        metrics = run.evaluate()
        assert set(dtypes) == {torch.bfloat16}
        assert 0 < metrics["log_loss"] < 3
        plain = make_run(updates=4, optimizer=PLAIN).fit()
        for name, tensor in weights(plain.module).items():
            assert torch.allclose(tensor.float(), weights(run.module)[name].float(), atol=0.05), (
                name
            )

    def test_bf16_resumes_to_the_bit(self, tmp_path: Path) -> None:
        def make(folder: Path | None = None) -> Run:
            stage = Stage(updates=5, batch_size=6, methods=["ema"], schedule="cosine")
            return Run(make_task(), stage, folder=folder, device="cpu", precision="bf16")

        make(tmp_path).fit(until=2)
        assert same(make().fit().state_dict(), make(tmp_path).fit().state_dict())

    def test_refusals(self) -> None:
        with pytest.raises(InputError, match=r"'fp16' needs CUDA; on a CPU use 'bf16' or 'fp32'"):
            run_of(small(), precision="fp16")
        with pytest.raises(InputError, match="precision is 'half'; it is one of fp32, bf16, fp16"):
            run_of(small(), precision="half")
        with pytest.raises(InputError, match="device is 'gpu'; it is one of auto, cpu, cuda"):
            run_of(small(), device="gpu")

    def test_cuda_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(InputError, match="torch finds no CUDA device: use 'auto' or 'cpu'"):
            run_of(small(), device="cuda")
        assert run_of(small(), device="auto").device.type == "cpu"


class TestFiles:
    def test_retention(self, tmp_path: Path) -> None:
        run_of(small(), folder=tmp_path, checkpoint_every=1, keep=2).fit()
        assert checkpoint.numbers(tmp_path / "checkpoints") == [3, 4]
        run_of(small(), Stage(updates=6), folder=tmp_path / "all", checkpoint_every=2, keep=9).fit()
        assert checkpoint.numbers(tmp_path / "all" / "checkpoints") == [2, 4, 6]

    @pytest.mark.parametrize("name", ["keep", "evaluate_every", "checkpoint_every"])
    def test_bad_counts(self, name: str) -> None:
        with pytest.raises(InputError, match=f"{name} is 0; it must be at least 1"):
            run_of(small(), **{name: 0})

    def test_without_a_folder(self) -> None:
        run = run_of(small(), checkpoint_every=1).fit()
        with pytest.raises(InputError, match="no folder to save to: pass folder="):
            run.save()

    def test_a_finished_run_is_not_trained_again(self, tmp_path: Path) -> None:
        first = run_of(small(), folder=tmp_path).fit()
        again = run_of(small(), folder=tmp_path)
        assert again.updates == 4
        again.fit()
        assert equal(weights(first.module), weights(again.module))

    def test_the_manifest(self, tmp_path: Path) -> None:
        run = run_of(small(), Stage(updates=2, methods=["ema"]), seed=5, folder=tmp_path).fit()
        told = json.loads((tmp_path / "run.json").read_text())
        assert told["seed"] == 5
        assert told["torch"] == torch.__version__
        assert told["threads"] == torch.get_num_threads()
        assert told["deterministic"] is False
        assert (told["device"], told["precision"], told["world_size"]) == ("cpu", "fp32", 1)
        assert told["explain"] == run.stack.explain()

    def test_drafts_of_killed_processes_are_swept(self, tmp_path: Path) -> None:
        draft = tmp_path / "checkpoints" / ".00000001.4711.tmp"
        draft.mkdir(parents=True)
        (draft / "state.pt").write_bytes(b"half")
        run_of(small(), folder=tmp_path).fit()
        assert not draft.exists()
        assert run_of(small(), folder=tmp_path).updates == 4

    def test_a_checkpoint_of_another_model(self, tmp_path: Path) -> None:
        run_of(small(), folder=tmp_path).fit()
        with pytest.raises(
            CheckpointError, match=r"model is another one.*size mismatch for weight"
        ):
            run_of(small(model=linear(classes=4)), folder=tmp_path)

    def test_a_checkpoint_of_another_recipe(self, tmp_path: Path) -> None:
        run_of(small(), folder=tmp_path).fit(until=2)
        with pytest.raises(CheckpointError, match="stage 1 is new"):
            run_of(small(), Recipe([Stage(updates=4)] * 2), folder=tmp_path)
        frozen = Stage(updates=4, batch_size=4, optimizer=PLAIN, freeze=["bias"])
        with pytest.raises(CheckpointError, match=r"freeze \[\] -> \['bias'\]"):
            run_of(small(), frozen, folder=tmp_path)


class TestReadyLoaders:
    """A user's own DataLoader, whose samples are augmented with torch, Python and numpy."""

    def task(self) -> Task:
        from tests.engine.test_loading import Augmented

        ready = DataLoader(Augmented(), batch_size=4, shuffle=True)
        select = DataLoader(Augmented(6), batch_size=4)
        model = nn.Sequential(linear(dim=4), nn.BatchNorm1d(3))
        return small(model=model, train=ready, select=select)

    def run(self, **changes: Any) -> Run:
        stage = Stage(updates=7, accumulate=2, optimizer=PLAIN, methods=["precise_bn"])
        return run_of(self.task(), stage, **changes)

    def test_evaluating_leaves_training_untouched(self) -> None:
        plain, watched = self.run().fit(), self.run(evaluate_every=1).fit()
        assert equal(weights(plain.module), weights(watched.module))
        assert len(watched.history) == 7

    def test_a_resume_within_an_epoch(self, tmp_path: Path) -> None:
        through = self.run().fit()
        self.run(folder=tmp_path).fit(until=1)
        continued = self.run(folder=tmp_path)
        with pytest.warns(Replayed, match="batch 2 of epoch 0 is reached by reading the 2 before"):
            continued.fit(until=2)
        self.run(folder=tmp_path).fit(until=4)
        resumed = self.run(folder=tmp_path).fit()
        assert equal(weights(through.module), weights(resumed.module))

    def test_a_pause_within_an_epoch(self) -> None:
        through, paused = self.run().fit(), self.run()
        paused.fit(until=1)
        with pytest.warns(Replayed):
            paused.fit(until=4)
        paused.fit(until=5)
        with pytest.warns(Replayed):
            paused.fit(until=7)
        assert equal(weights(through.module), weights(paused.module))

    def test_workers_of_the_engines_own(self) -> None:
        from tests.engine.test_loading import Augmented

        def trained(workers: int) -> Run:
            stage = Stage(updates=5, batch_size=4, workers=workers, optimizer=PLAIN)
            return run_of(small(model=linear(dim=4), train=Augmented()), stage).fit()

        assert equal(weights(trained(0).module), weights(trained(2).module))


def test_a_task_trains_on_what_it_is_given() -> None:
    """The reader of the training data is the same for the loop and for methods beside it."""
    seen: list[int] = []

    def evaluating(self: Method, run: Training) -> Any:
        from contextlib import nullcontext

        seen.extend(batch.size for batch in run.data("aside"))
        return nullcontext()

    run = run_of(small(20), Stage(updates=2, batch_size=8, methods=[tiny(evaluating=evaluating)]))
    run.fit()
    plain = run_of(small(20), Stage(updates=2, batch_size=8)).fit()
    run.predictor()
    assert seen == [8, 8, 4]
    assert equal(weights(run.module), weights(plain.module))


def test_optimizers_of_all_kinds_are_taken() -> None:
    made: list[Callable[..., Any]] = [sgd, torch.optim.Adagrad]
    for function in made:
        run = run_of(small(), Stage(updates=2, optimizer=function)).fit()
        assert run.updates == 2
    with pytest.raises(InputError, match="cannot make an optimizer or schedule from a SGD"):
        run_of(small(), Stage(updates=2, optimizer=sgd(linear().parameters())))


def test_predictor_of_a_run_is_exported(tmp_path: Path) -> None:
    run = run_of(small(select=rows(9)), Stage(updates=3, methods=["ema"])).fit()
    run.predictor().save(tmp_path / "p.safetensors")
    loaded = Predictor.load(tmp_path / "p.safetensors", linear(7))
    assert torch.equal(loaded(rows(9)), run.predictor()(rows(9)))
