"""The one fixture: tokens, floats, images, batch norm, dropout, unlabelled rows, a teacher.

Images are of one grey value each and the net reads their contrast, which is 0 unless a method
paints into them: so whoever mixes images finds some, and nobody else sees a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from whet import seeding
from whet.members import Members
from whet.method import Method
from whet.methods import make
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.task import Task

ROWS, TOKENS, FLOATS, SIDE, CLASSES = 40, 5, 4, 4, 3


class Net(nn.Module):
    """A classifier of a token sequence, a few floats and the contrast of an image.

    `coupled=False` leaves out what couples the rows of a batch or draws: normalisation, dropout.
    With `members` it ends in so many heads, as methods want it that are about ensembles.
    """

    def __init__(
        self, coupled: bool = True, dropout: float = 0.2, checkpointed: bool = False,
        members: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.checkpointed = checkpointed
        self.embed = nn.Embedding(20, 6, padding_idx=0)
        self.hidden = nn.Linear(6 + FLOATS, 16)
        self.norm = nn.BatchNorm1d(16) if coupled else nn.Identity()
        self.dropout = nn.Dropout(dropout if coupled else 0.0)
        self.head = nn.Linear(16, CLASSES)
        if members:
            self.head = Members(self.head, members)

    def forward(self, tokens: Tensor, floats: Tensor, image: Tensor | None = None) -> Tensor:
        if image is not None:
            pixels = image.flatten(1)
            floats = floats + (pixels.amax(1) - pixels.amin(1))[:, None]
        hidden = torch.cat([self.embed(tokens).mean(1), floats], 1)
        if self.checkpointed:
            return self.head(checkpoint(self.body, hidden, use_reentrant=False))
        return self.head(self.body(hidden))

    def body(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.norm(self.hidden(hidden)).tanh())


def inputs(rows: int, seed: int) -> dict[str, Tensor]:
    maker = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 20, (rows, TOKENS), generator=maker)
    tokens[::3, -1] = 0  # padding
    floats = torch.randn(rows, FLOATS, generator=maker)
    image = torch.randn(rows, 1, 1, 1, generator=maker).repeat(1, 1, SIDE, SIDE)
    return {"tokens": tokens, "floats": floats, "image": image}


def data(rows: int = ROWS, seed: int = 0) -> dict[str, Tensor]:
    given = inputs(rows, seed)
    score = given["floats"][:, 0] + (given["tokens"][:, 0] > 10).float()
    labels = (score > 0).long() + (score > 1).long()
    return {**given, "labels": labels}


def noisy(scale: float) -> Any:
    """An augmentation: noise on the floats, drawn from the generator it is given."""

    def augment(given: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(given["floats"].shape, generator=generator).to(given["floats"])
        return {**given, "floats": given["floats"] + scale * noise}

    return augment


def make_model(
    seed: int = 0, coupled: bool = True, dropout: float = 0.2, members: int = 0
) -> Net:  # fmt: skip
    with seeding.borrowed(seed):
        return Net(coupled, dropout, members=members)


def members_of(methods: Sequence[Method]) -> int:
    """How many heads the model has: some, where a method is about them."""
    return 3 if any(getattr(method, "of_members", False) for method in methods) else 0


def resources() -> dict[str, Any]:
    return {
        "unlabelled": inputs(30, seed=7), "weak": noisy(0.05), "strong": noisy(0.5),
        "view": noisy(0.2), "teacher": make_model(9).eval(), "select": data(20, 1),
    }  # fmt: skip


def make_task(
    seed: int = 0, coupled: bool = True, dropout: float = 0.2, members: int = 0
) -> Task:  # fmt: skip
    return Task(
        make_model(seed, coupled, dropout, members), data(), select=data(20, 1), judge=data(20, 2),
        resources=resources(), name="fixture",
    )  # fmt: skip


def companions(methods: Sequence[Method], coupled: bool = True) -> list[Method]:
    """What must stand beside the methods, applies to the model, and is not among them.

    `make_run` and `make_stack` add it; a test that compares with a run without the methods gives
    that run the same companions, so that the methods are all that differs.
    """
    lacking = {name for method in methods for name in method.companions if coupled}
    return [make(name) for name in sorted(lacking - {method.name for method in methods})]


def make_stage(methods: Sequence[Method] = (), **changes: Any) -> Stage:
    """Seven micro-batches an epoch, the last of four rows; four windows, the last of one."""
    given: dict[str, Any] = {
        "updates": 6, "batch_size": 6, "accumulate": 2,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    } | changes  # fmt: skip
    return Stage(methods=[m.clone() for m in methods], **given)


def make_run(methods: Sequence[Method] = (), *, seed: int = 0, **changes: Any) -> Run:
    """A run of the fixture; `changes` go to the stage, or to the model (`coupled`,
    `dropout`, `members`)."""
    about = {"members": members_of(methods)}
    about |= {k: changes.pop(k) for k in ("coupled", "dropout", "members") if k in changes}
    every = [*methods, *companions(methods, about.get("coupled", True))]
    engine = {k: changes.pop(k) for k in ("folder", "evaluate_every", "checkpoint_every",
              "strategy", "precision") if k in changes}  # fmt: skip
    return Run(make_task(seed, **about), make_stage(every, **changes), seed, device="cpu",
               **engine)  # fmt: skip


def make_stack(methods: Sequence[Method] = (), *, coupled: bool = True, **changes: Any) -> Stack:
    """A stack in a plain loop over the fixture."""
    model = changes.pop("model", None)
    if model is None:
        model = make_model(changes.get("seed", 0), coupled, members=members_of(methods))
    given: dict[str, Any] = {
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "updates": 6,
        "data": data(), "batch_size": 6, "resources": resources(),
    } | changes  # fmt: skip
    every = [*methods, *companions(methods, coupled)]
    return Stack(model, "categorical", [m.clone() for m in every], **given)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Equality to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: Mapping[str, Tensor], b: Mapping[str, Tensor], atol: float = 1e-6) -> bool:
    """Equality to rounding."""
    return a.keys() == b.keys() and all(
        torch.allclose(a[name].float(), b[name].float(), atol=atol, rtol=1e-4) for name in a
    )
