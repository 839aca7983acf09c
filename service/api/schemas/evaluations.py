"""Wire types of evaluations."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from lipmodel.norms import Norm
from service.inference.request import ThreatOptions
from service.models.settings import Execution
from service.wire import EXECUTION, Rows, Wire

Interval = Annotated[
    tuple[float, float], Field(description="Ends of a 95% confidence interval (Wilson), as shares.")
]


class EvaluationRequest(ThreatOptions):
    """Data and parameters of an evaluation. Data are rows, a file of the data folder, or files in a form."""

    inputs: Rows | None = Field(None, description="Inputs, if there are few; with 'labels'.")
    labels: Annotated[list[int], Field(fail_fast=True)] | None = Field(
        None, description="Index of the true class of each input."
    )
    path: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Instead of inputs: a .npz, .csv or .parquet file, or a folder of IDX files, under the "
        "service's data folder.",
    )
    epsilons: list[Annotated[float, Field(ge=0)]] = Field(
        [], max_length=1000, description="Sizes of change to give the certified accuracy at."
    )
    tighten: bool = Field(False, description="Prove larger radii; slower.")
    attack: int = Field(
        0,
        ge=0,
        description="Number of inputs to attack for the accuracy under attack: a seeded random sample, "
        "stratified by class.",
    )
    report: bool = Field(
        False, description="Also produce a report in Markdown and HTML with plots, which takes seconds more."
    )


class AccuracyFigures(Wire):
    """Accuracy of all inputs, or of the inputs of one class. 0 if there are none."""

    samples: int = Field(description="Number of inputs.", examples=[100])
    attacked_samples: int = Field(description="Number of attacked inputs.", examples=[20])
    clean_accuracy: float = Field(description="Share of inputs with the right label.", examples=[0.98])
    clean_accuracy_interval: Interval = Field(examples=[[0.93, 0.994]])
    certified_accuracy: dict[str, float] = Field(
        description="For each epsilon, the share of inputs with the right label and a certified radius of at "
        "least epsilon.",
        examples=[{"0.1": 0.9}],
    )
    certified_accuracy_intervals: dict[str, Interval] = Field(examples=[{"0.1": [0.826, 0.945]}])
    attacked_accuracy: dict[str, float] = Field(
        description="For each epsilon, the share of attacked inputs with the right label for which no "
        "attack within epsilon succeeded; empty without attacks.",
        examples=[{"0.1": 0.95}],
    )
    attacked_accuracy_intervals: dict[str, Interval] = Field(examples=[{"0.1": [0.764, 0.991]}])
    average_certified_radius: float = Field(
        description="Mean certified radius, with 0 for wrong labels.", examples=[0.21]
    )


class Curve(Wire):
    """Certified accuracy at even steps up to the largest radius."""

    epsilon: list[float] = Field(examples=[[0.0, 0.002, 0.004]])
    certified_accuracy: list[float] = Field(examples=[[0.98, 0.98, 0.97]])


class AttackedCurve(Curve):
    """Certified and attacked accuracy at even steps up to the largest radius or epsilon asked for."""

    attacked_accuracy: list[float] = Field(examples=[[0.98, 0.98, 0.98]])


class AttackedSample(AccuracyFigures):
    """Accuracy of the attacked inputs; their robust accuracy lies between certified and attacked accuracy."""

    curve: AttackedCurve


class EvaluationResult(AccuracyFigures):
    """Accuracy of a classifier on labelled data, clean, certified and under attack."""

    sha256: str = Field(description="Digest of the ONNX file.")
    norm: Norm = Field(description="Norm of radii and epsilons.")
    scale: list[float] | None = Field(
        None,
        description="Unit of radii and epsilons in each column, 0 where it never changes; absent for a ball.",
        examples=[[2.0, 1000.0, 0.0]],
        exclude_if=lambda scale: scale is None,
    )
    execution: Execution = Field(description=EXECUTION)
    tightened: bool = Field(description="True if radii are those of the slower tier.")
    majority_share: float = Field(
        description="Share of the most common class: the majority-class baseline, at every epsilon.",
        examples=[0.55],
    )
    majority_class: str = Field(description="The most common class.", examples=["upper"])
    balanced_accuracy: float = Field(
        description="Mean of the classes' clean accuracies, over the classes that occur.", examples=[0.97]
    )
    balanced_certified_accuracy: dict[str, float] = Field(
        description="Mean of the classes' certified accuracies, for each epsilon.", examples=[{"0.1": 0.88}]
    )
    attacked_sample: AttackedSample | None = Field(
        description="Accuracy of the attacked inputs; null without attacks."
    )
    inputs_outside_box: int = Field(
        description="Number of inputs far outside the input range that the file claims.",
        examples=[0],
    )
    warnings: list[str] = Field(
        description="Reasons to doubt that the inputs resemble the training data.",
        examples=[[]],
    )
    certified_radius_quantiles: dict[str, float] = Field(
        description="Quantiles of the certified radii of inputs with the right label.",
        examples=[{"0.05": 0.06, "0.5": 0.2, "0.95": 0.4}],
    )
    curve: Curve
    per_class: dict[str, AccuracyFigures] = Field(description="Accuracy by true class.")


EVALUATION_EXAMPLES: dict[str, dict[str, Any]] = {
    "two labelled rows": {
        "inputs": [[0.5, 0.25], [-1.0, 0.5]],
        "labels": [0, 1],
        "norm": "2",
        "epsilons": [0.1, 0.25],
    },
    "the same, attacked too": {
        "inputs": [[0.5, 0.25], [-1.0, 0.5]],
        "labels": [0, 1],
        "epsilons": [0.1, 0.25],
        "attack": 2,
    },
}
