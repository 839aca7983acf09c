"""The isolated checker of model files: ``python -m service.sandbox.checker``.

The server starts this process, which imports the reader once and then forks for each file: whatever the file
does to the fork (a signal, memory, time), neither this process nor the server comes to harm, and the next
file does not wait for the imports. A task is a line of JSON on standard input, ``{"path", "seconds",
"max_bytes", "left"}``, sent once the answer to the last one has come. The answer is a line of JSON, too:

* ``locations``: names of the weight files beside the model, where it names any;
* ``sha256`` of a file that is accepted, or the ``reason`` why it is not;
* ``ran_out``: "seconds" or "max_bytes" where the check ran into that limit;
* ``max_bytes``: the limit of memory that was in force.

The process and its fork end with the server, whose end of standard input closes with it, however it dies.
"""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import LipcertError
from lipmodel.network.reader.external_data import external_locations
from lipmodel.network.reader.read import MAX_FILE_BYTES, read_onnx
from service.sandbox.resources import give_way, within

CLOCK_FACTOR = 4.0
"""A check may take its seconds of processor time, and so many times as long by the clock."""
MAX_ANSWER_BYTES = 2**20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Answers tasks until standard input ends."""
    give_way()
    with suppress(OSError):  # where memory runs out all the same, this is what the kernel ends first
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not mistaken for an answer
    gc.collect()
    gc.freeze()  # forks then share what was imported
    buffer = b""
    while True:
        while b"\n" not in buffer:
            if not (more := os.read(0, 65536)):
                return
            buffer += more
        line, _, buffer = buffer.partition(b"\n")
        answer = json.dumps(_answer(json.loads(line), out)).encode() + b"\n"
        while answer:
            answer = answer[os.write(out, answer) :]


def _answer(task: dict[str, Any], out: int) -> dict[str, Any]:
    seconds = task["seconds"]
    max_bytes = within(resource.RLIMIT_DATA, min(task["max_bytes"], _data_bytes() + task["left"]))
    reader, writer = os.pipe()
    begun = time.monotonic()
    if not (child := os.fork()):
        os.close(reader)
        os.close(out)
        _check(Path(task["path"]), seconds, max_bytes, writer)
    os.close(writer)
    content, late = _listen(reader, begun + seconds * CLOCK_FACTOR)
    os.close(reader)
    os.kill(child, signal.SIGKILL)  # no harm where it has ended: its status is that of its own end
    _, status = os.waitpid(child, 0)
    answer: dict[str, Any] = {"max_bytes": max_bytes}
    for line in content.splitlines():
        with suppress(ValueError):  # cut short
            answer |= json.loads(line)
    if not answer.keys() & {"sha256", "reason", "ran_out"}:
        ended = signal.SIGKILL if not os.WIFSIGNALED(status) else os.WTERMSIG(status)
        if late or ended in (signal.SIGPROF, signal.SIGXCPU):
            answer["ran_out"] = "seconds"
        elif ended == signal.SIGKILL:  # by the kernel, for want of memory
            answer["ran_out"] = "max_bytes"
        else:
            answer["reason"] = f"reading it ends the process that checks it ({signal.Signals(ended).name})"
    return answer


def _listen(reader: int, deadline: float) -> tuple[bytes, bool]:
    """Return the fork's output and whether it ran out of time."""
    content = b""
    while len(content) <= MAX_ANSWER_BYTES:
        ready = select.select([0, reader], [], [], max(0.0, deadline - time.monotonic()))[0]
        if 0 in ready:  # no task comes before the answer: the server is gone
            os.killpg(0, signal.SIGKILL)
        if not ready:
            return content, True
        if not (more := os.read(reader, 65536)):
            break
        content += more
    return content, False


def _check(path: Path, seconds: float, max_bytes: int, writer: int) -> None:
    """Checks one file in the fork, and ends it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process, also while C code runs
    cpu = within(resource.RLIMIT_CPU, math.ceil(seconds) + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    try:
        for found in _steps(path):
            os.write(writer, json.dumps(found).encode() + b"\n")
    finally:
        os._exit(0)


def _steps(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield {"locations": _locations(path)}
        yield {"sha256": CertifiedPredictor(read_onnx(path)).ready_for_all().file.sha256}
    except LipcertError as error:
        # The runtime's own words for memory that is refused to it.
        ran_out = any(words in str(error) for words in ("bad_alloc", "allocate memory", "MemoryError"))
        yield {"ran_out": "max_bytes"} if ran_out else {"reason": str(error)}
    except MemoryError:
        yield {"ran_out": "max_bytes"}
    except Exception as error:
        # Type and place alone: the message may quote content of the file.
        print(*traceback.format_tb(error.__traceback__), type(error).__name__, sep="", file=sys.stderr)
        yield {"reason": f"it cannot be read; {type(error).__name__} was raised, the log has more"}


def _locations(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return []
        return external_locations(onnx.load_model_from_string(path.read_bytes()))
    except MemoryError:
        raise
    except Exception:  # whatever it is, the reader refuses it with the reason
        return []


def _data_bytes() -> int:
    """Return the bytes of this process's memory that count as written."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[5]) * PAGE_BYTES
    except OSError:  # another system
        return 0


if __name__ == "__main__":
    main()
