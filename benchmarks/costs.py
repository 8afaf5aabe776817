"""What a method makes of a step: whet's, the usual snippet's and bert4torch's.

Each is a multiple of the same loop without it: whet's engine, a hand-written loop, or torch4keras's
trainer. Times are the processor's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

import whet
from benchmarks import bert4torch, snippets
from benchmarks.deep import Work
from benchmarks.engines import adamw
from benchmarks.entries import Entry, Group
from benchmarks.snippets import Snippet
from benchmarks.timing import Chunk, timed
from whet import methods
from whet.method import Method

CLOCK = time.process_time  # nothing waits here, and other programs' turns are not counted


def with_whet(work: Work, *given: Method) -> Chunk:
    torch.manual_seed(0)
    stage = whet.Stage(updates=1 << 40, batch_size=work.batch, methods=given, optimizer=adamw)
    task = whet.Task(work.model(), work.rows(), resources={"teacher": work.model().eval()})
    run = whet.Run(task, stage, device="cpu", log=None)
    return timed(lambda: run.fit(until=run.updates + work.steps), CLOCK)


def by_hand(work: Work, snippet: Snippet) -> Chunk:
    model = work.model()
    step = snippet(model, adamw(model.parameters()))

    def epoch() -> None:
        for x, y in work.batches():
            step(x, y)

    return timed(epoch, CLOCK)


def teacher(work: Work) -> Chunk:
    """A forward of the teacher's before each step: by itself it would find its weights cached."""
    asked, model = work.model().eval(), work.model()
    step = snippets.plain(model, adamw(model.parameters()))

    def chunk() -> float:
        spent = 0.0
        for x, y in work.batches():
            begin = CLOCK()
            with torch.no_grad():
                asked(x)
            spent += CLOCK() - begin
            step(x, y)
        return spent

    return chunk


@dataclass(frozen=True)
class Cost:
    """One method's row.

    Args:
        method: as it is measured.
        most: its target, in plain steps.
        snippet: the same by hand.
        work: what is trained.
        note: what must be known to read it.
        callback: bert4torch's name for it, if it has one.
        name: where a method has several rows.
        twin: the method in two passes, which is to be slower.
        taught: whether a teacher's forward is taken off.
    """

    method: Method
    most: float
    snippet: Snippet
    work: Work
    note: str = ""
    callback: str | None = None
    name: str = ""
    twin: Method | None = None
    taught: bool = False

    @property
    def key(self) -> str:
        return self.name or self.method.name


def rows(tokens: Work, pictures: Work, numbers: Work) -> list[Cost]:
    """Every method whose cost in passes is promised, with the most that it may take."""
    table = "scope='table'"
    return [
        Cost(methods.FGM(), 2.05, snippets.fgm, tokens, table, "fgm"),
        Cost(methods.RandomNoise(), 2.05, snippets.random_noise, tokens, table),
        Cost(methods.PGD(steps=3), 4.1, snippets.pgd, tokens, f"K = 3, {table}", "pgd"),
        Cost(methods.FreeLB(steps=3), 3.1, snippets.freelb, tokens, "K = 3"),
        Cost(methods.RDrop(passes="joined"), 2.02, snippets.r_drop, tokens,
             "one forward of the batch beside itself; by hand two forwards",
             twin=methods.RDrop(passes="two")),
        Cost(methods.VAT(scope="embeddings"), 3.1, snippets.vat_of_embeddings, tokens,
             "scope='embeddings'; bert4torch's goes back through the clean pass twice",
             "vat", name="vat_embeddings"),
        Cost(methods.VAT(), 3.1, snippets.vat, pictures),
        Cost(methods.FastFGSM(watch=0), 2.05, snippets.fast_fgsm, pictures,
             "without the watch, which makes 6 passes every 100 updates"),
        Cost(methods.FreeAT(replays=4), 1.05, snippets.free_at, pictures,
             "of a replay: an update with it against one without"),
        Cost(methods.MixUp(), 1.02, snippets.mixup, pictures),
        Cost(methods.LabelSmoothing(), 1.02, snippets.label_smoothing, pictures,
             "by hand it is an argument of torch's loss"),
        Cost(methods.Distillation(), 1.03, snippets.distillation, pictures,
             "teacher and student of one size; the forward is timed between steps", taught=True),
        Cost(methods.EMA(), 1.03, snippets.ema, numbers, callback="ema"),
        Cost(methods.SAM(), 2.05, snippets.sam, numbers),
    ]  # fmt: skip


def group(cost: Cost) -> Group:
    """The method's contenders, timed in turns."""
    key, work = cost.key, cost.work
    note = "; ".join(part for part in (work.words, cost.note) if part)
    own, hand, two, theirs = (
        f"{key}{how}" for how in ("", " by hand", " in two passes", " of bert4torch")
    )
    makers: dict[str, Callable[[], Chunk]] = {
        "plain step": partial(with_whet, work),
        own: partial(with_whet, work, cost.method.during(0, 1)),
        "plain by hand": partial(by_hand, work, snippets.plain),
        hand: partial(by_hand, work, cost.snippet),
    }  # fmt: skip
    less = "its teacher's forward" if cost.taught else None
    below = (two,) if cost.twin else ()
    entries = [
        Entry(key, own, "plain step", cost.most, below=below, less=less, note=note),
        Entry(f"{key}_snippet", hand, "plain by hand", less=less, note=note),
    ]
    if less:
        makers[less] = partial(teacher, work)
    if cost.twin:
        makers[two] = partial(with_whet, work, cost.twin)
        entries.append(Entry(f"{key}_two_passes", two, "plain step", note=note))
    if cost.callback and bert4torch.lacking() is None:
        plain = "plain of bert4torch"
        makers[plain] = partial(bert4torch.trained, work)
        makers[theirs] = partial(bert4torch.trained, work, cost.callback)
        told = f"{note}; {bert4torch.named()}"
        entries.append(Entry(f"{key}_bert4torch", theirs, plain, note=told))
    repeats = 60 if cost.most < 1.1 else 20  # a few per cent are harder to see than a pass
    return Group(makers, entries, repeats, work.steps, "step", each=repeats // 10)
