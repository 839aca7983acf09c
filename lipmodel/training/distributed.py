"""One training by several processes, or on a GPU: Lightning Fabric starts and joins them.

Each process takes its share of every batch; gradients are then averaged over all, so that every process
makes the same step with the same weights. Sums are in another order than of one process: figures agree
to rounding, bytes do not. (HKR has means over a batch's classes, which become means over the shares'.)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lipmodel.errors import MissingExtraError, RecipeError


class Team:
    """The processes that train one network together: here this one alone, on the CPU.

    Attributes:
        device: that this process computes on.
        size: how many processes there are; rank: which of them this is. The one of rank 0 writes and tells.
    """

    device = torch.device("cpu")
    size, rank = 1, 0

    @property
    def description(self) -> str:
        """For records: figures agree between teams, bytes do not."""
        return f"{self.size} {'process' if self.size == 1 else 'processes'} on {self.device.type}"

    def share(self, rows: Tensor) -> Tensor:
        """Those of a batch's rows that this process takes; all of them where a process would have none."""
        return rows if len(rows) < self.size else rows[self.rank :: self.size]

    def average_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Makes gradients their means over all processes."""

    def mean(self, value: float) -> float:
        """Over all processes."""
        return value


ALONE = Team()


class FabricTeam(Team):
    """A team that Fabric has launched.

    Args:
        fabric: launched.
    """

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.device, self.size, self.rank = fabric.device, fabric.world_size, fabric.global_rank

    def average_(self, parameters: Iterable[nn.Parameter]) -> None:
        """See :class:`Team`."""
        self._fabric.all_reduce([p.grad for p in parameters if p.grad is not None])  # in place

    def mean(self, value: float) -> float:
        """See :class:`Team`."""
        return float(self._fabric.all_reduce(torch.tensor(value, dtype=torch.float64, device=self.device)))


def gather(device: str, processes: int) -> Team:
    """The team asked for; others than this process run the same command from its beginning, and get here too.

    Args:
        device: "cpu", or "cuda": a GPU a process.
        processes: how many, on this machine.

    Raises:
        RecipeError: fewer GPUs than processes.
        MissingExtraError: Fabric is not installed.
    """
    if device == "cuda" and torch.cuda.device_count() < processes:
        raise RecipeError(
            f"on cuda each process takes a GPU: {processes} asked for, {torch.cuda.device_count()} found; "
            "the device cpu is accepted everywhere"
        )
    if device == "cpu" and processes == 1:
        return ALONE
    try:
        with warnings.catch_warnings():  # Fabric's, of parts of torch that it has not yet left
            warnings.simplefilter("ignore")
            from lightning_fabric import Fabric

            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
            fabric = Fabric(
                accelerator=device, devices=processes, strategy="ddp" if processes > 1 else "auto"
            )
            fabric.launch()
    except ImportError as error:
        raise MissingExtraError("a GPU or more than one process", "parallel") from error
    return FabricTeam(fabric)
