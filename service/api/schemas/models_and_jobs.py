"""What goes over the wire, in and out. Strict: nothing is converted, no unknown key is passed over."""

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
    """A key for Ed25519 (RFC 8037)."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]
    kid: str


class PublicKeys(Wire):
    """A JSON Web Key Set (RFC 7517); the first key signs now, the others did."""

    keys: list[PublicKey]


class Bounds(Wire):
    """Lipschitz constants proved from the weights in the file, in one norm."""

    global_: float = Field(alias="global", description="No score moves faster than this.")
    per_pair: list[list[float]] = Field(
        description="[i][j]: the same of score i less score j, which is what sets the radius."
    )


class Claim(Wire):
    """What the file says of itself. Shown, never used."""

    norm: Norm | None
    lipschitz: float
    proved: bool = Field(description="Whether the proved global bound in that norm is no larger.")


class VersionSummary(Wire):
    """One version of a model."""

    version: str
    status: Literal["served", "refused", "checking"]
    sha256: str | None = Field(description="Digest of the file that is served, if one is.")
    reason: str | None = Field(
        description="Why its file is refused or not served yet, or why it is not the default version."
    )


class PolicySummary(Wire):
    """What is asked of every answer."""

    norm: Norm = Field(description="Of radii, where a request names none.")
    epsilon: float | None = Field(
        description="Least certified radius wanted in that norm; null: any will do."
    )
    action: Action = Field(
        description="For smaller ones: 'flag' answers with certified false, 'abstain' gives no label, "
        "'reject' refuses the request."
    )


class ServedSummary(ModelReference):
    """A model that answers; version and sha256 are of its latest."""

    status: Literal["served"] = "served"
    versions: list[VersionSummary]
    labels: dict[str, str] = Field(description="Versions by label; 'latest' answers where none is asked for.")
    policy: PolicySummary
    execution: Execution = Field(description=EXECUTION)
    fault: str | None = Field(
        description="What is refused of the model's files as they are now, if anything."
    )


class RefusedModel(Wire):
    """A model of the folder that does not answer, or not yet, and why."""

    name: str
    status: Literal["refused", "checking"] = "refused"
    reason: str
    versions: list[VersionSummary]
    labels: dict[str, str]


class InputClaim(Wire):
    """What the file says of its inputs, for people who look at them. Shown, never used."""

    shape: list[int] | None = Field(description="Of one input before it was flattened, such as [8, 8].")
    columns: list[str] = Field(description="Names of its numbers; empty where they have none.")
    units: str | None = Field(description="What a number measures.")


class SampleSet(Wire):
    """Labelled inputs that lie beside a model."""

    model: ModelReference
    inputs: Rows
    labels: list[int] = Field(description="Indices of classes.")


class ModelDetail(ServedSummary):
    """A model that answers, and what is proved of it."""

    input_shape: list[int] = Field(description="Of one input; requests send it flat, row-major.")
    input_size: int = Field(description="Numbers in one input.")
    input_claim: InputClaim
    samples: int = Field(description="How many labelled inputs lie beside the model; see its /samples.")
    input_box: list[float] | None = Field(
        description="Least and largest coordinate in the data, as the file claims; not checked. Inputs far "
        "outside get a warning."
    )
    classes: list[str]
    default_norm: Norm
    bounds: dict[Norm, Bounds] = Field(description="What is proved, per norm of the input.")
    claim: Claim | None
    record: dict[str, Any] = Field(
        description="What the file says of its data, training and results. Shown, never used."
    )
    ignored_claims: list[str] = Field(description="Metadata that could not be understood.")
    operators: dict[str, int] = Field(description="How often each ONNX operator occurs.")
    dtype: Literal["float32", "float64"] = Field(description="Format of the file's weights.")
    folded_weights_sha256: str | None = Field(
        description="Digest of the weights that the file computes by floating-point arithmetic; null where "
        "it computes none. Radii speak of these weights, and none holds for every runtime."
    )


class ModelList(Wire):
    """Every model of the folder."""

    models: list[ServedSummary | RefusedModel]
    fault: str | None = Field(description="What is wrong with the folder itself, if anything.")


class Box(Wire):
    """The same interval for every coordinate."""

    low: float = Field(ge=-LARGEST_INPUT, le=LARGEST_INPUT)
    high: float = Field(ge=-LARGEST_INPUT, le=LARGEST_INPUT)


class AuditRequest(Wire):
    """Where to look for contradictions of what is certified; all of it optional."""

    inputs: Rows | None = Field(None, description="Inputs to look at, beside random points.")
    box: Box | None = Field(None, description="Where random points lie; by default the model's input_box.")
    norm: NormOfRadius | None = None
    samples: int = Field(1000, ge=0, description="How many random points.")
    seed: int = Field(0, ge=0, lt=2**63, description="The same seed gives the same report.")
    report: bool = Field(
        False, description="Also keep a report in Markdown and HTML, with plots; seconds more."
    )


class AttackRequest(Wire):
    """Inputs whose nearest change of label is looked for."""

    inputs: Rows
    norm: NormOfRadius | None = None


class Finding(Wire):
    """The nearest change of the label of one input that was found."""

    label: str = Field(description="Answer to the input itself.")
    certified_radius: float = Field(description="Of the input.")
    found: bool = Field(description="Whether any change was; that none was proves nothing.")
    adversarial: list[float] | None = Field(description="The changed input; null where none was found.")
    adversarial_label: str | None = Field(description="The answer to that.")
    distance: float | None = Field(description="Of the two, rounded up.")
    refuted: bool = Field(
        description="Whether it lies within the certified radius; the certificate is then wrong."
    )


class AttackResponse(Wire):
    """One finding for each input, in order."""

    model: ModelReference
    norm: Norm
    execution: Execution = Field(description=EXECUTION)
    findings: list[Finding]


class JobModel(Wire):
    """Which model a job is about."""

    name: str
    sha256: str = Field(description="Digest of the ONNX file.")


class JobSummary(Wire):
    """An audit or evaluation, without its report."""

    id: str
    kind: Literal["audit", "evaluation"]
    model: JobModel
    parameters: dict[str, Any] = Field(description="What was asked for; of data only where it came from.")
    state: State = Field(
        description="'interrupted': the service stopped while it ran, and it is not tried again."
    )
    progress: float = Field(description="Share done, from 0 to 1.")
    seconds_left: float | None = Field(description="An estimate; null where there is none.")
    created: datetime
    started: datetime | None
    finished: datetime | None
    problem: ProblemBody | None = Field(description="Why it failed or was interrupted.")


class JobDetail(JobSummary):
    """An audit or evaluation."""

    result: dict[str, Any] | None = Field(description="The report, once the state is 'done'.")


class JobList(Wire):
    """A page of audits or evaluations, the newest first."""

    jobs: list[JobSummary]
    next: str | None = Field(description="Path of the next page; null on the last one.")


class RadiiReference(Wire):
    """Certified radii of a reference evaluation."""

    count: int
    share_below: float = Field(description="Share whose radius is 0 or less than epsilon.")


class RadiiServed(Wire):
    """Certified radii served lately by this server."""

    count: int = Field(description="How many are remembered: the latest 10,000 at most.")
    share_below: float | None = Field(description="As of the reference; null where none was served.")
    since: datetime | None = Field(description="When the oldest of them was served.")


class Drift(Wire):
    """Radii served lately against those of an evaluation."""

    evaluation: str
    norm: Norm
    epsilon: float
    served: RadiiServed
    reference: RadiiReference
    statistic: float | None = Field(
        description="Of Kolmogorov and Smirnov: the largest difference of the two distribution functions."
    )
    p_value: float | None = Field(
        description="How likely so large a difference is without drift; null where none was served."
    )


class Health(Wire):
    """The process is alive."""

    status: Literal["alive"] = "alive"


class Readiness(Wire):
    """At least one model is served."""

    status: Literal["ready"] = "ready"
    served: int
    refused: int
    checking: int = Field(0, description="Models whose files are being checked before they are served.")
    digest: str = Field(description="Of what is served: the same on two servers where they serve the same.")
    behind: str | None = Field(description="Why models may be older than those of their store; null if not.")


class LabelRequest(Wire):
    """The version that a label is given to."""

    version: int = Field(ge=1, lt=10**9, description="Its number.")


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
