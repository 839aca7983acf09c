"""Data-parallel training by several processes, or on GPUs, launched by Lightning Fabric.

Each process takes its share of every batch. Gradients are then averaged over the processes, so that all
make the same step with the same weights. Sums are taken in another order than in one process: results
agree to rounding, but not byte for byte. (The class means of HKR become means over each process's share.)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lipmodel.errors import MissingExtraError, RecipeError


class ProcessGroup:
    """The processes that train one network together; this class is a single process on the CPU.

    Attributes:
        device: the device of this process.
        size: number of processes.
        rank: index of this process. Rank 0 writes the files and reports.
    """

    device = torch.device("cpu")
    size, rank = 1, 0

    @property
    def description(self) -> str:
        """Number of processes and kind of device, for the training record."""
        return f"{self.size} {'process' if self.size == 1 else 'processes'} on {self.device.type}"

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's rows of a batch; the whole batch if there are fewer rows than processes."""
        return rows if len(rows) < self.size else rows[self.rank :: self.size]

    def average_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over all processes, in place."""

    def mean(self, value: float) -> float:
        """Return the mean of a value over all processes."""
        return value


SINGLE_PROCESS = ProcessGroup()


class FabricGroup(ProcessGroup):
    """The processes of a ``lightning_fabric.Fabric`` after ``launch()``."""

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.device, self.size, self.rank = fabric.device, fabric.world_size, fabric.global_rank

    def average_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over all processes, in place."""
        self._fabric.all_reduce([p.grad for p in parameters if p.grad is not None])  # in place

    def mean(self, value: float) -> float:
        """Return the mean of a value over all processes."""
        return float(self._fabric.all_reduce(torch.tensor(value, dtype=torch.float64, device=self.device)))


def launch(device: str, processes: int) -> ProcessGroup:
    """Start the processes and return their group.

    The other processes run this command from its beginning, and reach this call too.

    Args:
        device: "cpu", or "cuda" for one GPU per process.
        processes: number of processes on this machine.

    Raises:
        RecipeError: there are fewer GPUs than processes.
        MissingExtraError: Fabric is not installed.
    """
    if device == "cuda" and torch.cuda.device_count() < processes:
        raise RecipeError(
            f"{processes} processes on cuda need {processes} GPUs, and {torch.cuda.device_count()} were "
            "found; use fewer processes, or --device cpu"
        )
    if device == "cpu" and processes == 1:
        return SINGLE_PROCESS
    try:
        with warnings.catch_warnings():  # Fabric uses deprecated parts of torch
            warnings.simplefilter("ignore")
            from lightning_fabric import Fabric

            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
            fabric = Fabric(
                accelerator=device, devices=processes, strategy="ddp" if processes > 1 else "auto"
            )
            fabric.launch()
    except ImportError as error:
        raise MissingExtraError("a GPU or more than one process", "parallel") from error
    return FabricGroup(fabric)
