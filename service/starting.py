"""A process of its own starts soon and small: nothing is made, kept or looked through that need not be."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def lean_imports() -> Iterator[None]:
    """Within, the application is imported. For processes that are all ours, as it says so of other packages.

    What is imported stays, so it is not looked through for garbage, now or later: a sixth of a start.
    """
    gc.disable()
    try:
        from pydantic import BaseModel

        BaseModel.model_config["defer_build"] = True  # FastAPI's types of OpenAPI, until they are asked for
        modules: dict[str, Any] = sys.modules
        modules["pydantic.v1"] = None  # as if missing; FastAPI takes 1.5 MiB of it to refuse its types
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_what_is_loaded() -> None:
    """Leaves all that is there out of garbage collections from now on.

    It stays anyway; to look through it again and again made one answer in a hundred wait for 50 ms.
    """
    gc.collect()
    gc.freeze()
