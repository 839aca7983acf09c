"""Averaged weights over the last steps of a training, projected back onto their constraints."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from lipmodel.training.layers import project_
from lipmodel.training.schedule import Schedule

PROJECTIONS = 12  # steps of the projection, which converges: Newton–Schulz takes 0.3 to 1 in seven


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
