"""Deterministic training of a classifier: steps, learning curves, validation, averaging, checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lipmodel.errors import TrainingError, TrainingInterruptedError
from lipmodel.training.checkpoint import Checkpoint
from lipmodel.training.distributed import SINGLE_PROCESS, ProcessGroup
from lipmodel.training.losses import Loss, certified_radius
from lipmodel.training.network import compare
from lipmodel.training.optimizer import Average, Descent
from lipmodel.training.recipes import Schedule

Labelled = tuple[Tensor, Tensor]
"""Inputs (N, d) and labels (N,)."""

MEASURED_ROWS = 10_000  # maximum number of rows for a learning curve's accuracies


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curves, of torch's network (with averaged weights, once averaging has begun).

    Attributes:
        number: number of the epoch, from 1.
        loss: mean loss of the epoch's batches.
        train_accuracy: clean accuracy on the training rows.
        held_out_accuracy: clean accuracy on the held-out rows; None without any.
        estimated_certified_accuracy: on held-out rows, at the recipe's largest epsilon, from torch's float32
            margins: an estimate, not a certificate.
        validation_loss: mean loss of the validation part; None without one.
    """

    number: int
    loss: float
    train_accuracy: float
    held_out_accuracy: float | None = None
    estimated_certified_accuracy: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True)
class Status:
    """The progress of a training.

    Attributes:
        step: number of steps done.
        share: share of the steps done, from 0 to 1.
        loss: loss of the last batch.
        epoch: the last complete epoch; None before the first.
    """

    step: int
    share: float
    loss: float
    epoch: Epoch | None


Watch = Callable[[Status], None]
UNINTERRUPTED: Any = partial(nullcontext, bool)
"""A context manager of a stop request that is never made."""


def unwatched(status: Status) -> None:
    """Discard the status."""


@dataclass(frozen=True, eq=False)
class Control:
    """Callbacks and checkpoints of a training; none changes its result.

    Attributes:
        watch: called with the status after each step.
        checkpoint: the checkpoint to write at intervals; None for none.
        resume: start from the state in the checkpoint.
        stop: context manager, entered for the steps, of a function called after each step; the training is
            interrupted when the function returns True.
    """

    watch: Watch = unwatched
    checkpoint: Checkpoint | None = None
    resume: bool = False
    stop: Callable[[], AbstractContextManager[Callable[[], bool]]] = UNINTERRUPTED


class Fit:
    """A training of a classifier, from its beginning or from a checkpoint.

    Args:
        network: the network of ``build_network``, changed in place.
        loss: the loss to minimise.
        train: training inputs and labels.
        held_out: held-out inputs and labels, for the learning curves only, never for a choice; or None.
        validation: inputs and labels for early stopping; or None.
        schedule: epochs, batch size, learning rate.
        epsilon: the radius of ``estimated_certified_accuracy``.
        generator: source of the order of the batches.
        group: the processes that train together, each with its own Fit.

    Attributes:
        history: learning curves.
        seconds: total duration, over all resumptions.
    """

    def __init__(
        self,
        network: nn.Sequential,
        loss: Loss,
        train: Labelled,
        held_out: Labelled | None,
        validation: Labelled | None,
        schedule: Schedule,
        *,
        epsilon: float,
        generator: torch.Generator,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        def here(data: Labelled) -> Labelled:
            return data[0].to(group.device), data[1].to(group.device)

        self._network, self._loss, self._schedule = network.to(group.device), loss, schedule
        self._train = here(train)
        self._held_out = None if held_out is None else here(held_out)
        self._validation = None if validation is None else here(validation)
        self._epsilon, self._group = epsilon, group

        def objective(inputs: Tensor, labels: Tensor) -> Tensor:
            scores, bounds = compare(network, inputs, labels)
            return loss(scores, labels, bounds)

        self._descent = Descent(network, objective, self._train, schedule, generator, group)
        self._average = Average(network, schedule, self._descent.total)
        self._best: dict[str, Any] = {}
        self.history: list[Epoch] = []
        self.seconds = 0.0

    def run(self, control: Control) -> nn.Sequential:
        """Train to the end; return the network to export.

        Raises:
            TrainingError: the loss is not finite, or the checkpoint does not match the network.
            TrainingInterruptedError: ``control.stop`` requested it; the state is saved if there is a
                checkpoint.
        """
        checkpoint, descent = control.checkpoint, self._descent
        if checkpoint is not None and control.resume:
            self._load(checkpoint)
        started = time.perf_counter() - self.seconds
        with control.stop() as stop_requested:
            while descent.step < descent.total and not self._patience_is_over:
                value = self._step(checkpoint)
                last = self.history[-1] if self.history else None
                control.watch(Status(descent.step, descent.step / descent.total, value, last))
                self.seconds = time.perf_counter() - started
                stop = self._group.mean(stop_requested()) > 0.0
                if checkpoint is not None and self._group.rank == 0 and (stop or checkpoint.due):
                    checkpoint.write(self._state())
                if stop:
                    saved = None if checkpoint is None else checkpoint.path
                    raise TrainingInterruptedError(descent.epoch, self._schedule.epochs, saved)
        if self._best:
            self._network.load_state_dict(self._best["network"])
            return self._network
        return self._measured()

    def _step(self, checkpoint: Checkpoint | None) -> float:
        try:
            value = self._descent.advance()
        except TrainingError:
            if checkpoint is not None:
                checkpoint.remove()  # resuming would only fail again
            raise
        self._average.update(self._network, self._descent.step)
        if self._descent.epoch_is_over:
            self._after_epoch()
        return value

    @property
    def _patience_is_over(self) -> bool:
        schedule = self._schedule
        return bool(self._best) and len(self.history) - self._best["epoch"] >= schedule.patience

    def _measured(self) -> nn.Sequential:
        """Return the network that would be exported if training ended now."""
        return self._average.network() if self._average.begun else self._network

    def _after_epoch(self) -> None:
        network = self._measured().eval()
        watched = None if self._validation is None else mean_loss(network, self._loss, *self._validation)
        clean = certified = None
        if self._held_out is not None:
            clean = accuracy(network, *self._held_out)
            certified = estimated_certified_accuracy(network, *self._held_out, epsilon=self._epsilon)
        self._network.train()
        number, loss = self._descent.epoch, self._descent.mean_loss
        self.history.append(Epoch(number, loss, accuracy(network, *self._train), clean, certified, watched))
        if self._schedule.patience and watched is not None and watched < self._best.get("loss", float("inf")):
            weights = copy.deepcopy(network.state_dict())
            self._best = {"loss": watched, "epoch": len(self.history), "network": weights}

    def _state(self) -> dict[str, Any]:
        return {
            "descent": self._descent.state(),
            "average": self._average.state(),
            "best": self._best,
            "history": [asdict(epoch) for epoch in self.history],
            "seconds": self.seconds,
        }

    def _load(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.read()
        try:
            self._descent.load(state["descent"])
            self._average.load(state["average"])
            self._best, self.seconds = state["best"], state["seconds"]
            self.history = [Epoch(**epoch) for epoch in state["history"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"{checkpoint.path} does not match this training's network ({type(error).__name__}); "
                "delete it and train again"
            ) from error


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Use ``threads`` threads and deterministic algorithms only: one seed gives one result per machine."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the clean accuracy on the first ``MEASURED_ROWS`` rows."""
    answers = _two_or_more(network(inputs[:MEASURED_ROWS])).argmax(dim=1)
    return float((answers == labels[:MEASURED_ROWS]).double().mean())


@torch.no_grad()
def estimated_certified_accuracy(
    network: nn.Sequential, inputs: Tensor, labels: Tensor, *, epsilon: float
) -> float:
    """Return the share of the first rows predicted correctly with margin / constant >= epsilon.

    In torch's float32 with no directed rounding, from the weights before finishing: an estimate for
    learning curves. Certified accuracy is measured from the exported file.
    """
    inputs, labels = inputs[:MEASURED_ROWS], labels[:MEASURED_ROWS]
    scores, bounds = compare(network, inputs, labels)
    if scores.shape[1] == 1:  # f against the other class's 0
        scores, bounds = _two_or_more(scores), bounds.expand(-1, 2)
    return float((certified_radius(scores, labels, bounds) >= epsilon).double().mean())


@torch.no_grad()
def mean_loss(network: nn.Sequential, loss: Loss, inputs: Tensor, labels: Tensor) -> float:
    """Return the mean loss of all rows."""
    scores, bounds = compare(network, inputs, labels)
    return float(loss(scores, labels, bounds))


def _two_or_more(scores: Tensor) -> Tensor:
    """Return scores (N, K) with K >= 2: the one score f of a binary classifier becomes 0 and f."""
    return torch.cat((torch.zeros_like(scores), scores), dim=1) if scores.shape[1] == 1 else scores
