"""The methods as they travel: what one would paste into a hand-written loop.

Each takes a model and its optimizer and gives a step over one batch. They do what they cost and no
more; docs/snippets.md and docs/traps.md say what is wrong with many of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Step = Callable[[Tensor, Tensor], None]
Snippet = Callable[[nn.Module, torch.optim.Optimizer], Step]


def updating(gradients: Callable[[nn.Module], Step]) -> Snippet:
    """Around what a batch leaves in `.grad`: drop what was there, and update."""

    def snippet(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
        learn = gradients(model)

        def step(x: Tensor, y: Tensor) -> None:
            optimizer.zero_grad()
            learn(x, y)
            optimizer.step()

        return step

    return snippet


@updating
def plain(model: nn.Module) -> Step:
    return lambda x, y: F.cross_entropy(model(x), y).backward()


# embeddings moved ------------------------------------------------------------------------------
def table_of(model: nn.Module) -> nn.Parameter:
    [table] = [p for name, p in model.named_parameters() if "words" in name]
    return table


@updating
def fgm(model: nn.Module) -> Step:
    table = table_of(model)

    def learn(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(model(x), y).backward()
        backup, norm = table.data.clone(), torch.norm(table.grad)
        if norm != 0:
            table.data.add_(table.grad / norm)
        F.cross_entropy(model(x), y).backward()
        table.data = backup

    return learn


@updating
def random_noise(model: nn.Module) -> Step:
    table = table_of(model)

    def learn(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(model(x), y).backward()
        backup, noise = table.data.clone(), torch.randn_like(table)
        table.data.add_(noise / torch.norm(noise))
        F.cross_entropy(model(x), y).backward()
        table.data = backup

    return learn


@updating
def pgd(model: nn.Module) -> Step:
    table, steps, size, epsilon = table_of(model), 3, 0.3, 1.0

    def learn(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(model(x), y).backward()
        kept = {name: p.grad.clone() for name, p in model.named_parameters()}
        backup = table.data.clone()
        for number in range(steps):
            norm = torch.norm(table.grad)
            if norm != 0:
                table.data.add_(size * table.grad / norm)
            away = table.data - backup
            if torch.norm(away) > epsilon:
                table.data = backup + epsilon * away / torch.norm(away)
            if number < steps - 1:
                model.zero_grad()
            else:
                for name, p in model.named_parameters():
                    p.grad = kept[name]
            F.cross_entropy(model(x), y).backward()
        table.data = backup

    return learn


@updating
def freelb(model: nn.Module) -> Step:
    steps, size = 3, 0.1

    def learn(x: Tensor, y: Tensor) -> None:
        delta = torch.zeros(*x.shape, table_of(model).shape[1])
        for _ in range(steps):
            delta.requires_grad_()
            (F.cross_entropy(model(model.words(x) + delta), y) / steps).backward()
            slope = delta.grad
            norm = slope.flatten(1).norm(dim=1).clamp(min=1e-8)[:, None, None]
            delta = (delta + size * slope / norm).detach()

    return learn


# inputs moved ----------------------------------------------------------------------------------
@updating
def fast_fgsm(model: nn.Module) -> Step:
    epsilon = 8 / 255

    def learn(x: Tensor, y: Tensor) -> None:
        delta = torch.empty_like(x).uniform_(-epsilon, epsilon).requires_grad_()
        [slope] = torch.autograd.grad(F.cross_entropy(model(x + delta), y), delta)
        delta = (delta + 1.25 * epsilon * slope.sign()).clamp(-epsilon, epsilon).detach()
        F.cross_entropy(model(x + delta), y).backward()

    return learn


@updating
def free_at(model: nn.Module) -> Step:
    epsilon, replays, kept, delta, number = 8 / 255, 4, None, torch.zeros(1), 0

    def learn(x: Tensor, y: Tensor) -> None:
        nonlocal kept, delta, number
        if number % replays == 0:
            kept = x, y
        number += 1
        x, y = kept
        noise = delta.expand_as(x).clone().requires_grad_()
        F.cross_entropy(model(x + noise), y).backward()
        delta = (noise.detach() + epsilon * noise.grad.sign()).clamp_(-epsilon, epsilon)

    return learn


def kl(z: Tensor, other: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(other, -1), F.softmax(z, -1), reduction="batchmean")


def long(direction: Tensor, length: float) -> Tensor:
    """Each row's direction at a length."""
    return length * F.normalize(direction.flatten(1), dim=1).view_as(direction)


@updating
def vat(model: nn.Module) -> Step:
    def learn(x: Tensor, y: Tensor) -> None:
        z = model(x)
        d = long(torch.randn_like(x), 1.0).requires_grad_()
        [slope] = torch.autograd.grad(kl(z.detach(), model(x + d)), d)
        (F.cross_entropy(z, y) + kl(z.detach(), model(x + long(slope, 1.0)))).backward()

    return learn


@updating
def vat_of_embeddings(model: nn.Module) -> Step:
    def learn(x: Tensor, y: Tensor) -> None:
        z, e = model(x), model.words(x)
        d = long(torch.randn_like(e), 1.0).requires_grad_()
        [slope] = torch.autograd.grad(kl(z.detach(), model(e.detach() + d)), d)
        (F.cross_entropy(z, y) + kl(z.detach(), model(e + long(slope, 1.0)))).backward()

    return learn


# two outputs, mixed rows, soft targets -----------------------------------------------------------
@updating
def r_drop(model: nn.Module) -> Step:
    def learn(x: Tensor, y: Tensor) -> None:
        one, two = model(x), model(x)
        losses = 0.5 * (F.cross_entropy(one, y) + F.cross_entropy(two, y))
        (losses + 0.5 * (kl(one, two) + kl(two, one))).backward()

    return learn


@updating
def mixup(model: nn.Module) -> Step:
    beta = torch.distributions.Beta(0.2, 0.2)

    def learn(x: Tensor, y: Tensor) -> None:
        share, other = beta.sample().item(), torch.randperm(len(x))
        z = model(share * x + (1 - share) * x[other])
        (share * F.cross_entropy(z, y) + (1 - share) * F.cross_entropy(z, y[other])).backward()

    return learn


@updating
def label_smoothing(model: nn.Module) -> Step:
    return lambda x, y: F.cross_entropy(model(x), y, label_smoothing=0.1).backward()


@updating
def distillation(model: nn.Module) -> Step:
    teacher, temperature = copy.deepcopy(model).eval(), 2.0

    def learn(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            taught = teacher(x)
        z = model(x)
        soft = temperature**2 * kl(taught / temperature, z / temperature)
        (0.5 * F.cross_entropy(z, y) + 0.5 * soft).backward()

    return learn


# weights ---------------------------------------------------------------------------------------
def ema(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    step, decay = plain(model, optimizer), 0.999
    shadow = {name: p.data.clone() for name, p in model.named_parameters()}

    def with_average(x: Tensor, y: Tensor) -> None:
        step(x, y)
        for name, p in model.named_parameters():
            shadow[name] = ((1.0 - decay) * p.data + decay * shadow[name]).clone()

    return with_average


def sam(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    rho, parameters = 0.05, list(model.parameters())

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        backup = [p.data.clone() for p in parameters]
        for p in parameters:
            p.data.add_(rho * p.grad / norm)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for p, before in zip(parameters, backup, strict=True):
            p.data = before
        optimizer.step()

    return step
