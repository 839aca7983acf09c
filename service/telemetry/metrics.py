"""What is counted of the service, and told to Prometheus.

Counting is a list index and an addition, well under a microsecond: children are bound once
(``stage = metrics.stages.of("parse")``) and then told (``stage.observe(seconds)``), on the event loop
alone. prometheus_client writes the text; its own counters take locks and cannot be summed over
processes without files of its own kind, so :class:`Snapshot` is what is summed here.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.telemetry.drift import EDGES, Distribution, Served

SECONDS = tuple(float(f"{digit}e{power}") for power in range(-5, 2) for digit in (1, 2.5, 5))
ROWS = tuple(float(2**power) for power in range(15))
RADII = tuple(EDGES.tolist())
STAGES = ("parse", "queue", "run", "write")
"""Of a request, but ``run``, which is of those answered together: scores and radii."""

Labels = tuple[str, ...]
Numbers = list[float]
Snapshot = dict[str, dict[Labels, Numbers]]
"""Families by name; of each child its numbers: one value, or counts of bins and the sum. Adds up."""


class Value:
    """A counter, or a gauge where it is set: one number."""

    __slots__ = ("value",)

    def __init__(self, _: Sequence[float]) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Counts; of a counter never less than 0."""
        self.value += amount

    def numbers(self) -> Numbers:
        """As a snapshot holds them."""
        return [self.value]


class Histogram:
    """Counts of values <= each edge and beyond the last, and their sum."""

    __slots__ = ("_counts", "_edges", "_sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges, self._sum = edges, 0.0
        self._counts = [0.0] * (len(edges) + 1)

    def observe(self, value: float) -> None:
        """Counts one value."""
        self._counts[bisect_left(self._edges, value)] += 1.0
        self._sum += value

    def numbers(self) -> Numbers:
        """As a snapshot holds them."""
        return [*self._counts, self._sum]


Child = TypeVar("Child", Value, Histogram)


@dataclass(frozen=True)
class Described:
    """How a family is shown.

    Attributes:
        kind: "counter", "gauge" or "histogram".
        name: without the ending ``_total`` that a counter gets.
        text: what it is.
        labels: their names.
        edges: of a histogram.
    """

    kind: str
    name: str
    text: str
    labels: Labels = ()
    edges: Sequence[float] = ()

    def metric(self, children: Mapping[Labels, Numbers]) -> Metric:
        """The family as prometheus_client writes it."""
        if self.kind == "histogram":
            histogram = HistogramMetricFamily(self.name, self.text, labels=self.labels)
            ends = [*(f"{edge:g}" for edge in self.edges), "+Inf"]
            for labels, numbers in children.items():
                buckets = list(zip(ends, np.cumsum(numbers[:-1]).tolist(), strict=True))
                histogram.add_metric(labels, buckets, numbers[-1])
            return histogram
        plain = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family: CounterMetricFamily | GaugeMetricFamily = plain(self.name, self.text, labels=self.labels)
        for labels, numbers in children.items():
            family.add_metric(labels, numbers[0])
        return family


class Family(Generic[Child]):
    """Children by the values of their labels."""

    def __init__(self, child: type[Child], described: Described) -> None:
        self.described = described
        self._child: type[Child] = child
        self._children: dict[Labels, Child] = {}

    def of(self, *labels: str) -> Child:
        """The child of those labels; to be kept where it is told often."""
        if labels not in self._children:
            self._children[labels] = self._child(self.described.edges)
        return self._children[labels]

    def snapshot(self) -> dict[Labels, Numbers]:
        """The numbers of every child."""
        return {labels: child.numbers() for labels, child in self._children.items()}


def _counter(name: str, text: str, *labels: str) -> Family[Value]:
    return Family(Value, Described("counter", f"lipserve_{name}", text, labels))


def _gauge(name: str, text: str) -> Family[Value]:
    return Family(Value, Described("gauge", f"lipserve_{name}", text))


def _histogram(name: str, text: str, edges: Sequence[float], *labels: str) -> Family[Histogram]:
    return Family(Histogram, Described("histogram", f"lipserve_{name}", text, labels, edges))


LABELS = ("model", "version", "norm", "class")
MARGIN = Described("histogram", "lipserve_margin", "Margin of the answer.", LABELS, RADII)
ABSTENTIONS = Described(
    "counter", "lipserve_abstentions", "Labels withheld by the model's policy.", ("model",)
)
RADIUS = Described(
    "histogram",
    "lipserve_certified_radius",
    "Certified radius of the answer, plain tier; at 0 nothing is certified.",
    LABELS,
    RADII,
)


class Metrics:
    """Everything that one process counts. Used on the event loop alone.

    Attributes:
        requests: by route, method and status.
        request_seconds: by route.
        parse_seconds, queue_seconds, run_seconds, write_seconds: of a prediction's stages, see ``STAGES``.
        batch_rows: inputs that were run at once.
        queued_rows: inputs that wait to be run, now.
        problems: by kind.
        bytes_in, bytes_out: of bodies.
        inputs_outside_box: answered inputs far outside the box that the model's file names, by model.
        in_flight: requests being answered, now.
        draining: 1 once the process is told to stop.
        served: margins and radii, and abstentions.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self.requests = _counter("requests", "Requests answered.", "route", "method", "status")
        self.request_seconds = _histogram(
            "request_seconds", "Time to the end of the answer.", SECONDS, "route"
        )
        self.stages = _histogram("stage_seconds", "Time of one stage of predictions.", SECONDS, "stage")
        self._batch_rows = _histogram("batch_rows", "Inputs run at once.", ROWS)
        self._queued_rows = _gauge("queued_rows", "Inputs that wait to be run.")
        self.problems = _counter("problems", "Problems answered, by kind.", "kind")
        self.inputs_outside_box = _counter(
            "inputs_outside_box",
            "Inputs answered that lie far outside the range that the model's file names.",
            "model",
        )
        self._bytes_in = _counter("request_bytes", "Bytes of bodies that were accepted.")
        self._bytes_out = _counter("response_bytes", "Bytes of bodies sent.")
        self._in_flight = _gauge("in_flight_requests", "Requests being answered.")
        self._draining = _gauge("draining_workers", "Worker processes told to stop.")
        self._workers = _gauge("workers", "Worker processes.")
        self._resident = _gauge("resident_bytes", "Memory of the worker processes.")
        self._cpu = _counter("cpu_seconds", "Processor time of the worker processes.")
        self.batch_rows, self.queued_rows = self._batch_rows.of(), self._queued_rows.of()
        self.bytes_in, self.bytes_out = self._bytes_in.of(), self._bytes_out.of()
        self.in_flight, self.draining = self._in_flight.of(), self._draining.of()
        self._workers.of().value = 1.0
        self.parse_seconds, self.queue_seconds, self.run_seconds, self.write_seconds = (
            self.stages.of(stage) for stage in STAGES
        )

    def families(self) -> Iterator[Family[Value] | Family[Histogram]]:
        """Every family but those of the distributions served."""
        return (family for family in vars(self).values() if isinstance(family, Family))

    def described(self) -> list[Described]:
        """Every family's description."""
        return [*(family.described for family in self.families()), MARGIN, RADIUS, ABSTENTIONS]

    def snapshot(self) -> Snapshot:
        """All numbers as they are now."""
        self._cpu.of().value = time.process_time()
        self._resident.of().value = float(_resident_bytes())
        found = {family.described.name: family.snapshot() for family in self.families()}
        found[ABSTENTIONS.name] = {(name,): [float(n)] for name, n in self.served.abstentions.items()}
        found[MARGIN.name], found[RADIUS.name] = {}, {}
        for distribution in self.served:
            found[MARGIN.name] |= _by_class(distribution, margins=True)
            found[RADIUS.name] |= _by_class(distribution, margins=False)
        return found


def _by_class(distribution: Distribution, *, margins: bool) -> dict[Labels, Numbers]:
    """Of the classes that were answered."""
    histogram = distribution.margins if margins else distribution.certified_radii
    whose = distribution.model, distribution.version, distribution.norm.value
    return {
        (*whose, distribution.class_names[i]): [
            *histogram.counts[i].tolist(),
            float(histogram.sums[i]),
        ]
        for i in np.flatnonzero(histogram.counts.any(axis=1)).tolist()
    }


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def total(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of several processes' numbers."""
    added: Snapshot = {}
    for snapshot in snapshots:
        for name, children in snapshot.items():
            family = added.setdefault(name, {})
            for labels, numbers in children.items():
                known = family.get(labels)
                # Other than as many bins: of another release, which left its file behind.
                if known is None or len(known) != len(numbers):
                    family[labels] = numbers
                else:
                    family[labels] = [a + b for a, b in zip(known, numbers, strict=True)]
    return added


class _Shown(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def exposition(described: Iterable[Described], snapshot: Snapshot, facts: Iterable[Metric] = ()) -> bytes:
    """The text of ``/metrics``.

    Args:
        described: families, in the order shown.
        snapshot: their numbers.
        facts: families that are no counts: which models there are, how many jobs.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Shown([*(d.metric(snapshot.get(d.name, {})) for d in described), *facts]))
    return generate_latest(registry)
