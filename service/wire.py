"""Types that several rooms share: the base of all wire types, headers, and arrays of any type."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lipmodel.norms import Norm

AnyArray = np.ndarray[Any, Any]
Header = tuple[bytes, bytes]
Headers = Mapping[bytes, bytes]
"""Values by name in lower case; of a repeated header the first."""
HEADERS = "lipcert.headers"
"""Key of the request's headers, as :data:`Headers`, in its ASGI scope."""
CLOSE: Header = (b"connection", b"close")

MAX_DIMENSIONS, MAX_LENGTH = 32, 2**63 - 1
"""Limits of numpy on the dimensions of an array and on the length of each."""
Row = Annotated[list[float], Field(fail_fast=True)]
Rows = Annotated[
    list[Row],
    Field(
        fail_fast=True,  # report only the first of a million bad numbers
        description="One flat list of numbers (row-major) for each input; all finite, within float32.",
    ),
]


def _parse_norm(value: Any) -> Any:
    """Return the norm of any accepted spelling; other values unchanged, for the validator to refuse."""
    with suppress(ValueError, OverflowError):  # the latter of a whole number beyond float64
        return Norm.parse(value)
    return value


NormOfRadius = Annotated[
    Norm,
    BeforeValidator(_parse_norm),
    Field(
        description="Norm in which changes of the input are measured; default: the model's own. "
        "'l1', 'l2', 'linf', 1 and 2 are accepted too."
    ),
]
EXECUTION = "Format that scores are computed in; labels and certified radii hold for every evaluation in it."


class Wire(BaseModel):
    """Base of all wire types: strict, frozen, without unknown members or numbers that are not finite.

    Validators are built on first use; to build all of them at import makes a start a quarter slower.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
