"""What is measured, against what, and what it is meant to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from torch import nn

from benchmarks import averages, engines, steps
from benchmarks.engines import SMALL, TEN_MS, Setting
from benchmarks.timing import Chunk


@dataclass(frozen=True)
class Entry:
    """One number: the time of `contender` divided by the time of `against`.

    Args:
        name: its key in the results.
        contender: whose time is above.
        against: whose time is below.
        most: the ratio is at most this.
        least: the ratio is at least this.
        below: contenders whose ratios it stays below.
        added: microseconds that the contender may take more, in place of a ratio.
        note: what must be known to read it.
    """

    name: str
    contender: str
    against: str
    most: float | None = None
    least: float | None = None
    below: tuple[str, ...] = ()
    added: float | None = None
    note: str = ""

    @property
    def target(self) -> str | None:
        """The target in words."""
        parts = [
            f"ratio <= {self.most:g}" if self.most is not None else "",
            f"ratio >= {self.least:g}" if self.least is not None else "",
            f"<= {self.added:g} us" if self.added is not None else "",
            "below every peer" if self.below else "",
        ]
        return ", ".join(part for part in parts if part) or None

    def met(self, ratio: float, added: float, others: Mapping[str, float]) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return (
            (self.most is None or ratio <= self.most)
            and (self.least is None or ratio >= self.least)
            and (self.added is None or added <= self.added)
            and all(ratio < others[name] for name in self.below)
        )


@dataclass(frozen=True)
class Group:
    """Contenders that are timed in turns.

    Args:
        contenders: what makes each of them.
        entries: the numbers that come out.
        repeats: how many times each runs its chunk.
        units: steps or updates in a chunk.
        unit: what one of them is called.
        each: repeats before all are made anew.
        warmup: chunks that are not timed when they are.
        threads: threads of torch's operations; several wait for each other on a machine that is
            shared, and small tensors gain nothing by them.
    """

    contenders: Mapping[str, Callable[[], Chunk]]
    entries: Sequence[Entry]
    repeats: int
    units: int
    unit: str
    each: int = 2
    warmup: int = 1
    threads: int = 1

    def only(self, names: Sequence[str]) -> Group:
        """The group without the numbers that nobody asked for."""
        kept = [entry for entry in self.entries if entry.name in names]
        wanted = {n for entry in kept for n in (entry.contender, entry.against, *entry.below)}
        made = {name: make for name, make in self.contenders.items() if name in wanted}
        return replace(self, contenders=made, entries=kept)


def _engines(setting: Setting, suffix: str, most: float, repeats: int) -> Group:
    source = f"{setting.words}; all slice the same tensors in memory, whet with its own loader"
    peers = [
        Entry(f"{name}_{suffix}", name, "hand loop", note=source + how)
        for name, how in (
            ("fabric", "; Fabric.setup and Fabric.backward"),
            ("accelerate", "; Accelerator.prepare and Accelerator.backward"),
            ("lightning", "; Trainer(barebones=True), set-up of the fit not counted"),
        )
    ]
    own = Entry(
        f"engine_{suffix}", "whet", "hand loop", most, below=tuple(engines.PEERS), note=source
    )
    makers = {"hand loop": engines.hand, "whet": engines.with_whet, **engines.PEERS}
    return Group(
        {name: partial(make, setting) for name, make in makers.items()}, [own, *peers], repeats,
        setting.steps, "step",
    )  # fmt: skip


def _averages() -> Group:
    @cache
    def model() -> nn.Module:
        return averages.Encoder()

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


def _methods() -> list[Group]:
    sentences = (
        f"embedding of {steps.WORDS} x {steps.WORD_WIDTH}, one transformer layer, batch "
        f"{steps.BATCH} of {steps.LENGTH} tokens, AdamW; scope='table'"
    )
    fgm = Entry("fgm", "with FGM", "plain step", most=2.05, note=sentences)
    nothing = Entry(
        "noop_ten_us", "ten no-ops", "none", added=5.0,
        note="microseconds that ten methods add to a step which override forward, before_update "
        "and after_update and do nothing; median of the differences of neighbours",
    )  # fmt: skip
    return [
        Group(
            {"none": partial(steps.no_ops, 0), "ten no-ops": partial(steps.no_ops, 10)}, [nothing],
            640, steps.NO_OP.steps, "step", each=4, warmup=4,
        ),
        Group({"plain step": steps.tokens, "with FGM": steps.fgm}, [fgm], 20, steps.STEPS, "step"),
    ]  # fmt: skip


def groups() -> list[Group]:
    """Everything that is measured; what is most easily disturbed comes first."""
    return [
        *_methods(),
        _engines(SMALL, "small", 1.10, repeats=40),
        _engines(TEN_MS, "10ms", 1.02, repeats=40),
        _averages(),
    ]
