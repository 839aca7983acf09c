"""Metrics that describe state: the build, the models, and the jobs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from lipmodel import __version__
from service.jobs.store import State
from service.models.registry import Registry


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
    """Return metrics of the database and its jobs.

    Args:
        counts: number of jobs of all servers by state; None if the database does not answer.
    """
    up = GaugeMetricFamily(
        "lipserve_database_up", "1 if the job database answers, else 0.", value=float(counts is not None)
    )
    jobs = GaugeMetricFamily("lipserve_jobs", "Stored audits and evaluations.", labels=["state"])
    for state, count in (counts or {}).items():
        jobs.add_metric([state.value], count)
    return [up, jobs]
