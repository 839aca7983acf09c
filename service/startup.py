"""Start time and memory of processes that are all ours: lean imports, garbage collection, malloc."""

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
    """Context to import the application in, for processes without foreign code: it alters other packages.

    Imported objects stay, so they are exempt from garbage collection, now and later: a sixth of a start.
    """
    gc.disable()
    try:
        from pydantic import BaseModel

        BaseModel.model_config["defer_build"] = True  # FastAPI's types of OpenAPI, built on first use
        modules: dict[str, Any] = sys.modules
        modules["pydantic.v1"] = None  # as if missing; FastAPI takes 1.5 MiB of it to refuse its types
        yield
    finally:
        gc.freeze()
        gc.enable()


def freeze_loaded_objects() -> None:
    """Exempt all present objects from later garbage collections.

    They stay anyway; collecting over them again and again delayed one response in a hundred by 50 ms.
    """
    gc.collect()
    gc.freeze()


def configure_memory(temporary: Path) -> None:
    """Return large freed blocks to the system, and put temporary files into the given folder.

    glibc comes to keep blocks of up to 32 MiB in its heap, fragmented by small blocks: bodies of 96 MiB left
    190 MiB behind. And the system's own temporary folder may itself be memory (tmpfs).
    """
    with suppress(AttributeError):  # of other libraries than glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    tempfile.tempdir = str(temporary)
