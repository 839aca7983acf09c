"""Requests by wrk, which costs less than any server: connections that send for some seconds."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SCRIPT = """
local requests, turn = {}, 0

-- arguments: a folder of bodies named 1, 2, …; how many; the path; names and values of headers
function init(args)
  for n = 4, #args, 2 do wrk.headers[args[n]] = args[n + 1] end
  for n = 1, tonumber(args[2]) do
    local file = assert(io.open(args[1] .. "/" .. n, "rb"))
    requests[n] = wrk.format("POST", args[3], nil, file:read("*a"))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("\\nresult %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"""
"""Sends bodies in turn; prints requests, µs, p50 and p99 in µs, answers without success, other failures."""


class Load(NamedTuple):
    """Requests and latency of one window."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


def check_wrk() -> None:
    """Raise SystemExit where wrk is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; it is what sends the requests (apt-get install wrk)")


def put_load(
    url: str,
    path: str,
    headers: Mapping[str, str],
    bodies: Sequence[bytes],
    *,
    connections: int,
    seconds: int,
) -> Load:
    """Post bodies in turn over some connections, one request after another on each.

    Raises:
        RuntimeError: a request failed, or had an error status.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.lua").write_text(SCRIPT)
        for number, body in enumerate(bodies, 1):
            (folder / str(number)).write_bytes(body)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
        command += ["-s", str(folder / "script.lua"), url, "--", name, str(len(bodies)), path]
        command += [part for header in headers.items() for part in header]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line.split()[1:] for line in run.stdout.splitlines() if line.startswith("result ")]
    if run.returncode or not found:
        raise RuntimeError(f"wrk failed: {run.stdout[-200:]}{run.stderr[-200:]}")
    requests, duration, p50, p99, refused, failed = map(int, found[0])
    if refused or failed or not requests:
        raise RuntimeError(f"of {requests} requests {refused} were refused and {failed} failed")
    return Load(requests, duration / 1e6, p50 / 1e3, p99 / 1e3)
