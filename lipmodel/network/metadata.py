"""Metadata of a model file. Its claims are shown and compared with the proof, never used in it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipmodel.norms import Array, Norm

LARGEST_INPUT = float(np.finfo(np.float32).max)
"""Inputs beyond float32 are refused everywhere, so that they mean the same to every runtime."""

MAX_CAPTION = 200
KEYS = {name: f"lipcert.{name}" for name in ("norm", "lipschitz", "classes", "input_box", "record")}
"""Keys of the metadata that the exporter writes, by the field of :class:`Claims`."""
MAX_RECORD, MAX_RECORD_DEPTH = 2**20, 64
"""Maximum characters and depth of nesting of the training record: it goes into answers about the model."""


@dataclass(frozen=True)
class Claims:
    """Metadata of a model file, used for display and defaults alone.

    Attributes:
        norm: norm of the input that the model was trained for.
        lipschitz: claimed Lipschitz constant of each class score, in that norm.
        classes: names of the classes, in the order of the scores.
        input_box: least and largest value of an input coordinate in the data.
        record: training record (recipe, data digest, metrics).
        ignored: entries that could not be parsed, one line each.
    """

    norm: Norm | None = None
    lipschitz: float | None = None
    classes: tuple[str, ...] | None = None
    input_box: tuple[float, float] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Return the names of the claims present that nothing here can check: all but norm and constant."""
        return tuple(name for name in ("classes", "input_box", "record") if getattr(self, name))

    def far_outside(self, inputs: Array) -> NDArray[np.bool_] | None:
        """Return (N,) a mask of the inputs (N, d) that lie far outside the box; None if none does.

        An input is far outside if a coordinate lies beyond the box by more than the width of the box.
        The box is a claim, so this decides over a warning and over nothing that is certified.
        """
        if self.input_box is None:
            return None
        low, high = self.input_box
        low, high = low - (high - low), high + (high - low)
        if inputs.min() >= low and inputs.max() <= high:  # the usual case, in two passes without a copy
            return None
        return np.asarray(((inputs < low) | (inputs > high)).any(axis=1))

    def outside_warning(self, outside: int, inputs: int) -> str:
        """Return the warning that ``outside`` of ``inputs`` inputs lie far outside the box."""
        assert self.input_box is not None
        low, high = self.input_box
        return (
            f"{outside} of {inputs} inputs lie far outside the input range {low:g} to {high:g} stated in the "
            "file, by more than its width. Check that they are scaled as the training data were."
        )

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata entries of an ONNX file, by key."""
        values = {name: getattr(self, name) for name in KEYS} | {"record": dict(self.record)}
        return {
            KEYS[name]: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for name, value in values.items()
            if value is not None
        }


@dataclass(frozen=True)
class InputClaims:
    """Description of the inputs in the training record, for displaying them as a picture or a form.

    Attributes:
        shape: shape of one input before flattening, such as (8, 8) of 64 numbers; None if not stated.
        columns: name of each number of an input; empty if not stated.
        units: units of the numbers; None if not stated.
    """

    shape: tuple[int, ...] | None = None
    columns: tuple[str, ...] = ()
    units: str | None = None


def input_claims(record: Mapping[str, Any], size: int) -> InputClaims:
    """Return a record's description of inputs of ``size`` numbers, without entries that do not fit them."""
    shape: Any = record.get("input_shape")
    columns: Any = record.get("columns")
    units: Any = record.get("units")
    fits = (
        isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape) and math.prod(shape) == size
    )
    named = isinstance(columns, list) and len(columns) == size and all(map(_is_caption, columns))
    return InputClaims(
        shape=tuple(shape) if fits else None,
        columns=tuple(columns) if named else (),
        units=units if _is_caption(units) else None,
    )


def _is_caption(text: Any) -> bool:
    """Return whether a value is short text without lone surrogates, which JSON answers cannot carry."""
    return (
        isinstance(text, str)
        and len(text) <= MAX_CAPTION
        and not any("\ud800" <= c <= "\udfff" for c in text)
    )


def read_claims(metadata: Mapping[str, str], class_count: int) -> Claims:
    """Parse the claims in a file's metadata; a malformed one is listed under ``ignored``."""

    def lipschitz(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(text)
        return value

    def classes(text: str) -> tuple[str, ...]:
        names = json.loads(text)
        if not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise ValueError(text)
        "".join(names).encode()  # raises ValueError on a lone surrogate, which no JSON answer could carry
        if len(names) != class_count or len(set(names)) != class_count:
            raise ValueError(text)
        return tuple(names)

    def input_box(text: str) -> tuple[float, float]:
        low, high = map(float, json.loads(text))
        if not -LARGEST_INPUT <= low <= high <= LARGEST_INPUT:
            raise ValueError(text)
        return low, high

    def record(text: str) -> Mapping[str, Any]:
        value = json.loads(text)
        if len(text) > MAX_RECORD or not isinstance(value, dict) or _depth(value) > MAX_RECORD_DEPTH:
            raise ValueError(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # raises ValueError as above
        return value

    values: dict[str, Any] = {}
    ignored: list[str] = []
    parsers: tuple[Callable[[str], Any], ...] = (Norm, lipschitz, classes, input_box, record)
    for (name, key), parse in zip(KEYS.items(), parsers, strict=True):
        if key in metadata:
            try:
                values[name] = parse(metadata[key])
            except (ValueError, TypeError, KeyError, RecursionError):
                ignored.append(f"{key} = {metadata[key][:80]!r} could not be parsed")
    return Claims(**values, ignored=tuple(ignored))


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
