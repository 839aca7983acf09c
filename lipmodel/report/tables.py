"""Tables of evaluations and audits; the commands, Markdown and HTML show the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lipmodel.audit.findings import AuditReport
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.display import certified_percent, percent, rounded, rounded_down, rounded_up
from lipmodel.evaluate import Accuracies, Evaluation, Interval

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of plain text, to be escaped when rendered, with a note that explains the columns."""

    title: str
    headings: Row
    rows: Sequence[Row]
    note: str = ""


def accuracy_table(evaluation: Evaluation) -> Table:
    """Return the accuracies on all inputs, with the majority-class baseline."""
    classes = sum(part.samples > 0 for part in evaluation.per_class.values())
    baseline = f"majority-class baseline '{evaluation.majority_class}'"
    rows = [
        ("clean accuracy", *_clean(evaluation), percent(evaluation.balanced_accuracy)),
        *(
            (
                f"certified accuracy at {epsilon}",
                *_certified(evaluation, epsilon),
                certified_percent(evaluation.balanced_certified_accuracy[epsilon]),
            )
            for epsilon in evaluation.certified_accuracy
        ),
        (baseline, percent(evaluation.majority_share), "", percent(1 / classes)),
        ("mean certified radius", rounded_down(evaluation.average_certified_radius, 4), "", ""),
    ]
    title = f"{evaluation.samples} samples, {evaluation.threat}"
    return Table(title, ("metric", "value", "95% interval", "mean over classes"), rows)


def attack_tables(evaluation: Evaluation) -> list[Table]:
    """Return the accuracies on the inputs attacked; no table if no input was."""
    sample = evaluation.attacked_sample
    if sample is None:
        return []
    chosen = ": a random sample stratified by label" * (sample.samples < evaluation.samples)
    note = (
        "The true robust accuracy of these inputs lies between certified accuracy and accuracy under attack."
    )
    rows: list[Row] = [("none (clean)", *_clean(sample), "", "")]
    rows += [
        (epsilon, *_certified(sample, epsilon), *_attacked(sample, epsilon))
        for epsilon in sample.attacked_accuracy
    ]
    headings = ("epsilon", "certified", "95% interval", "under attack", "95% interval")
    return [Table(f"{sample.samples} attacked inputs{chosen}", headings, rows, note)]


def class_table(evaluation: Evaluation) -> Table:
    """Return the accuracies of each class."""
    sizes = list(evaluation.certified_accuracy)
    attacked = sizes if evaluation.attacked_samples == evaluation.samples else []
    headings = (
        "class",
        "inputs",
        "clean",
        *(f"certified at {epsilon}" for epsilon in sizes),
        *(f"under attack at {epsilon}" for epsilon in attacked),
        "mean radius",
    )
    rows = [
        (
            name,
            str(part.samples),
            _joined(_clean(part)),
            *(_joined(_certified(part, epsilon)) for epsilon in sizes),
            *(_joined(_attacked(part, epsilon)) for epsilon in attacked),
            rounded_down(part.average_certified_radius, 4),
        )
        for name, part in evaluation.per_class.items()
    ]
    return Table(
        "By class", headings, rows, "Accuracies with 95% intervals in brackets, and mean certified radii."
    )


def audit_table(report: AuditReport) -> Table:
    """Return the figures of an audit."""
    attack, points = report.attack, report.points
    rows = [
        ("verdict", report.verdict),
        ("Lipschitz bound of a score, proved", rounded_up(report.bound, 9)),
        ("Lipschitz constant claimed", "none" if report.claim is None else rounded(report.claim, 9)),
        ("largest gradient norm observed", rounded(report.observed, 9)),
        ("largest slope between two inputs", rounded_down(report.observed_slope, 9)),
        ("tightness (observed / bound)", rounded(report.tightness, 4)),
        ("gradients with at least 0.99 of their bound", percent(report.full_gradient_share)),
        ("points", f"{points['data']} of the data, {points['box']} random"),
        ("labels changed within the certified radius", f"{report.flips} of {points['attacked']}"),
        ("labels changed beyond the certified radius", f"{attack.reached_outside} of {attack.inputs}"),
    ]
    if attack.ratio_quantiles:
        median = rounded(attack.ratio_quantiles["0.5"], 4)
        rows.append(("radius / nearest attack found, median", median))
    return Table(f"Audit in {report.norm.symbol}", ("metric", "value"), rows)


def pair_table(report: AuditReport, count: int, columns: int | None = None) -> Table:
    """Return the scores and differences with the largest tightness, in all columns or the first ones."""
    pairs = sorted(report.per_pair, key=lambda pair: -pair.tightness)[:count]
    headings = (
        "score or difference", "bound", "observed", "slope", "tightness", "estimate (CLEVER)",
        "at least 0.99", "median",
    )  # fmt: skip
    note = (
        "The bound is proved. The slope is a lower bound on the true constant, as is the gradient up to "
        "rounding. The estimate, from random points, may err to either side; it is capped at the bound. Last "
        "columns: share of gradients with at least 0.99 of the bound, and median of gradient / bound."
    )
    rows = []
    for pair in pairs:
        estimate, capped = pair.extreme_value_estimate, ", capped at the bound" * pair.extreme_value_capped
        row = (
            pair_name(pair.classes),
            rounded_up(pair.bound),
            rounded(pair.observed),
            rounded_down(pair.observed_slope),
            rounded(pair.tightness, 4),
            "" if estimate is None else rounded(estimate) + capped,
            percent(pair.full_gradient_share, 1),
            rounded(pair.quantiles["0.5"], 3),
        )
        rows.append(row[:columns])
    return Table("Scores and differences nearest to their bounds", headings[:columns], rows, note)


def model_table(predictor: CertifiedPredictor, rows: Sequence[Row] = ()) -> Table:
    """Return the facts about a model file, with further rows."""
    claims = predictor.claims
    claimed = "none in the file"
    if claims.lipschitz is not None:
        norm = claims.norm.symbol if claims.norm else "an unknown norm"
        claimed = f"{rounded(claims.lipschitz)} in {norm}, {'' if predictor.claim_proved else 'not '}proved"
    facts: list[Row] = [
        ("file", f"sha256 {predictor.file.sha256}"),
        ("execution", f"{predictor.execution.__name__}: predictions and radii hold for this format"),
        ("Lipschitz constant claimed", claimed),
    ]
    return Table("Model", ("", ""), [*facts, *rows])


def pair_name(classes: tuple[str, str | None]) -> str:
    """Return the name of a score or a difference of two."""
    return " − ".join(filter(None, classes))


def _clean(part: Accuracies) -> tuple[str, str]:
    return _share(part.clean_accuracy, part.clean_accuracy_interval, percent)


def _certified(part: Accuracies, epsilon: str) -> tuple[str, str]:
    interval = part.certified_accuracy_intervals[epsilon]
    return _share(part.certified_accuracy[epsilon], interval, certified_percent)


def _attacked(part: Accuracies, epsilon: str) -> tuple[str, str]:
    return _share(part.attacked_accuracy[epsilon], part.attacked_accuracy_intervals[epsilon], percent)


def _share(share: float, interval: Interval, shown: Callable[[float], str]) -> tuple[str, str]:
    return shown(share), " – ".join(percent(end) for end in interval)


def _joined(share: tuple[str, str]) -> str:
    value, interval = share
    return f"{value} ({interval.replace('%', '').replace(' ', chr(0xA0))})"  # wraps before the interval only
