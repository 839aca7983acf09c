"""What was served, in the format of Prometheus: histograms of margins and certified radii."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from service.drift import EDGES, Distribution, Histogram, Served

LABELS = ("model", "version", "norm", "class")
ENDS = [*(f"{edge:g}" for edge in EDGES), "+Inf"]
Choice = Callable[[Distribution], Histogram]


class ServedCollector(Collector):
    """Reads the distributions when it is asked; nothing is counted twice."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def collect(self) -> Iterator[HistogramMetricFamily | CounterMetricFamily]:
        """One family each of margins and radii, of classes that were answered; and of abstentions."""
        yield self._family("lipserve_margin", "Margin of the answer.", lambda d: d.margins)
        yield self._family(
            "lipserve_certified_radius",
            "Certified radius of the answer, plain tier; at 0 nothing is certified.",
            lambda d: d.certified_radii,
        )
        abstentions = CounterMetricFamily(
            "lipserve_abstentions", "Labels withheld by the model's policy.", labels=["model"]
        )
        for name, count in self._served.abstentions.items():
            abstentions.add_metric([name], count)
        yield abstentions

    def _family(self, name: str, what: str, choose: Choice) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, what, labels=LABELS)
        for whose in self._served:
            histogram = choose(whose)
            for index in np.flatnonzero(histogram.counts.any(axis=1)):
                labels = [whose.model, whose.version, whose.norm.value, whose.class_names[index]]
                buckets = list(zip(ENDS, np.cumsum(histogram.counts[index]).tolist(), strict=True))
                family.add_metric(labels, buckets, float(histogram.sums[index]))
        return family


def exposition(served: Served) -> bytes:
    """The text of ``/metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServedCollector(served))
    return generate_latest(registry)
