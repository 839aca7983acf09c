"""Types that several rooms share: the base of all wire types, headers, and arrays of any type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

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
NormOfRadius = Annotated[
    Norm, Field(description="Norm in which changes of the input are measured; default: the model's own.")
]
EXECUTION = "Format that scores are computed in; labels and certified radii hold for every evaluation in it."


class Wire(BaseModel):
    """Base of all wire types: strict, frozen, without unknown members or numbers that are not finite.

    Validators are built on first use; to build all of them at import makes a start a quarter slower.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
