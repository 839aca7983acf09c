"""Wire types of models, jobs, attacks, drift and health. Strict: no conversions, no unknown members."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from lipmodel.network.metadata import LARGEST_INPUT
from lipmodel.norms import Norm
from service.jobs.store import State
from service.models.policy import Action
from service.models.settings import Execution
from service.problems import ProblemBody
from service.protocols.v1_schemas import ModelReference
from service.wire import EXECUTION, NormOfRadius, Rows, Wire


class PublicKey(Wire):
    """An Ed25519 public key (RFC 8037)."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]
    kid: str


class PublicKeys(Wire):
    """A JSON Web Key Set (RFC 7517): the current signing key, then earlier ones."""

    keys: list[PublicKey]


class Bounds(Wire):
    """Lipschitz constants proved from the weights in the file, in one norm."""

    global_: float = Field(
        alias="global", description="Upper bound of the Lipschitz constant of every score."
    )
    per_pair: list[list[float]] = Field(
        description="[i][j]: upper bound for score i minus score j; these bounds determine the radius."
    )


class Claim(Wire):
    """A Lipschitz constant claimed by the file. Displayed, never used."""

    norm: Norm | None
    lipschitz: float
    proved: bool = Field(
        description="True if the proved global bound in that norm does not exceed the claim."
    )


class VersionSummary(Wire):
    """One version of a model."""

    version: str
    status: Literal["served", "refused", "checking"]
    sha256: str | None = Field(description="Digest of the served file, if any.")
    reason: str | None = Field(
        description="Reason why the file is refused or not served yet, or is not the default version."
    )


class PolicySummary(Wire):
    """Certification required of every prediction."""

    norm: Norm = Field(description="Norm of radii if the request gives none.")
    threat: str | None = Field(
        description="Name of the threat set of radii if the request gives none; null for the ball of 'norm'."
    )
    epsilon: float | None = Field(description="Minimum certified radius in that norm; null: no minimum.")
    action: Action = Field(
        description="For smaller radii: 'flag' sets certified: false, 'abstain' withholds the label, "
        "'reject' refuses the request."
    )


class ServedSummary(ModelReference):
    """A served model; version and sha256 are those of the default version."""

    status: Literal["served"] = "served"
    versions: list[VersionSummary]
    labels: dict[str, str] = Field(description="Versions by label; 'latest' is the default version.")
    policy: PolicySummary
    threats: dict[str, dict[str, Any]] = Field(
        description="Threat sets that requests may give by name: norm, and scale of each column."
    )
    execution: Execution = Field(description=EXECUTION)
    fault: str | None = Field(description="Reason why present files of the model are refused, if any are.")


class RefusedModel(Wire):
    """A model of the folder that is not served, or not yet, with the reason."""

    name: str
    status: Literal["refused", "checking"] = "refused"
    reason: str
    versions: list[VersionSummary]
    labels: dict[str, str]


class InputClaim(Wire):
    """Description of the inputs claimed by the file, for display. Never used."""

    shape: list[int] | None = Field(description="Shape of one input before flattening, such as [8, 8].")
    columns: list[str] = Field(description="Names of the columns of an input; empty if unnamed.")
    units: str | None = Field(description="Unit of the numbers of an input.")


class SampleSet(Wire):
    """Labelled inputs stored beside a model."""

    model: ModelReference
    inputs: Rows
    labels: list[int] = Field(description="Class index of each input.")


class ModelDetail(ServedSummary):
    """A served model and the bounds proved for it."""

    input_shape: list[int] = Field(
        description="Shape of one input; requests send inputs flat, in row-major order."
    )
    input_size: int = Field(description="Number of values in one input.")
    input_claim: InputClaim
    samples: int = Field(description="Number of labelled inputs stored beside the model; see its /samples.")
    input_box: list[float] | None = Field(
        description="Minimum and maximum of the coordinates of the data as claimed by the file; not checked. "
        "Inputs far outside get a warning."
    )
    classes: list[str]
    default_norm: Norm
    bounds: dict[Norm, Bounds] = Field(description="Proved Lipschitz constants, by norm of the input.")
    claim: Claim | None
    record: dict[str, Any] = Field(
        description="Description of data, training and results claimed by the file. Displayed, never used."
    )
    ignored_claims: list[str] = Field(description="Metadata keys with invalid values.")
    operators: dict[str, int] = Field(description="Number of occurrences of each ONNX operator.")
    dtype: Literal["float32", "float64"] = Field(description="Data type of the weights in the file.")
    folded_weights_sha256: str | None = Field(
        description="Digest of the weights that the file computes by floating-point arithmetic; null if "
        "it computes none. Radii hold for these weights, and no radius holds for every runtime."
    )


class ModelList(Wire):
    """Every model of the folder."""

    models: list[ServedSummary | RefusedModel]
    fault: str | None = Field(description="Reason why the folder itself cannot be read, if so.")


class Box(Wire):
    """An interval that applies to every coordinate."""

    low: float = Field(ge=-LARGEST_INPUT, le=LARGEST_INPUT)
    high: float = Field(ge=-LARGEST_INPUT, le=LARGEST_INPUT)


class AuditRequest(Wire):
    """Inputs and sampling of an audit; all members are optional."""

    inputs: Rows | None = Field(None, description="Inputs to audit besides random points.")
    box: Box | None = Field(None, description="Box of the random points; by default the model's input_box.")
    norm: NormOfRadius | None = None
    samples: int = Field(1000, ge=0, description="Number of random points.")
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the random points; equal seeds give equal reports."
    )
    report: bool = Field(
        False, description="Also produce a report in Markdown and HTML with plots, which takes seconds more."
    )


class AttackRequest(Wire):
    """Inputs to attack."""

    inputs: Rows
    norm: NormOfRadius | None = None


class Finding(Wire):
    """The nearest adversarial input found for one input."""

    label: str = Field(description="Label of the input.")
    certified_radius: float = Field(description="Certified radius of the input.")
    found: bool = Field(description="True if an adversarial input was found; false proves nothing.")
    adversarial: list[float] | None = Field(description="The adversarial input; null if none was found.")
    adversarial_label: str | None = Field(description="Label of the adversarial input.")
    distance: float | None = Field(description="Distance from the input, rounded up.")
    refuted: bool = Field(
        description="True if the distance does not exceed the certified radius, which is then wrong."
    )


class AttackResponse(Wire):
    """One finding for each input, in order."""

    model: ModelReference
    norm: Norm
    execution: Execution = Field(description=EXECUTION)
    findings: list[Finding]


class JobModel(Wire):
    """Model of a job."""

    name: str
    sha256: str = Field(description="Digest of the ONNX file.")


class JobSummary(Wire):
    """An audit or evaluation, without its report."""

    id: str
    kind: Literal["audit", "evaluation"]
    model: JobModel
    parameters: dict[str, Any] = Field(
        description="Parameters of the request; data are given by source only."
    )
    state: State = Field(
        description="'interrupted': the service stopped while the job ran; the job is not retried."
    )
    progress: float = Field(description="Completed share, from 0 to 1.")
    seconds_left: float | None = Field(description="Estimated seconds to the end; null without an estimate.")
    created: datetime
    started: datetime | None
    finished: datetime | None
    problem: ProblemBody | None = Field(description="Problem of a failed or interrupted job.")


class JobDetail(JobSummary):
    """An audit or evaluation."""

    result: dict[str, Any] | None = Field(description="The report; null until the state is 'done'.")


class JobList(Wire):
    """A page of audits or evaluations, the newest first."""

    jobs: list[JobSummary]
    next: str | None = Field(description="Path of the next page; null on the last page.")


class RadiiReference(Wire):
    """Certified radii of a reference evaluation."""

    count: int
    share_below: float = Field(description="Share of radii that are 0 or less than epsilon.")


class RadiiServed(Wire):
    """Certified radii recently served by this server."""

    count: int = Field(description="Number of radii kept: the latest 10,000 at most.")
    share_below: float | None = Field(
        description="Share of radii that are 0 or less than epsilon; null if none was served."
    )
    since: datetime | None = Field(description="Time at which the oldest of these radii was served.")


class Drift(Wire):
    """Comparison of recently served radii with those of an evaluation."""

    evaluation: str
    norm: Norm
    epsilon: float
    served: RadiiServed
    reference: RadiiReference
    statistic: float | None = Field(
        description="Kolmogorov-Smirnov statistic: the largest difference of the two distribution functions."
    )
    p_value: float | None = Field(
        description="Probability of so large a difference without drift; null if no radius was served."
    )


class Health(Wire):
    """The process is alive."""

    status: Literal["alive"] = "alive"


class Readiness(Wire):
    """At least one model is served."""

    status: Literal["ready"] = "ready"
    served: int
    refused: int
    checking: int = Field(0, description="Number of models with files that are being checked.")
    digest: str = Field(
        description="Digest of all served models: equal on servers that serve the same models."
    )
    behind: str | None = Field(
        description="Reason why models may be older than in the object store; null if they are current."
    )


class LabelRequest(Wire):
    """Version to give a label to."""

    version: int = Field(ge=1, lt=10**9, description="Number of the version.")


ATTACK_EXAMPLES: dict[str, dict[str, Any]] = {
    "one input": {"inputs": [[0.5, 0.25]]},
    "in another norm": {"inputs": [[0.5, 0.25]], "norm": "inf"},
}
LABEL_EXAMPLES: dict[str, dict[str, Any]] = {"the first version": {"version": 1}}
AUDIT_EXAMPLES: dict[str, dict[str, Any]] = {
    "random points of the model's own input box": {},
    "a box and inputs of your own": {
        "inputs": [[0.5, 0.25]],
        "box": {"low": -1.5, "high": 2.5},
        "norm": "2",
        "samples": 200,
        "seed": 1,
    },
}
