"""Sliding windows of convolutions and poolings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Window:
    """Sliding window of a convolution or pooling over a tensor (channels, *spatial).

    A *place* is one position of the window, an entry of the output; a *tap* is one entry of the window.

    Attributes:
        spatial: shape of the tensor without its channels.
        size, strides, dilations: one number per spatial axis.
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
        """Return the spatial shape of the output."""
        return tuple(
            (n + b + e - d * (k - 1) - 1) // s + 1
            for n, k, s, d, b, e in zip(
                self.spatial, self.size, self.strides, self.dilations, self.begin, self.end, strict=True
            )
        )

    @property
    def taps(self) -> int:
        """Return the number of entries of a window."""
        return math.prod(self.size)

    @property
    def bound_readers(self) -> int:
        """Return an upper bound on the number of (place, tap) pairs that read one entry.

        Pairs that read the same entry have equal place · s + tap · d, so they are d/g places and s/g taps
        apart, g = gcd(s, d).
        """
        return math.prod(
            min(-(-places * math.gcd(s, d) // d), -(-k * math.gcd(s, d) // s))
            for k, s, d, places in zip(self.size, self.strides, self.dilations, self.output, strict=True)
        )

    @cached_property
    def positions(self) -> NDArray[np.intp]:
        """Return (places, taps) the flat spatial index that each tap of each place reads, -1 on padding."""
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
        """Return (spatial, m) the flat indices into ``positions`` that read each entry, -1 to fill."""
        flat = self.positions.ravel()
        order = np.argsort(flat, kind="stable")
        order = order[flat[order] >= 0]
        counts = np.bincount(flat[order], minlength=math.prod(self.spatial))
        table = np.full((len(counts), max(1, int(counts.max(initial=0)))), -1, dtype=np.intp)
        column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        table[flat[order], column] = order
        return table
