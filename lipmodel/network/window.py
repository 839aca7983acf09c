"""The entries of a tensor under the windows of a convolution or pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Window:
    """Which entries of a tensor (channels, *spatial) a convolution or pooling looks at.

    Attributes:
        spatial: shape of the tensor without its channels.
        size, strides, dilations: one number a spatial axis.
        begin, end: padding before and after, per spatial axis.
    """

    spatial: Shape
    size: Shape
    strides: Shape
    dilations: Shape
    begin: Shape
    end: Shape

    @cached_property
    def output(self) -> Shape:
        """Spatial shape of the result."""
        return tuple(
            (n + b + e - d * (k - 1) - 1) // s + 1
            for n, k, s, d, b, e in zip(
                self.spatial, self.size, self.strides, self.dilations, self.begin, self.end, strict=True
            )
        )

    @property
    def taps(self) -> int:
        """How many entries a window looks at."""
        return math.prod(self.size)

    @property
    def bound_readers(self) -> int:
        """Never below how many (place, tap) pairs look at one entry.

        Those that do, place · s + tap · d being the same, are d/g places and s/g taps apart, g = gcd(s, d).
        """
        return math.prod(
            min(-(-places * math.gcd(s, d) // d), -(-k * math.gcd(s, d) // s))
            for k, s, d, places in zip(self.size, self.strides, self.dilations, self.output, strict=True)
        )

    @cached_property
    def positions(self) -> NDArray[np.intp]:
        """(places, taps): the flat spatial index under each tap of each place, -1 on padding."""
        flat = np.zeros((1, 1), dtype=np.intp)
        for n, k, s, d, b, places in zip(
            self.spatial, self.size, self.strides, self.dilations, self.begin, self.output, strict=True
        ):
            at = np.arange(places)[:, None] * s - b + np.arange(k)[None, :] * d
            outside = (flat < 0)[:, None, :, None] | ((at < 0) | (at >= n))[None, :, None, :]
            joined = np.where(outside, -1, flat[:, None, :, None] * n + at[None, :, None, :])
            flat = joined.reshape(flat.shape[0] * places, flat.shape[1] * k)
        return flat

    @cached_property
    def readers(self) -> NDArray[np.intp]:
        """(spatial, m): the flat indices into ``positions`` that read each input position, -1 to fill."""
        flat = self.positions.ravel()
        order = np.argsort(flat, kind="stable")
        order = order[flat[order] >= 0]
        counts = np.bincount(flat[order], minlength=math.prod(self.spatial))
        table = np.full((len(counts), max(1, int(counts.max(initial=0)))), -1, dtype=np.intp)
        column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        table[flat[order], column] = order
        return table
