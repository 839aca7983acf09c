"""Metrics of the service, in the format of Prometheus.

Counting is a list index and an addition, well under a microsecond: children are bound once
(``stage = metrics.stages.of("parse")``) and then updated (``stage.observe(seconds)``), on the event loop
alone. prometheus_client writes the text; its own counters take locks and cannot be summed over processes
without files of its own kind, so sums over processes are taken of :data:`Snapshot`.
"""

from __future__ import annotations

import os
import platform
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Generic, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lipmodel import __version__
from service.jobs.store import State
from service.models.registry import Registry
from service.telemetry.drift import EDGES, Distribution, ServedRadii

SECONDS = tuple(float(f"{digit}e{power}") for power in range(-5, 2) for digit in (1, 2.5, 5))
ROWS = tuple(float(2**power) for power in range(15))
RADII = tuple(EDGES.tolist())
STAGES = ("parse", "queue", "run", "write")
"""Stages of a request; ``run`` is the computation of scores and radii for a whole batch."""

Labels = tuple[str, ...]
Numbers = list[float]
Snapshot = dict[str, dict[Labels, Numbers]]
"""Numbers of each child, by family: one value, or counts of bins and the sum. Snapshots can be summed."""


class Value:
    """A counter, or a gauge if ``value`` is set."""

    __slots__ = ("value",)

    def __init__(self, _: Sequence[float]) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Add an amount; never negative for a counter."""
        self.value += amount

    def numbers(self) -> Numbers:
        """Return the numbers for a snapshot."""
        return [self.value]


class Histogram:
    """Counts of values by bin (value <= upper edge, and beyond the last edge), and the sum of values."""

    __slots__ = ("_counts", "_edges", "_sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges, self._sum = edges, 0.0
        self._counts = [0.0] * (len(edges) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._edges, value)] += 1.0
        self._sum += value

    def numbers(self) -> Numbers:
        """Return the numbers for a snapshot."""
        return [*self._counts, self._sum]


Child = TypeVar("Child", Value, Histogram)


@dataclass(frozen=True)
class FamilyDescription:
    """Description of a metric family.

    Attributes:
        kind: "counter", "gauge" or "histogram".
        name: without the suffix ``_total`` of counters.
        text: help text.
        labels: names of the labels.
        edges: upper edges of the bins of a histogram.
    """

    kind: str
    name: str
    text: str
    labels: Labels = ()
    edges: Sequence[float] = ()

    def metric(self, children: Mapping[Labels, Numbers]) -> Metric:
        """Return the family as a metric of prometheus_client."""
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
    """A metric family: children by the values of their labels."""

    def __init__(self, child: type[Child], description: FamilyDescription) -> None:
        self.description = description
        self._child: type[Child] = child
        self._children: dict[Labels, Child] = {}

    def of(self, *labels: str) -> Child:
        """Return the child with the label values, which frequent users should keep."""
        if labels not in self._children:
            self._children[labels] = self._child(self.description.edges)
        return self._children[labels]

    def snapshot(self) -> dict[Labels, Numbers]:
        """Return the numbers of every child."""
        return {labels: child.numbers() for labels, child in self._children.items()}


def _counter(name: str, text: str, *labels: str) -> Family[Value]:
    return Family(Value, FamilyDescription("counter", f"lipserve_{name}", text, labels))


def _gauge(name: str, text: str) -> Family[Value]:
    return Family(Value, FamilyDescription("gauge", f"lipserve_{name}", text))


def _histogram(name: str, text: str, edges: Sequence[float], *labels: str) -> Family[Histogram]:
    return Family(Histogram, FamilyDescription("histogram", f"lipserve_{name}", text, labels, edges))


LABELS = ("model", "version", "norm", "class")
MARGIN = FamilyDescription("histogram", "lipserve_margin", "Margin of predictions.", LABELS, RADII)
ABSTENTIONS = FamilyDescription(
    "counter", "lipserve_abstentions", "Labels withheld by the model's policy.", ("model",)
)
RADIUS = FamilyDescription(
    "histogram",
    "lipserve_certified_radius",
    "Certified radius of predictions, plain tier; 0 certifies nothing.",
    LABELS,
    RADII,
)


class Metrics:
    """All metrics of one process, with the help texts below. Used on the event loop alone.

    Attributes:
        parse_seconds, queue_seconds, run_seconds, write_seconds: durations of ``STAGES``.
        served_radii: distributions of margins and radii, and abstentions.
    """

    def __init__(self) -> None:
        self.served_radii = ServedRadii()
        self.requests = _counter("requests", "Requests answered.", "route", "method", "status")
        self.request_seconds = _histogram(
            "request_seconds", "Time from the request to the end of the response.", SECONDS, "route"
        )
        self.stages = _histogram("stage_seconds", "Duration of one stage of predictions.", SECONDS, "stage")
        self._batch_rows = _histogram("batch_rows", "Inputs in a batch.", ROWS)
        self._queued_rows = _gauge("queued_rows", "Inputs queued.")
        self.problems = _counter("problems", "Problems answered, by kind.", "kind")
        self.inputs_outside_box = _counter(
            "inputs_outside_box", "Inputs far outside the input box named in the model's file.", "model"
        )
        self._bytes_in = _counter("request_bytes", "Bytes of accepted request bodies.")
        self._bytes_out = _counter("response_bytes", "Bytes of response bodies.")
        self._in_flight = _gauge("in_flight_requests", "Requests in flight.")
        self._draining = _gauge("draining_workers", "Worker processes that are stopping.")
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
        """Return every family except those of served distributions."""
        return (family for family in vars(self).values() if isinstance(family, Family))

    def descriptions(self) -> list[FamilyDescription]:
        """Return the descriptions of all families."""
        return [*(family.description for family in self.families()), MARGIN, RADIUS, ABSTENTIONS]

    def snapshot(self) -> Snapshot:
        """Return all numbers at present."""
        self._cpu.of().value = time.process_time()
        self._resident.of().value = float(_resident_bytes())
        found = {family.description.name: family.snapshot() for family in self.families()}
        found[ABSTENTIONS.name] = {(name,): [float(n)] for name, n in self.served_radii.abstentions.items()}
        found[MARGIN.name], found[RADIUS.name] = {}, {}
        for distribution in self.served_radii:
            found[MARGIN.name] |= _by_class(distribution, margins=True)
            found[RADIUS.name] |= _by_class(distribution, margins=False)
        return found


def _by_class(distribution: Distribution, *, margins: bool) -> dict[Labels, Numbers]:
    """Return the histograms of the classes predicted at least once."""
    histogram = distribution.margins if margins else distribution.certified_radii
    labels = distribution.model, distribution.version, distribution.norm.value
    return {
        (*labels, distribution.class_names[i]): [*histogram.counts[i].tolist(), float(histogram.sums[i])]
        for i in np.flatnonzero(histogram.counts.any(axis=1)).tolist()
    }


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def total(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of the snapshots of several processes."""
    added: Snapshot = {}
    for snapshot in snapshots:
        for name, children in snapshot.items():
            family = added.setdefault(name, {})
            for labels, numbers in children.items():
                known = family.get(labels)
                # A different number of bins: a file left behind by another release.
                if known is None or len(known) != len(numbers):
                    family[labels] = numbers
                else:
                    family[labels] = [a + b for a, b in zip(known, numbers, strict=True)]
    return added


def model_facts(registry: Registry) -> list[Metric]:
    """Return metrics of the build, each served version of a model, and the number of refused models."""
    build = GaugeMetricFamily(
        "lipserve_build_info", "Versions; always 1.", labels=["version", "python", "onnxruntime"]
    )
    build.add_metric([__version__, platform.python_version(), version("onnxruntime")], 1)
    models = GaugeMetricFamily(
        "lipserve_model_info", "A served version of a model; always 1.", labels=["model", "version", "sha256"]
    )
    for versions in registry.models.values():
        for model in versions.served.values():
            models.add_metric([model.name, model.version, model.predictor.file.sha256[:12]], 1)
    refused = GaugeMetricFamily(
        "lipserve_models_refused", "Models refused.", value=float(len(registry.refused))
    )
    return [build, models, refused]


def job_facts(counts: Mapping[State, int] | None) -> list[Metric]:
    """Return metrics of the database, None if it does not answer, and of its jobs: their number by state."""
    up = GaugeMetricFamily(
        "lipserve_database_up", "1 if the job database answers, else 0.", value=float(counts is not None)
    )
    jobs = GaugeMetricFamily("lipserve_jobs", "Stored audits and evaluations.", labels=["state"])
    for state, count in (counts or {}).items():
        jobs.add_metric([state.value], count)
    return [up, jobs]


class _Shown(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def exposition(
    descriptions: Iterable[FamilyDescription], snapshot: Snapshot, facts: Iterable[Metric] = ()
) -> bytes:
    """Return the text of ``/metrics``: families in the order of their descriptions, then metrics of state."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Shown([*(d.metric(snapshot.get(d.name, {})) for d in descriptions), *facts]))
    return generate_latest(registry)
