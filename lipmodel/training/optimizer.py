"""Resumable steps of projected gradient descent with Adam, and averages of the weights over its steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from lipmodel.errors import RecipeError, TrainingError
from lipmodel.training.distributed import SINGLE_PROCESS, ProcessGroup
from lipmodel.training.layers import project_
from lipmodel.training.recipes import Schedule

STEP_OF_SEEDS = 2**20 + 7  # between the seeds of two steps; seeds of trainings are smaller
WARM_UP = 0.05  # share of the steps in which the learning rate rises
PROJECTED_EVERY = 2  # steps: half of the cost, and results as good as with every step
PROJECTIONS = 12  # steps of the projection, which converges: Newton–Schulz takes 0.3 to 1 in seven

Objective = Callable[[Tensor, Tensor], Tensor]


class Descent:
    """Minimisation of an objective's mean over data by Adam, with projection onto the constraints.

    Weights are projected after every second step and at the end of each epoch: in between, one step runs
    with weights outside of their sets by one optimiser step. Nothing is measured or exported then.

    Args:
        network: the network to train, changed in place.
        objective: scalar function of a batch of inputs and targets.
        data: inputs and targets.
        schedule: epochs, batch size, learning rate.
        generator: source of the order of the batches. Torch's global generator is seeded in each step from
            the seed and the number of the step, so its state need not be saved.
        group: the processes that share each batch.

    Attributes:
        step: number of steps done.
        batches: steps per epoch.
        total: number of steps in all epochs.

    Raises:
        RecipeError: the batch size is larger than the number of rows.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        data: tuple[Tensor, Tensor],
        schedule: Schedule,
        generator: torch.Generator,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self._network, self._objective, self._generator = network, objective, generator
        self._group = group
        self._inputs, self._targets = data
        self._schedule = schedule
        if schedule.batch_size > len(self._inputs):
            raise RecipeError(
                f"training.batch_size = {schedule.batch_size} is larger than the number of training rows; "
                f"at most {len(self._inputs)} is accepted"
            )
        self.batches = math.ceil(len(self._inputs) / schedule.batch_size)
        self.total = schedule.epochs * self.batches
        self.step = 0
        self._optimiser = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate)
        self._rate = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda s: _rate(s, self.total))
        self._order = torch.empty(0, dtype=torch.int64)
        self._sum_of_losses = 0.0
        self._last = math.nan

    @property
    def epoch(self) -> int:
        """The number, from 1, of the last step's epoch."""
        return max(1, math.ceil(self.step / self.batches))

    @property
    def epoch_is_over(self) -> bool:
        """True after the last step of an epoch."""
        return self.step > 0 and self.step % self.batches == 0

    @property
    def mean_loss(self) -> float:
        """The mean loss of the whole epoch, after its last step."""
        return self._sum_of_losses / len(self._inputs)

    def advance(self) -> float:
        """Make one step; return the objective of its batch before the step.

        Raises:
            TrainingError: the objective is not finite; the message names the epoch and the step.
        """
        place = self.step % self.batches
        if place == 0:
            self._order = torch.randperm(len(self._inputs), generator=self._generator)
            self._sum_of_losses = 0.0
        rows = self._order[place * self._schedule.batch_size :][: self._schedule.batch_size]
        torch.manual_seed(self._generator.initial_seed() + self.step * STEP_OF_SEEDS)
        self._optimiser.zero_grad()
        share = self._group.share(rows)
        value = self._objective(self._inputs[share], self._targets[share])
        if len(share) < len(rows):  # so that the mean over processes is the mean of the batch
            value = value * (len(share) * self._group.size / len(rows))
        number = self._group.mean(value.item())
        self.step += 1
        if not math.isfinite(number):
            before = f"{self._last:.4g}" if math.isfinite(self._last) else "none"
            raise TrainingError(
                f"the loss is {number} in epoch {self.epoch}, step {place + 1} of {self.batches} "
                f"(last finite loss: {before}); try a learning_rate below {self._schedule.learning_rate:g} "
                "or a scaling of the inputs, and check the inputs for extreme values"
            )
        value.backward()  # type: ignore[no-untyped-call]
        self._group.average_(self._network.parameters())
        self._optimiser.step()
        self._rate.step()
        if self.step % PROJECTED_EVERY == 0 or self.epoch_is_over:
            project_(self._network)
        self._last = number
        self._sum_of_losses += number * len(rows)
        return number

    def state(self) -> dict[str, Any]:
        """Return the complete state for a checkpoint: tensors, numbers, strings, and containers of these."""
        return {
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "rate": self._rate.state_dict(),
            "generator": self._generator.get_state(),
            "step": self.step,
            "order": self._order,
            "sum_of_losses": self._sum_of_losses,
            "last": self._last,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state`; the following steps are then equal bit for bit."""
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._rate.load_state_dict(state["rate"])
        self._generator.set_state(state["generator"])
        self.step, self._order = state["step"], state["order"]
        self._sum_of_losses, self._last = state["sum_of_losses"], state["last"]


class Average:
    """A running average of a network's weights, over the last ``averaging_share`` of the steps.

    Args:
        network: the network to average.
        schedule: the averaging method, its share of the steps, and its decay.
        total: number of steps of the training.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, total: int) -> None:
        rule: Any = (
            get_ema_multi_avg_fn(schedule.averaging_decay)  # type: ignore[no-untyped-call]
            if schedule.averaging == "exponential"
            else get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
        )
        self._averaged = AveragedModel(network, multi_avg_fn=rule)
        self._first = total - round(schedule.averaging_share * total)
        self._used = schedule.averaging != "none"

    @property
    def begun(self) -> bool:
        """True once a step has been averaged."""
        return int(self._averaged.n_averaged) > 0

    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after ``step`` to the average, if the step is in the averaged share."""
        if self._used and step > self._first:
            self._averaged.update_parameters(network)

    def network(self) -> nn.Sequential:
        """Return a network with the averaged weights, projected onto their constraints."""
        network = copy.deepcopy(self._averaged.module)
        assert isinstance(network, nn.Sequential)
        for _ in range(PROJECTIONS):
            project_(network)
        return network

    def state(self) -> dict[str, Any]:
        """Return the state of the average, for a checkpoint."""
        return dict(self._averaged.state_dict()) if self._used else {}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state`."""
        if self._used:
            self._averaged.load_state_dict(state)


def minimise(
    network: nn.Module,
    objective: Objective,
    data: tuple[Tensor, Tensor],
    schedule: Schedule,
    generator: torch.Generator,
) -> None:
    """Run all steps of a :class:`Descent`.

    Raises:
        TrainingError: the objective is not finite.
    """
    descent = Descent(network, objective, data, schedule, generator)
    while descent.step < descent.total:
        descent.advance()


def _rate(step: int, total: int) -> float:
    """Return the share of the peak learning rate: a linear rise, then a cosine to 0."""
    warm_up = max(1, round(WARM_UP * total))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))
