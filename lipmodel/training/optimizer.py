"""The steps of a training, with weights kept in their sets; everything a step depends on can be saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lipmodel.errors import RecipeError, TrainingError
from lipmodel.training.distributed import ALONE, Team
from lipmodel.training.layers import project_
from lipmodel.training.schedule import Schedule

STEP_OF_SEEDS = 2**20 + 7  # between the seeds of two steps; seeds of trainings are smaller
WARM_UP = 0.05  # share of the steps in which the learning rate rises
RETRACTED_EVERY = 2  # steps: half of the cost, and results are as good as with every step

Objective = Callable[[Tensor, Tensor], Tensor]


class Descent:
    """Makes an objective's mean over data small, step by step, keeping the weights in their sets.

    They are brought back after every second step and at the end of each epoch: the step between runs
    with weights that one step of the optimiser has moved out. Nothing is measured or exported then.

    Args:
        network: whose parameters move.
        objective: of a batch of inputs and targets, a scalar.
        data: inputs and targets.
        schedule: epochs, batches, rate.
        generator: of the order of the batches. Whatever else is random in a step (torch's own generator)
            begins anew from the seed and the number of the step, so that it needs no saving.
        team: the processes that share each batch.

    Attributes:
        step: how many are done.
        batches: steps an epoch.
        total: steps in all.

    Raises:
        RecipeError: a batch larger than the data.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        data: tuple[Tensor, Tensor],
        schedule: Schedule,
        generator: torch.Generator,
        team: Team = ALONE,
    ) -> None:
        self._network, self._objective, self._generator = network, objective, generator
        self._team = team
        self._inputs, self._targets = data
        self._schedule = schedule
        if schedule.batch_size > len(self._inputs):
            raise RecipeError(
                f"training.batch_size = {schedule.batch_size} is more than the {len(self._inputs)} rows "
                "there are to train on; at most that many are accepted"
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
        """The number, from 1, of the epoch that the last step was of."""
        return max(1, math.ceil(self.step / self.batches))

    @property
    def epoch_is_over(self) -> bool:
        """Whether the last step was its epoch's last."""
        return self.step > 0 and self.step % self.batches == 0

    @property
    def mean_loss(self) -> float:
        """Over the whole epoch; only where it is over."""
        return self._sum_of_losses / len(self._inputs)

    def advance(self) -> float:
        """One step; returns the objective of its batch, before it.

        Raises:
            TrainingError: the objective is not a finite number; names the epoch and the step.
        """
        place = self.step % self.batches
        if place == 0:
            self._order = torch.randperm(len(self._inputs), generator=self._generator)
            self._sum_of_losses = 0.0
        rows = self._order[place * self._schedule.batch_size :][: self._schedule.batch_size]
        torch.manual_seed(self._generator.initial_seed() + self.step * STEP_OF_SEEDS)
        self._optimiser.zero_grad()
        share = self._team.share(rows)
        value = self._objective(self._inputs[share], self._targets[share])
        if len(share) < len(rows):  # the mean over processes is then the batch's
            value = value * (len(share) * self._team.size / len(rows))
        number = self._team.mean(value.item())
        self.step += 1
        if not math.isfinite(number):
            before = f"was {self._last:.4g}" if math.isfinite(self._last) else "never was one"
            raise TrainingError(
                f"the loss is {number} in epoch {self.epoch}, step {place + 1} of {self.batches} "
                f"(the last finite one {before}); a learning_rate below {self._schedule.learning_rate:g}, "
                "a scaling of the inputs, or a look for extreme inputs may help"
            )
        value.backward()  # type: ignore[no-untyped-call]
        self._team.average_(self._network.parameters())
        self._optimiser.step()
        self._rate.step()
        if self.step % RETRACTED_EVERY == 0 or self.epoch_is_over:
            project_(self._network)
        self._last = number
        self._sum_of_losses += number * len(rows)
        return number

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors, numbers, strings and containers of them."""
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
        """Takes a state of the same descent back; the steps after it are then the same, bit for bit."""
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._rate.load_state_dict(state["rate"])
        self._generator.set_state(state["generator"])
        self.step, self._order = state["step"], state["order"]
        self._sum_of_losses, self._last = state["sum_of_losses"], state["last"]


def minimise(
    network: nn.Module,
    objective: Objective,
    data: tuple[Tensor, Tensor],
    schedule: Schedule,
    generator: torch.Generator,
) -> None:
    """A whole descent; see :class:`Descent`.

    Raises:
        TrainingError: the objective is not a finite number.
    """
    descent = Descent(network, objective, data, schedule, generator)
    while descent.step < descent.total:
        descent.advance()


def _rate(step: int, total: int) -> float:
    """Share of the peak learning rate: up in a straight line, down as a cosine to 0."""
    warm_up = max(1, round(WARM_UP * total))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))
