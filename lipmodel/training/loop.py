"""A classifier's training: steps, learning curves, validation, averages and checkpoints; deterministic."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipmodel.errors import TrainingError, TrainingInterruptedError
from lipmodel.training.averaging import Average
from lipmodel.training.checkpoint import Checkpoint
from lipmodel.training.distributed import ALONE, Team
from lipmodel.training.losses import Loss
from lipmodel.training.metrics import accuracy, estimated_certified_accuracy, mean_loss
from lipmodel.training.network import compare
from lipmodel.training.optimizer import Descent
from lipmodel.training.schedule import Schedule

Labelled = tuple[Tensor, Tensor]
"""Inputs (N, d) and labels (N,)."""


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curves, of torch's network (the average of weights, once there is one).

    Attributes:
        number: from 1.
        loss: mean over the epoch's batches.
        train_accuracy: clean.
        held_out_accuracy: clean; None where nothing is held out.
        estimated_certified_accuracy: on held-out data, at the recipe's largest epsilon; by torch's float32
            margins, so an estimate and no certificate.
        validation_loss: mean over the validation part; None where there is none.
    """

    number: int
    loss: float
    train_accuracy: float
    held_out_accuracy: float | None = None
    estimated_certified_accuracy: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True)
class Status:
    """How far a training is.

    Attributes:
        step: how many are done.
        share: done, from 0 to 1.
        loss: of the last batch.
        epoch: the last whole one; None before.
    """

    step: int
    share: float
    loss: float
    epoch: Epoch | None


Watch = Callable[[Status], None]


def unwatched(status: Status) -> None:
    """Tells nobody."""


def unasked() -> AbstractContextManager[Callable[[], bool]]:
    """Nobody asks for an end."""
    return nullcontext(lambda: False)


@dataclass(frozen=True, eq=False)
class Control:
    """What happens around a training and changes nothing of its result.

    Attributes:
        watch: told after each step.
        checkpoint: where to save the state now and then; None for nowhere.
        resume: whether to begin with the state that is saved there.
        stop: entered while steps are made; gives what is asked after each, whether to end at once.
    """

    watch: Watch = unwatched
    checkpoint: Checkpoint | None = None
    resume: bool = False
    stop: Callable[[], AbstractContextManager[Callable[[], bool]]] = unasked


class Fit:
    """A training of a classifier, from its beginning or from a checkpoint.

    Args:
        network: see ``build_network``; changed in place.
        loss: what to make small.
        train: what is trained on.
        held_out: for the learning curve alone: nothing is chosen by it. None for nothing.
        validation: what early stopping watches; None for nothing.
        schedule: epochs, batches, rate.
        epsilon: see ``estimated_certified_accuracy``.
        generator: of the order of the batches.
        team: the processes that train together, each with a Fit of its own.

    Attributes:
        history: learning curves.
        seconds: in all, over every resumption.
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
        team: Team = ALONE,
    ) -> None:
        def here(data: Labelled) -> Labelled:
            return data[0].to(team.device), data[1].to(team.device)

        self._network, self._loss, self._schedule = network.to(team.device), loss, schedule
        self._train = here(train)
        self._held_out = None if held_out is None else here(held_out)
        self._validation = None if validation is None else here(validation)
        self._epsilon, self._team = epsilon, team

        def objective(inputs: Tensor, labels: Tensor) -> Tensor:
            scores, bounds = compare(network, inputs, labels)
            return loss(scores, labels, bounds)

        self._descent = Descent(network, objective, self._train, schedule, generator, team)
        self._average = Average(network, schedule, self._descent.total)
        self._best: dict[str, Any] = {}
        self.history: list[Epoch] = []
        self.seconds = 0.0

    def run(self, control: Control) -> nn.Sequential:
        """Trains to the end; returns the network to export.

        Raises:
            TrainingError: the loss is not a finite number; or a checkpoint that does not fit.
            TrainingInterruptedError: ``control.stop`` asked for it; the state is saved, if it can be.
        """
        checkpoint, descent = control.checkpoint, self._descent
        if checkpoint is not None and control.resume:
            self._load(checkpoint)
        started = time.perf_counter() - self.seconds
        with control.stop() as asked:
            while descent.step < descent.total and not self._patience_is_over:
                value = self._step(checkpoint)
                last = self.history[-1] if self.history else None
                control.watch(Status(descent.step, descent.step / descent.total, value, last))
                self.seconds = time.perf_counter() - started
                stop = self._team.mean(asked()) > 0.0
                if checkpoint is not None and self._team.rank == 0 and (stop or checkpoint.due):
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
                checkpoint.remove()  # it would only lead here again
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
        """What would be exported if training ended now."""
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
                f"{checkpoint.path} does not fit this training's network ({type(error).__name__}); "
                "delete it and train anew"
            ) from error


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
