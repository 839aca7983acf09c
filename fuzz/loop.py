"""The loop of the fuzzers of ONNX files: trials until the time is up, counted by outcome."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Set
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator


class Isolated:
    """A trial in another process, which is replaced when a trial ends it."""

    def __init__(self, trial: Callable[[bytes], str]) -> None:
        self._trial, self._pool = trial, ProcessPoolExecutor(1)

    def __call__(self, content: bytes) -> str:
        """Return the outcome; "died" where the process ended, a description where an exception was raised."""
        try:
            return self._pool.submit(self._trial, content).result()
        except BrokenProcessPool:
            self._pool = ProcessPoolExecutor(1)
            return "died"
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:200]


def fuzz(
    doc: str | None,
    make: Callable[[Random], tuple[bytes, Set[str]]],
    trial: Callable[[bytes], str],
    expected: Set[str],
) -> None:
    """Run the command of a fuzzer; exit with status 1 if a trial had an outcome that is not expected.

    ``make`` returns a random file and the kinds of its parts, ``trial`` the outcome of a file; the files of
    other outcomes than the expected ones are kept.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()))
    options: Any = parser.parse_args()
    rng, outcomes, slowest = np.random.default_rng(options.seed), Counter[str](), (0.0, "")
    kinds_of: defaultdict[str, set[str]] = defaultdict(set)
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        content, kinds = make(rng)
        started = time.monotonic()
        outcome = trial(content)
        slowest = max(slowest, (time.monotonic() - started, ", ".join(sorted(kinds))))
        if outcome not in expected:
            path = options.keep / f"fuzz-{Path(sys.argv[0]).stem}-{options.seed}-{outcomes.total()}.onnx"
            path.write_bytes(content)
            print(f"{outcome}: {path}", flush=True)
        outcomes[outcome] += 1
        kinds_of[outcome] |= kinds
    print(f"{outcomes.total()} files in {options.seconds:g} s, slowest {slowest[0]:.1f} s ({slowest[1]})")
    for outcome, count in outcomes.most_common():
        print(f"{count:7} {outcome}: {', '.join(sorted(kinds_of[outcome]))}")
    sys.exit(bool(set(outcomes) - expected))
