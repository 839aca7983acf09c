"""The measurements of ``benchmarks.serving`` as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.tables import markdown


@dataclass(frozen=True)
class Row:
    """One window of a kind of server ("ours", "peer" or "limit"); CPU and memory are of all its processes."""

    model: str
    inputs: int
    connections: int
    server: str
    kind: str
    wire: str
    binary: bool
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    resident_mib: float

    @property
    def load(self) -> str:
        """Return the name of the load."""
        return load_name(self.inputs, self.connections)


def load_name(inputs: int, connections: int) -> str:
    """Return the name of a load: connections, and inputs in a request where there are several."""
    return f"c{connections}" if inputs == 1 else f"batch-{inputs} c{connections}"


MEASURED = ("requests_per_second", "p50_ms", "p99_ms", "cpu_us", "resident_mib")


def medians(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each cell: the medians over the rounds."""
    cells: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.model, row.load, row.server, row.wire), []).append(row)
    return [
        replace(some[0], **{name: median(getattr(row, name) for row in some) for name in MEASURED})
        for some in cells.values()
    ]


def figures(rows: Sequence[Row]) -> str:
    """Return a table for each model: a line for each server and wire, a column for each load."""
    parts = []
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        loads = list(dict.fromkeys(row.load for row in mine))
        lines = []
        for server, wire in dict.fromkeys((row.server, row.wire) for row in mine):
            found = {row.load: row for row in mine if (row.server, row.wire) == (server, wire)}
            cells = [_cell(found[load]) if load in found else "" for load in loads]
            lines.append((server, wire, *cells, f"{max(row.resident_mib for row in found.values()):.0f}"))
        title = f"{model}: requests/s (p50/p99 ms) CPU µs/request"
        parts.append(f"{title}\n\n{markdown(('server', 'wire', *loads, 'RSS MiB'), lines)}")
    return "\n\n".join(parts)


def _cell(row: Row) -> str:
    rate = f"{row.requests_per_second:.{0 if row.requests_per_second >= 100 else 1}f}"
    return f"{rate} ({row.p50_ms:.1f}/{row.p99_ms:.1f}) {row.cpu_us:.0f}"


def ratios(rows: Sequence[Row]) -> str:
    """Return a table of ours with one worker over the best peer: in the same encoding, and in any."""
    headings = ("model", "load", "", "ours", "best peer, same encoding", "ratio", "best peer", "ratio")
    lines = []
    for model, load, binary in dict.fromkeys((row.model, row.load, row.binary) for row in rows):
        mine = [row for row in rows if (row.model, row.load) == (model, load)]
        peers = [row for row in mine if row.kind == "peer"]
        ours = _best(row for row in mine if row.server == "lipserve" and row.binary == binary)
        same_encoding, best = _best(row for row in peers if row.binary == binary), _best(peers)
        if ours is None:
            continue
        rate, cells = ours.requests_per_second, []
        for peer in (same_encoding, best):
            other = peer.requests_per_second if peer else 0.0
            named = f"{peer.server}, {peer.wire}: {other:.0f}" if peer else ""
            cells += [named, f"{rate / other:.2f}" if peer else ""]
        lines.append((model, load, "binary" if binary else "JSON", f"{ours.wire}: {rate:.0f}", *cells))
    return markdown(headings, lines)


def _best(rows: Iterable[Row]) -> Row | None:
    return max(rows, key=lambda row: row.requests_per_second, default=None)


def against_one(rows: Sequence[Row], server: str) -> str:
    """Return a table of another configuration of ours over lipserve with one worker in float64, by wire."""
    plain = {(r.model, r.load, r.wire): r.requests_per_second for r in rows if r.server == "lipserve"}
    lines = [
        (row.model, row.load, row.wire, f"{row.requests_per_second / other:.2f}")
        for row in rows
        if row.server == server and (other := plain.get((row.model, row.load, row.wire)))
    ]
    return markdown((f"{server} / lipserve", "load", "wire", "ratio"), lines) if lines else ""
