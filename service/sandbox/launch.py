"""Modules of this package run as processes of their own, which answer in lines of JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).resolve().parents[2]


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in this interpreter; the current directory adds no modules."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment and more variables, for a process that finds the same packages."""
    path = os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **variables}


def message_writer() -> Callable[..., None]:
    """Return a function that writes its keywords to standard output as a line of JSON.

    Everything else that is printed, by libraries for instance, goes to standard error from now on.
    """
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    def write(**message: Any) -> None:
        out.write(json.dumps(message, allow_nan=False) + "\n")
        out.flush()

    return write


def exit_text(code: int | None) -> str:
    """Return how a process ended, for messages, from its return code."""
    return f"was killed by signal {-code}" if code and code < 0 else f"ended with status {code or 0}"
