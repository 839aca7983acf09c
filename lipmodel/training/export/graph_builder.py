"""The graph of an exported network under construction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from lipmodel.errors import TrainingError
from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op
from lipmodel.network.window import Shape
from lipmodel.norms import Array

INPUT, SCORES = "input", "scores"


class GraphBuilder:
    """The operations added so far, in order, and the tensor that the next operation reads.

    Attributes:
        tensor, shape: name and shape per sample of this current tensor.
        ops: the operations.
    """

    def __init__(self, shape: Shape) -> None:
        self.tensor, self.shape = INPUT, shape
        self.ops: list[Op] = []
        self._input_shape = shape
        self._path: list[str] = []

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Enter a submodule, to append its name to tensor names and show it in messages."""
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    def add(
        self, kind: type[Op], hint: str, /, *inputs: str, shape: Shape | None = None, **fields: Any
    ) -> str:
        """Append an operation on the inputs (by default the current tensor); return its output's name."""
        name = "_".join((hint, *self._path))
        taken = {op.output for op in self.ops}
        while name in taken:
            name += "_"
        self.shape = self.shape if shape is None else shape
        self.ops.append(kind(output=name, inputs=inputs or (self.tensor,), shape=self.shape, **fields))
        self.tensor = name
        return name

    def reshape(self, shape: Shape, hint: str = "reshaped") -> None:
        """Append a Reshape, unless the shape is the current one."""
        if shape != self.shape:
            self.add(ops.Reshape, hint, shape=shape)

    def numbers(self, values: Tensor) -> Array:
        """Return a parameter in float64.

        Raises:
            TrainingError: a value is not finite.
        """
        array = np.asarray(values.detach().cpu().double().numpy())
        if not np.isfinite(array).all():
            raise TrainingError(
                f"layer {'.'.join(self._path)} has a weight that is not finite; "
                "a smaller learning rate may help"
            )
        return array

    def expect(self, module: nn.Module, fits: bool, taken: str) -> None:
        """Check that a module accepts samples of the current shape.

        Args:
            module: the module, named in the message.
            fits: result of the check.
            taken: the accepted shapes, in words.

        Raises:
            TrainingError: the module does not accept the shape.
        """
        if not fits:
            raise TrainingError(
                f"layer {'.'.join(self._path)} ({type(module).__name__}) accepts {taken}, "
                f"not samples of shape {list(self.shape)}"
            )

    def expect_units(self, module: nn.Module, units: int) -> None:
        """Check that samples have shape [units]; see :meth:`expect`."""
        self.expect(module, self.shape == (units,), f"samples of shape [{units}]")

    def expect_image(self, module: nn.Module, channels: int | None = None, blocks: int = 1) -> None:
        """Check that samples are [channels, height, width] with sides >= ``blocks``; see :meth:`expect`."""
        fits = len(self.shape) == 3 and channels in (None, self.shape[0]) and min(self.shape[1:]) >= blocks
        least = f" of at least {blocks}×{blocks} pixels" if blocks > 1 else ""
        self.expect(module, fits, f"images [{channels or 'channels'}, height, width]{least}")

    def take_shift(self) -> Array | None:
        """Remove a Shift added last and return its offset, to fold into the next bias; None without one."""
        last = self.ops[-1] if self.ops else None
        if isinstance(last, ops.Shift) and last.output == self.tensor:
            self.ops.pop()
            self.tensor = last.inputs[0]
            return last.offset
        return None

    def graph(self) -> Graph:
        """Return the graph, with its last tensor renamed to ``scores``."""
        last = replace(self.ops[-1], output=SCORES)
        return Graph(
            input=INPUT, input_shape=self._input_shape, ops=(*self.ops[:-1], last), output=SCORES
        ).pruned()
