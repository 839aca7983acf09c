"""What was served, in the format of Prometheus: histograms of margins and certified radii."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from service.drift import EDGES, Distribution, Histogram, Served

LABELS = ("model", "norm", "class")
ENDS = [*(f"{edge:g}" for edge in EDGES), "+Inf"]
Choice = Callable[[Distribution], Histogram]


class ServedCollector(Collector):
    """Reads the distributions when it is asked; nothing is counted twice."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """One family each of margins and radii; of classes that were answered."""
        yield self._family("lipserve_margin", "Margin of the answer.", lambda d: d.margins)
        yield self._family(
            "lipserve_certified_radius",
            "Certified radius of the answer, plain tier; at 0 nothing is certified.",
            lambda d: d.certified_radii,
        )

    def _family(self, name: str, what: str, choose: Choice) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, what, labels=LABELS)
        for distribution in self._served:
            histogram, predictor = choose(distribution), distribution.model.predictor
            for index in np.flatnonzero(histogram.counts.any(axis=1)):
                labels = [distribution.model.name, distribution.norm.value, predictor.class_names[index]]
                buckets = list(zip(ENDS, np.cumsum(histogram.counts[index]).tolist(), strict=True))
                family.add_metric(labels, buckets, float(histogram.sums[index]))
        return family


def exposition(served: Served) -> bytes:
    """The text of ``/metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServedCollector(served))
    return generate_latest(registry)
