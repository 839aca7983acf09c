"""The isolated checker of model files: ``python -m service.sandbox.checker``.

The server starts this process, which imports the reader once and then forks for each file: a file can
end its fork (by a signal, or the limits of memory and time), but neither this process nor the server, and the
next file does not wait for the imports. A task is a line of JSON on standard input, ``{"path", "seconds",
"max_bytes", "left"}``, sent once the previous answer has come. The answer is a line of JSON as well:

* ``locations``: names of the weight files beside the model, if it refers to any;
* ``sha256`` of a file that is accepted, or the ``reason`` of a refusal;
* ``ran_out``: "seconds" or "max_bytes" where the check ran into that limit;
* ``max_bytes``: the limit of memory that was in force.

The process and its fork end with the server: standard input closes when the server dies, for any reason.
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
from service.sandbox.resources import lower_priority, within

CLOCK_FACTOR = 4.0
"""Limit of wall-clock time of a check, as a multiple of its limit of processor time."""
MAX_ANSWER_BYTES = 2**20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Answer tasks until standard input ends."""
    lower_priority()
    with suppress(OSError):  # if memory runs out, the kernel ends this process first
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    out = os.dup(1)
    os.dup2(2, 1)  # output of libraries is not mistaken for an answer
    gc.collect()
    gc.freeze()  # forks then share the memory of the imports
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
    os.kill(child, signal.SIGKILL)  # if the fork has ended already, its exit status remains
    _, status, used = os.wait4(child, 0)
    answer: dict[str, Any] = {"max_bytes": max_bytes}
    for line in content.splitlines():
        with suppress(ValueError):  # truncated
            answer |= json.loads(line)
    if not answer.keys() & {"sha256", "reason", "ran_out"}:
        ended = signal.SIGKILL if not os.WIFSIGNALED(status) else os.WTERMSIG(status)
        if late or ended in (signal.SIGPROF, signal.SIGXCPU):
            answer["ran_out"] = "seconds"
        elif ended == signal.SIGKILL or used.ru_maxrss * 1024 > max_bytes // 2:
            # By the kernel, out of memory; or a library that does not check whether it was given memory.
            answer["ran_out"] = "max_bytes"
        else:
            answer["reason"] = f"reading it crashes the process that checks it ({signal.Signals(ended).name})"
    return answer


def _listen(reader: int, deadline: float) -> tuple[bytes, bool]:
    """Return the fork's output and whether it ran out of time."""
    content = b""
    while len(content) <= MAX_ANSWER_BYTES:
        ready = select.select([0, reader], [], [], max(0.0, deadline - time.monotonic()))[0]
        if 0 in ready:  # the server sends no task before the answer: it has died
            os.killpg(0, signal.SIGKILL)
        if not ready:
            return content, True
        if not (more := os.read(reader, 65536)):
            break
        content += more
    return content, False


def _check(path: Path, seconds: float, max_bytes: int, writer: int) -> None:
    """Check one file in the fork, then end the fork."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process even within native code
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
        # onnxruntime and protobuf report a failed allocation in these words.
        exhausted = ("bad_alloc", "alloc failed", "allocate memory", "MemoryError", "NULL without setting")
        ran_out = any(words in str(error) for words in exhausted)
        yield {"ran_out": "max_bytes"} if ran_out else {"reason": str(error)}
    except MemoryError:
        yield {"ran_out": "max_bytes"}
    except Exception as error:
        # Log the type and place alone: the message may quote content of the file.
        print(*traceback.format_tb(error.__traceback__), type(error).__name__, sep="", file=sys.stderr)
        yield {"reason": f"it cannot be read: {type(error).__name__} (see the service's log)"}


def _locations(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return []
        return external_locations(onnx.load_model_from_string(path.read_bytes()))
    except MemoryError:
        raise
    except Exception:  # the reader refuses the file with a reason
        return []


def _data_bytes() -> int:
    """Return the bytes of this process's memory that ``RLIMIT_DATA`` counts."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[5]) * PAGE_BYTES
    except OSError:  # another system
        return 0


if __name__ == "__main__":
    main()
