"""A process of its own starts soon and small: nothing is made, kept or looked through that need not be."""

from __future__ import annotations

import ctypes
import gc
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

M_MMAP_THRESHOLD, LARGE_BYTES = -3, 2**19


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


def use_little_memory(temporary: Path) -> None:
    """Have large blocks go back to the system when they are freed, and temporary files lie in that folder.

    glibc comes to keep blocks of up to 32 MiB in its heap, where small ones keep the holes between them:
    bodies of 96 MiB left 190 MiB behind. And the system's own folder may itself be memory (tmpfs).
    """
    with suppress(AttributeError):  # of other libraries than glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    tempfile.tempdir = str(temporary)
