"""What is measured, and against what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from torch import nn

from benchmarks import (
    averages,
    costs,
    engines,
    members,
    predictions,
    steps,
    storage,
    studies,
    updates,
)
from benchmarks.averages import Size
from benchmarks.children import at_once, memory
from benchmarks.deep import Work, numbers, pictures, sentences
from benchmarks.engines import SMALL, TEN_MS, TWENTY_MS, WIDE, Setting
from benchmarks.entries import Condition, Entry, Group
from benchmarks.peers import PEERS
from benchmarks.timing import Chunk

DEEP = (  # a plain step of each takes about 20 ms
    sentences(words=4000, width=64, layers=4, batch=8, length=32, steps=4),
    pictures(channels=64, layers=8, batch=16, steps=4),
    numbers(Setting((64, *[256] * 6, 10), batch=1024, steps=4)),
)
SHALLOW = sentences(20, 8, 1, 4, 5, 3), pictures(4, 2, 4, 3), numbers(Setting((8, 16, 4), 8, 3))

HOW = {
    "fabric": "Fabric.setup and Fabric.backward",
    "accelerate": "Accelerator.prepare and Accelerator.backward",
    "lightning": "Trainer(barebones=True), set-up of the fit not counted",
    "trainer": "Hugging Face's, nothing saved, logged, shown or clipped, though it takes the "
    "gradients' norm in any case; set-up of the fit not counted",
}


def _engines(setting: Setting, suffix: str, most: float, repeats: int) -> Group:
    source = f"{setting.words}; all slice the same tensors in memory, whet with its own loader"
    peers = [
        Entry(f"{name}_{suffix}", name, "hand loop", note=f"{source}; {HOW[name]}")
        for name in PEERS
    ]
    own = Entry(f"engine_{suffix}", "whet", "hand loop", most, below=tuple(PEERS), note=source)
    makers: dict[str, Callable[[Setting], Chunk]] = {
        "hand loop": engines.hand, "whet": engines.with_whet, **PEERS
    }  # fmt: skip
    return Group(
        {name: partial(make, setting) for name, make in makers.items()}, [own, *peers], repeats,
        setting.steps, "step",
    )  # fmt: skip


def _averages(size: Size) -> Group:
    model = cache(size.model)

    makers: dict[str, Callable[[nn.Module], Chunk]] = {
        "whet": averages.with_whet,
        "flat lerp_": averages.limit,
        "clone": averages.clone,
        "AveragedModel": averages.averaged_model,
        "AveragedModel, multi": averages.averaged_model_multi,
    }
    what = "22.7 M float32 in 103 tensors, shapes of a six-layer BERT of width 384"
    entries = [
        Entry("ema_vs_limit", "whet", "flat lerp_", most=1.5,
              note=f"{what}; the limit is one lerp_ over as many floats in one piece"),
        Entry("ema_vs_clone", "clone", "whet", least=10.0,
              note=f"{what}; the usual class with shadow[name] = new.clone(); more is better"),
        Entry("clone_vs_limit", "clone", "flat lerp_",
              note=f"{what}; how much faster than the usual class anything could be here"),
        Entry("ema_vs_averaged_model", "AveragedModel", "whet",
              note=f"{what}; torch's AveragedModel with get_ema_avg_fn; more is better"),
        Entry("ema_vs_averaged_model_multi", "AveragedModel, multi", "whet",
              note=f"{what}; torch's AveragedModel with get_ema_multi_avg_fn; more is better"),
    ]  # fmt: skip
    return Group(
        {name: partial(_on, make, model) for name, make in makers.items()}, entries, 30, 1,
        "update",
    )  # fmt: skip


def _on(make: Callable[[nn.Module], Chunk], model: Callable[[], nn.Module]) -> Chunk:
    return make(model())


def _nothing() -> Group:
    entry = Entry(
        "noop_ten_us", "ten no-ops", "none", added=5.0,
        note="microseconds that ten methods add to a step which override forward, before_update "
        "and after_update and do nothing; median of the differences of neighbours",
    )  # fmt: skip
    makers = {"none": partial(steps.no_ops, 0), "ten no-ops": partial(steps.no_ops, 10)}
    return Group(makers, [entry], 640, steps.NO_OP.steps, "step", each=4, warmup=4)


def _costs(*work: Work) -> list[Group]:
    return [costs.group(cost) for cost in costs.rows(*work)]


def _updates(size: Size, repeats: int) -> Group:
    what = "AdamW, 22.7 M float32 in 103 tensors"
    makers = {
        how: partial(updates.step, size, "adamw", how) for how in ("fused", "foreach", "loop")
    }
    entries = [
        Entry("step_fused", "fused", "loop", note=f"{what}; one kernel for all"),
        Entry("step_foreach", "foreach", "loop",
              note=f"{what}; a kernel for each operation: made for accelerators"),
    ]  # fmt: skip
    return Group(makers, entries, repeats, 1, "step", each=4)


def _predictions(width: int, count: int, repeats: int) -> list[Group]:
    what = f"{predictions.LAYERS} normed convolutions of {width} channels over patches"
    plain = Group(
        {"by hand": partial(predictions.by_hand, width, count),
         "whet": partial(predictions.with_whet, width, count)},
        [Entry("predict", "whet", "by hand", most=1 / 0.98,
               note=f"{what}, {count} rows; a Predictor against eval(), no_grad, softmax")],
        repeats, predictions.BATCHES, "batch",
    )  # fmt: skip
    views = [
        Group(
            {how: partial(predictions.with_whet, width, size, how)
             for how in ("batched", "looped")},
            [Entry(f"tta_{name}", "batched", "looped",
                   note=f"{what}, {size} rows; six views at once against one after another")],
            repeats, predictions.BATCHES, "batch",
        )
        for name, size in (("few_rows", max(1, count // 16)), ("many_rows", count))
    ]  # fmt: skip
    return [plain, *views]


def _storage(size: Size, repeats: int) -> list[Group]:
    what = "model and AdamW's state: 273 MB in 412 tensors"
    save: dict[str, Callable[[Size], Chunk]] = {
        "whet": storage.save_whet, "torch.save, fsync": storage.save_torch,
        "write, fsync": storage.save_raw,
    }  # fmt: skip
    load: dict[str, Callable[[Size], Chunk]] = {
        "whet": storage.load_whet, "torch.load": storage.load_torch,
        "by hand": storage.load_by_hand,
    }  # fmt: skip
    saving = [
        Entry("save", "whet", "torch.save, fsync", most=1.3,
              note=f"{what}; Run.save, with checksum and rename, in place of the one before"),
        Entry("save_vs_disk", "whet", "write, fsync", note=f"{what}; as many bytes, written"),
    ]  # fmt: skip
    loading = [
        Entry("load", "whet", "torch.load", most=2.0,
              note=f"{what}; a Run that finds its checkpoint, checks it and puts it into model and "
              "optimizer, against torch.load(weights_only=True) into nothing; the file is cached"),
        Entry("load_vs_hand", "whet", "by hand",
              note=f"{what}; the same against torch.load and two load_state_dict"),
    ]  # fmt: skip
    return [
        Group({n: partial(m, size) for n, m in made.items()}, entries, repeats, 1, unit, each=0)
        for made, entries, unit in ((save, saving, "save"), (load, loading, "load"))
    ]


def _processes(setting: Setting, repeats: int) -> Group:
    half, both = replace(setting, batch=setting.batch // 2), f"{setting.words} in all"
    makers = {
        "one process": partial(at_once, setting, "whet"),
        "half the batch": partial(at_once, half, "whet"),
        "half the batch, two at once": partial(at_once, half, "whet", 2),
        "two processes": partial(at_once, setting, "whet", 2, together=True),
        "two processes, DDP": partial(at_once, setting, "hand-ddp", 2, together=True),
    }
    free = Condition("with two free cores", "half the batch, two at once", "half the batch", 1.15)
    entries = [
        Entry("two_processes", "two processes", "one process", most=0.65, where=free,
              note=f"{both}, over gloo"),
        Entry("two_processes_ddp", "two processes, DDP", "one process",
              note=f"{both}, over gloo; a hand loop with DistributedDataParallel"),
        Entry("two_processes_talk", "two processes", "half the batch, two at once",
              note=f"{both}, over gloo; what it costs that the two know of each other"),
        Entry("two_processes_free", "half the batch, two at once", "half the batch",
              note=f"{both}; what it costs that two processes run at once: 1 with two free cores"),
    ]  # fmt: skip
    return Group(makers, entries, repeats, setting.steps, "step", each=0)


def _memory(setting: Setting, repeats: int) -> Group:
    makers = {
        "hand loop": "hand", "whet": "whet", "hand loop, average": "hand-ema",
        "whet, EMA": "whet-ema",
    }  # fmt: skip
    what = f"{setting.words}; the most memory of a process, with Python and torch in it"
    entries = [
        Entry("memory", "whet", "hand loop", most=1.1, note=what),
        Entry("memory_ema", "whet, EMA", "hand loop, average", most=1.1,
              note=f"{what}; both hold one more copy of the weights, the loop by AveragedModel"),
    ]  # fmt: skip
    return Group(
        {name: partial(memory, setting, doing) for name, doing in makers.items()}, entries,
        repeats, 1, "process", each=0, measure="MB",
    )  # fmt: skip


def _members(count: int, updates: int, repeats: int) -> Group:
    makers = {
        "one at a time": partial(members.trained, count, updates, 1),
        "two at a time": partial(members.trained, count, updates, 2),
        "a process": partial(at_once, TWENTY_MS, "whet"),
        "two processes at once": partial(at_once, TWENTY_MS, "whet", 2),
    }
    free = Condition("with two free cores", "two processes at once", "a process", 1.15)
    entry = Entry(
        "members_in_parallel", "two at a time", "one at a time", most=0.7, where=free,
        note=f"whet ensemble digits, {count} members of {updates} updates each; all of it counts, "
        "from the command to the written mean, the start of two workers too",
    )  # fmt: skip
    return Group(makers, [entry], repeats, 1, "ensemble", each=0)


def _studies(setting: Setting, updates: int, repeats: int) -> Group:
    makers = {
        "study": partial(studies.as_it_is, setting, updates),
        "the plan's cost": partial(studies.as_planned, setting, updates),
    }
    entry = Entry(
        "study_trunks", "study", "the plan's cost", most=1.05,
        note=f"{setting.words}, {updates} updates; {len(studies.METHODS)} methods at the end, each "
        "alone, together and all but one, from one trunk; from the first run handed over to the "
        "last row, against one training without methods times the plan's cost, each part of "
        "training at its own pace",
    )  # fmt: skip
    return Group(makers, [entry], repeats, 1, "study", each=0)


def groups() -> list[Group]:
    """Everything that is measured; what is most easily disturbed comes first."""
    return [
        _nothing(),
        *_costs(*DEEP),
        _engines(SMALL, "small", 1.10, repeats=40),
        _engines(TEN_MS, "10ms", 1.02, repeats=120),
        _averages(averages.FULL),
        _updates(averages.FULL, repeats=40),
        *_predictions(64, 256, repeats=20),
        *_storage(averages.FULL, repeats=20),
        _studies(TWENTY_MS, 300, repeats=10),
        _members(4, 3000, repeats=5),
        _processes(TWENTY_MS, repeats=30),
        _memory(WIDE, repeats=5),
    ]


def quick() -> list[Group]:
    """The same with little work and no repeats: whether everything runs; no number means much."""
    tiny, small = Setting((8, 16, 4), batch=8, steps=3), Size(100, 16, 1)
    made = [
        _nothing(), *_costs(*SHALLOW),
        _engines(tiny, "small", 1.10, 1), _engines(tiny, "10ms", 1.02, 1),
        _averages(small), _updates(small, 1), *_predictions(4, 16, 1), *_storage(small, 1),
        _studies(tiny, 8, 1), _members(2, 4, 1), _processes(tiny, 1), _memory(tiny, 1),
    ]  # fmt: skip
    return [replace(group, repeats=1, warmup=0) for group in made]
