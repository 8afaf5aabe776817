"""Spoken digits: a network with a sixteenth of the weights, and a larger one that teaches it."""

from __future__ import annotations

from dataclasses import replace

import fsdd
import networks
from torch import nn

import whet
from whet import seeding
from whet.task import Task
from whet.tasks import About

ABOUT = About(
    title="Spoken digits, a small student and a larger teacher",
    updates=300,
    batch_size=32,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    methods=("distillation",),
)


def task(seed: int) -> Task:
    """The task of one seed; the teacher has seen the same rows as the student will."""
    given = fsdd.task(seed)
    with seeding.initial(seed):
        student = networks.convolutional(1, fsdd.BANDS, given.train[0].shape[3], 10, size=4)
    teacher = taught(given, seed)
    return replace(given, model=student, resources={"teacher": teacher}, name="small_student")


def taught(given: Task, seed: int) -> nn.Module:
    """A network of the task's own size, trained without any method."""
    stage = whet.Stage(
        updates=fsdd.ABOUT.updates, batch_size=fsdd.ABOUT.batch_size,
        optimizer=fsdd.ABOUT.optimizer, schedule=fsdd.ABOUT.schedule,
    )  # fmt: skip
    whet.Run(given, stage, seed=seed, device="cpu", log=None).fit()
    return given.model
