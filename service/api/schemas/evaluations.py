"""What goes over the wire of an evaluation, in and out."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from lipmodel.norms import Norm
from service.models.settings import Execution
from service.wire import EXECUTION, NormOfRadius, Rows, Wire

Interval = Annotated[
    tuple[float, float], Field(description="Ends of a 95% confidence interval (Wilson), as shares.")
]


class EvaluationRequest(Wire):
    """What to measure, and on which data: rows, a file of the data folder, or else files in a form."""

    inputs: Rows | None = Field(None, description="Inputs, for few of them; with 'labels'.")
    labels: Annotated[list[int], Field(fail_fast=True)] | None = Field(
        None, description="Index of the right class of each input."
    )
    path: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Instead of inputs: a .npz, .csv or .parquet file, or a folder of IDX files, under the "
        "service's data folder.",
    )
    norm: NormOfRadius | None = None
    epsilons: list[Annotated[float, Field(ge=0)]] = Field(
        [], max_length=1000, description="Sizes of change to give the certified accuracy at."
    )
    tighten: bool = Field(False, description="Prove larger radii, slowly.")
    attack: int = Field(
        0,
        ge=0,
        description="How many inputs to attack for the accuracy under attack: a seeded random sample in "
        "which each class has its share.",
    )
    report: bool = Field(
        False, description="Also keep a report in Markdown and HTML, with plots; seconds more."
    )


class AccuracyFigures(Wire):
    """Shares of some inputs: all of them, or those of one class. 0 where there are none."""

    samples: int = Field(description="How many inputs.", examples=[100])
    attacked_samples: int = Field(description="How many of them were attacked.", examples=[20])
    clean_accuracy: float = Field(description="Share answered with the right label.", examples=[0.98])
    clean_accuracy_interval: Interval = Field(examples=[[0.93, 0.994]])
    certified_accuracy: dict[str, float] = Field(
        description="For each epsilon, the share answered right with a radius of at least that.",
        examples=[{"0.1": 0.9}],
    )
    certified_accuracy_intervals: dict[str, Interval] = Field(examples=[{"0.1": [0.826, 0.945]}])
    attacked_accuracy: dict[str, float] = Field(
        description="For each epsilon, the share of the inputs attacked that are answered right and for "
        "which no change within epsilon was found to alter that; empty without attacks.",
        examples=[{"0.1": 0.95}],
    )
    attacked_accuracy_intervals: dict[str, Interval] = Field(examples=[{"0.1": [0.764, 0.991]}])
    average_certified_radius: float = Field(
        description="Counting 0 where the answer is wrong.", examples=[0.21]
    )


class Curve(Wire):
    """Certified accuracy at even steps up to the largest radius."""

    epsilon: list[float] = Field(examples=[[0.0, 0.002, 0.004]])
    certified_accuracy: list[float] = Field(examples=[[0.98, 0.98, 0.97]])


class AttackedCurve(Curve):
    """Certified and attacked accuracy at even steps up to the largest radius or epsilon asked for."""

    attacked_accuracy: list[float] = Field(examples=[[0.98, 0.98, 0.98]])


class AttackedSample(AccuracyFigures):
    """The figures of the inputs attacked: of these the truth lies between certified and attacked accuracy."""

    curve: AttackedCurve


class EvaluationResult(AccuracyFigures):
    """What a classifier achieves on labelled data."""

    sha256: str = Field(description="Digest of the ONNX file.")
    norm: Norm = Field(description="Norm of radii and epsilons.")
    execution: Execution = Field(description=EXECUTION)
    tightened: bool = Field(description="Whether radii are those of the slower tier.")
    majority_share: float = Field(
        description="Share of the most common class: the majority-class baseline, at every epsilon.",
        examples=[0.55],
    )
    majority_class: str = Field(description="The most common class.", examples=["upper"])
    balanced_accuracy: float = Field(
        description="Mean of the classes' clean accuracies, over the classes that occur.", examples=[0.97]
    )
    balanced_certified_accuracy: dict[str, float] = Field(
        description="The same of certified accuracy, for each epsilon.", examples=[{"0.1": 0.88}]
    )
    attacked_sample: AttackedSample | None = Field(
        description="The figures of the inputs attacked alone; null where none were."
    )
    inputs_outside_box: int = Field(
        description="How many inputs lie far outside the range that the file names for its inputs.",
        examples=[0],
    )
    warnings: list[str] = Field(
        description="Reasons to doubt that the inputs are what the model was trained for, in words.",
        examples=[[]],
    )
    certified_radius_quantiles: dict[str, float] = Field(
        description="Of the radii of right answers.", examples=[{"0.05": 0.06, "0.5": 0.2, "0.95": 0.4}]
    )
    curve: Curve
    per_class: dict[str, AccuracyFigures] = Field(description="The same figures by the true class.")


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
