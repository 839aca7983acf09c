"""The training loop: deterministic, one optimiser step, one projection, one call of the progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipmodel.errors import TrainingError
from lipmodel.training.layers import project_
from lipmodel.training.losses import Loss
from lipmodel.training.network import compare
from lipmodel.training.recipes import Schedule

WARM_UP = 0.05  # share of the steps in which the learning rate rises
MEASURED_ROWS = 10_000  # inputs that a learning curve's accuracy is measured on, at most


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curves.

    Attributes:
        number: from 1.
        loss: mean over the epoch's batches.
        train_accuracy, held_out_accuracy: of torch's network after the epoch.
    """

    number: int
    loss: float
    train_accuracy: float
    held_out_accuracy: float


@dataclass(frozen=True)
class Status:
    """How far a training is.

    Attributes:
        share: done, from 0 to 1.
        loss: of the last batch.
        accuracy: clean, on held-out data, after the last whole epoch; None before.
    """

    share: float
    loss: float
    accuracy: float | None


Watch = Callable[[Status], None]


def unwatched(status: Status) -> None:
    """Tells nobody."""


def fit(
    network: nn.Sequential,
    loss: Loss,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    schedule: Schedule,
    *,
    generator: torch.Generator,
    watch: Watch = unwatched,
) -> list[Epoch]:
    """Trains a classifier, in place.

    Args:
        network: see ``build_network``.
        loss: what to make small.
        train: inputs (N, d) and labels (N,).
        held_out: the same, for the learning curve alone: nothing is chosen by it.
        schedule: epochs, batches, rate.
        generator: of the order of the batches.
        watch: told after each step.

    Raises:
        TrainingError: the loss is not a finite number; names the epoch.
    """
    history: list[Epoch] = []

    def objective(inputs: Tensor, labels: Tensor) -> Tensor:
        scores, bounds = compare(network, inputs, labels)
        return loss(scores, labels, bounds)

    def after_epoch(number: int, mean_loss: float) -> None:
        history.append(Epoch(number, mean_loss, accuracy(network, *train), accuracy(network, *held_out)))

    def after_step(share: float, value: float) -> None:
        watch(Status(share, value, history[-1].held_out_accuracy if history else None))

    minimise(network, objective, train, schedule, generator, after_epoch=after_epoch, after_step=after_step)
    return history


def minimise(
    network: nn.Module,
    objective: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    schedule: Schedule,
    generator: torch.Generator,
    *,
    after_epoch: Callable[[int, float], None] | None = None,
    after_step: Callable[[float, float], None] | None = None,
) -> None:
    """Makes the objective's mean over the data small, keeping the weights in their sets.

    Args:
        network: whose parameters move.
        objective: of a batch of inputs and targets, a scalar.
        data: inputs and targets.
        schedule: epochs, batches, rate.
        generator: of the order of the batches.
        after_epoch: told its number, from 1, and the mean objective.
        after_step: told the share of steps done and the objective.

    Raises:
        TrainingError: the objective is not a finite number; names the epoch.
    """
    inputs, targets = data
    batches = math.ceil(len(inputs) / schedule.batch_size)
    total = schedule.epochs * batches
    optimiser = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, total))
    step = 0
    for epoch in range(1, schedule.epochs + 1):
        order = torch.randperm(len(inputs), generator=generator)
        sum_of_losses = 0.0
        for rows in torch.split(order, schedule.batch_size):
            optimiser.zero_grad()
            value = objective(inputs[rows], targets[rows])
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
            project_(network)
            step += 1
            number = value.item()
            if not math.isfinite(number):
                raise TrainingError(
                    f"the loss is {number} in epoch {epoch}; a smaller learning rate may help"
                )
            sum_of_losses += number * len(rows)
            if after_step is not None:
                after_step(step / total, number)
        if after_epoch is not None:
            after_epoch(epoch, sum_of_losses / len(inputs))


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of right answers among the first rows, ``MEASURED_ROWS`` of them at most."""
    scores = network(inputs[:MEASURED_ROWS])
    answers = (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(dim=1)
    return float((answers == labels[:MEASURED_ROWS]).double().mean())


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Same seed, same machine, same weights: that many threads, and only deterministic algorithms."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def _rate(step: int, total: int) -> float:
    """Share of the peak learning rate: up in a straight line, down as a cosine to 0."""
    warm_up = max(1, round(WARM_UP * total))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))
