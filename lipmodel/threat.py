"""Threat sets: the changes of an input that a certified radius is about.

With a norm p and a scale s_k >= 0 of each column k, a change of size r is

    x' - x = s∘u,  ‖u‖_p <= r,

so a radius is in units of the scale, and a column with the scale 0 is frozen: it never changes. Without a
scale every column counts in its own unit, and the threat set is the ball ‖x' - x‖_p <= r.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lipmodel.errors import InputError
from lipmodel.norms import MIN_DISTANCE, Array, Norm

MIN_SCALE, MAX_SCALE = 2.0**-100, 2.0**100
OTHERS = "*"
"""Name under which an object of scales gives the scale of all columns that it does not name."""
MIN_SCALED_DISTANCE = 2.0**-480
"""The counterpart of ``MIN_DISTANCE`` for changes divided by a scale, in every norm.

If subnormal numbers are flushed to zero, up to 2⁻¹⁰²² of a change is lost in each column, 2⁻⁹²² of its units;
of d columns that is less than d·2⁻⁴⁴² of a distance above this.
"""


@dataclass(frozen=True)
class Threat:
    """A norm and a scale for every column: data alone, see the top of the module.

    Attributes:
        norm: p.
        scale: s, a number for each of the d columns, 0 or between 2⁻¹⁰⁰ and 2¹⁰⁰, not all 0; None for a
            ball in the units of the columns.

    Raises:
        InputError: a scale is negative, not finite or outside the limits, or all are 0; ``field`` names it.
    """

    norm: Norm
    scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.scale is None:
            return
        for column, value in enumerate(self.scale):
            if not (value == 0.0 or MIN_SCALE <= value <= MAX_SCALE):  # NaN compares false
                raise InputError(
                    f"is {value!r}; a scale is 0 (the column is frozen) or between 2^-100 and 2^100",
                    field=f"threat.scale[{column}]",
                )
        if not any(self.scale):
            raise InputError("freezes every column; at least one scale must be above 0", field="threat.scale")

    @cached_property
    def _hash(self) -> int:
        return hash((self.norm, self.scale))

    def __hash__(self) -> int:
        """Return a hash that is computed once: of hundreds of scales it takes as long as a prediction."""
        return self._hash

    @cached_property
    def scales(self) -> Array:
        """Return s as an array (d,).

        Raises:
            ValueError: the threat set is a ball, for inputs of any length.
        """
        if self.scale is None:
            raise ValueError("a ball has no scales")
        return np.array(self.scale)

    @cached_property
    def changed(self) -> np.ndarray[Any, np.dtype[np.intp]] | slice:
        """Return the indices of the columns that are not frozen; for a ball a slice of all."""
        return slice(None) if self.scale is None else np.flatnonzero(self.scales)

    @property
    def min_distance(self) -> float:
        """Return the radius below which nothing is certified, since float64 does not resolve it."""
        return MIN_DISTANCE[self.norm] if self.scale is None else MIN_SCALED_DISTANCE

    def units(self, change: Array) -> Array:
        """Return changes (N, d) of inputs divided by the scale, without the frozen columns, as computed."""
        return change if self.scale is None else change[:, self.changed] / self.scales[self.changed]

    def check_size(self, size: int) -> None:
        """Raise InputError unless there is a scale for each of ``size`` columns, or none at all."""
        if self.scale is not None and len(self.scale) != size:
            raise InputError(
                f"has {len(self.scale)} numbers; this model has {size} columns", field="threat.scale"
            )

    @classmethod
    def parse(cls, value: Mapping[str, Any], columns: Sequence[str], size: int, default: Norm) -> Threat:
        """Return the threat set of a JSON object, such as ``{"norm": "2", "scale": {"age": 2, "*": 0}}``.

        Args:
            value: ``norm`` is any spelling of a norm; ``scale`` one number for all columns, a list with one
                for each, or an object by name or index of the column, in which ``*`` is the scale of the
                columns that are not named, by default 1.
            columns: names of the columns; empty if they have none.
            size: number of columns.
            default: norm of an object without ``norm``.

        Returns:
            The threat set; with the scale 1 for all columns the ball of the norm.

        Raises:
            InputError: a member or column is unknown, or a value is not accepted; ``field`` names it.
        """
        for name in value:
            if name not in ("norm", "scale"):
                raise InputError("is unknown; known members are norm and scale", field=f"threat.{name}")
        try:
            norm = Norm.parse(value.get("norm", default))
        except ValueError as error:
            raise InputError(str(error), field="threat.norm") from None
        scale = value.get("scale", 1.0)
        if isinstance(scale, Mapping):
            scale = _by_name(scale, columns, size)
        elif isinstance(scale, Sequence) and not isinstance(scale, str):
            scale = [_number(s, f"threat.scale[{k}]") for k, s in enumerate(scale)]
        else:
            scale = [_number(scale, "threat.scale")] * size
        threat = cls(norm, tuple(scale))
        threat.check_size(size)
        return BALLS[norm] if all(number == 1.0 for number in scale) else threat

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that :meth:`parse` reads back."""
        return {"norm": self.norm.value} | ({} if self.scale is None else {"scale": list(self.scale)})

    def __str__(self) -> str:
        """Return the threat set in a few words, for messages and tables."""
        if self.scale is None:
            return self.norm.symbol
        frozen = len(self.scale) - np.count_nonzero(self.scale)
        return f"scaled {self.norm.symbol}" + (
            f", {frozen} of {len(self.scale)} columns frozen" if frozen else ""
        )


BALLS: dict[Norm, Threat] = {norm: Threat(norm) for norm in Norm}
"""The ball of each norm, in the units of the columns."""


def as_threat(threat: Threat | Norm) -> Threat:
    """Return a threat set; of a norm its ball."""
    return BALLS[threat] if isinstance(threat, Norm) else threat


def _by_name(scale: Mapping[str, Any], columns: Sequence[str], size: int) -> list[float]:
    """Return the scales of an object by name or index of the column."""
    result = [_number(scale.get(OTHERS, 1.0), f"threat.scale.{OTHERS}")] * size
    index = {name: k for k, name in enumerate(columns)}
    for name, value in scale.items():
        if name == OTHERS:
            continue
        if name not in index and not (name.isdecimal() and int(name) < size):
            known = ", ".join(columns[:10]) + (", …" if len(columns) > 10 else "") if columns else ""
            raise InputError(
                f"is no column of this model; its columns are {known or f'0 to {size - 1}, without names'}",
                field=f"threat.scale.{name:.60}",
            )
        if name in index and columns.count(name) > 1:
            raise InputError("names several columns; give their indices", field=f"threat.scale.{name:.60}")
        result[index[name] if name in index else int(name)] = _number(value, f"threat.scale.{name:.60}")
    return result


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"is {value!r:.40}; a number is expected", field=field)
    if not (
        value == 0 or MIN_SCALE <= value <= MAX_SCALE
    ):  # NaN compares false; also whole numbers beyond float64
        shown = "not a number" if isinstance(value, float) and math.isnan(value) else f"{value!r:.40}"
        raise InputError(f"is {shown}; a scale is 0 (frozen) or between 2^-100 and 2^100", field=field)
    return float(value)
