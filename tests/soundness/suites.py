"""Hard inputs of several kinds, and what each rule's claims come to on them, decided exactly.

V1: the exact function of the file has another label at the input, or at a point within the claimed
radius. V2: a program that the radius speaks of gives another label at a representable point within
the radius. That a point lies within is decided in rationals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from lipmodel.audit.ascent import steepest
from lipmodel.network import ops
from lipmodel.network.execution import Execution
from lipmodel.norms import Norm, vector_norm
from lipmodel.threat import BALLS, Threat
from tests.networks import float32
from tests.soundness import integers, nets
from tests.soundness.rules import OURS, RULES, Subject

LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Tally:
    """What became of one rule's claims."""

    inputs: int = 0
    claims: int = 0
    wrong: int = 0
    flipped: int = 0

    def __add__(self, other):
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def share(self):
        return self.claims / max(self.inputs, 1)


@dataclass(frozen=True)
class Case:
    """A network and (clusters, k, d) inputs: those of one cluster lie close together."""

    subject: Subject
    inputs: np.ndarray

    @cached_property
    def labels(self):
        """Exact labels of all inputs."""
        return exact_labels(self.subject.graph, self.inputs.reshape(-1, self.inputs.shape[-1]))


Suite = Callable[[nets.Net, Norm, int, np.random.Generator], Iterator[Case]]


def exact_labels(graph, x):
    """(N,) the class whose exact score is above every other; -1 where the largest two are equal."""
    if not len(x):
        return np.zeros(0, dtype=int)
    scores = integers.scores(graph, x).numerator
    if scores.shape[1] == 1:
        return np.array([1 if s > 0 else 0 if s < 0 else -1 for (s,) in scores])
    best = [row.argmax() for row in scores]
    return np.array([-1 if sum(row == row[c]) > 1 else c for row, c in zip(scores, best, strict=True)])


def within(x, y, radius, threat):
    """Whether y - x = s∘u with ‖u‖ <= radius, exactly."""
    norm = threat.norm
    if threat.scale is not None:
        return _within_scaled(x, y, radius, threat)
    if vector_norm(y - x, norm) / (1.0 + 1e-9) > radius:
        return False
    whole = integers.exactly(np.concatenate([x, y, [radius]])).numerator
    moved, reach = np.abs(whole[len(x) : -1] - whole[: len(x)]), whole[-1]
    if norm is Norm.TWO:
        return bool((moved * moved).sum() <= reach * reach)
    return bool((moved.sum() if norm is Norm.ONE else moved.max()) <= reach)


def _within_scaled(x, y, radius, threat):
    reach, units = Fraction(radius), []
    for a, b, scale in zip(x.tolist(), y.tolist(), threat.scale, strict=True):
        if a != b and scale == 0.0:
            return False
        if a != b:
            units.append(abs(Fraction(b) - Fraction(a)) / Fraction(scale))
    if threat.norm is Norm.TWO:
        return sum(u * u for u in units) <= reach * reach
    return (sum(units) if threat.norm is Norm.ONE else max(units, default=0)) <= reach


def judge(case, threat, rule, *, exact_steps=False):
    """Holds one rule against one case: at its inputs, at their neighbours, and a radius away from them."""
    subject, clusters = case.subject, case.inputs
    x = clusters.reshape(-1, clusters.shape[-1])
    answer = rule.answer(subject, x, threat)
    claimed = answer.radius > 0
    tally = Tally(inputs=len(x), claims=int(claimed.sum()))
    wrong = claimed & (case.labels != answer.label)
    flipped = np.zeros(len(x), dtype=bool)
    neighbours = [
        np.roll(clusters, shift, axis=1).reshape(x.shape) for shift in range(min(3, clusters.shape[1]))
    ]
    steps = list(_steps(subject, x, answer, threat))
    for y in [*neighbours, *steps]:
        for labels in rule.labels(subject, y):
            for i in np.flatnonzero(claimed & ~flipped & (labels != answer.label)):
                flipped[i] = within(x[i], y[i], answer.radius[i], threat)
    if exact_steps:
        for y in steps:
            open_ = np.flatnonzero(claimed & ~wrong)
            crossed = open_[exact_labels(subject.graph, y[open_]) != answer.label[open_]]
            wrong[crossed] = [within(x[i], y[i], answer.radius[i], threat) for i in crossed]
    tally.wrong, tally.flipped = int(wrong.sum()), int(flipped.sum())
    return tally


def _steps(subject, x, answer, threat):
    """Points a radius away, straight at the boundary, from the edge of the ball to a hair inside."""
    radius = np.minimum(answer.radius, LARGEST)[:, None]
    scales = 1.0 if threat.scale is None else threat.scales
    direction = scales * steepest(scales * _margin_gradient(subject, x, answer.label), threat.norm)
    box = subject.predictor.box
    for inside in (0.0, 1e-16, 4e-16, 2e-15, 1e-6):
        with np.errstate(over="ignore"):
            yield np.clip(x - radius * (1.0 - inside) * direction, -LARGEST, LARGEST)
        if box is not None:
            yield _step_in_box(subject, box, x, answer, threat, radius * (1.0 - inside))


@np.errstate(all="ignore")
def _step_in_box(subject, box, x, answer, threat, radius):
    """Points a radius away that do not leave the box where x does not: the worst of linear scores.

    Where the room of a column is used up, the others go farther (in l2 in proportion to the gradient, by
    bisection); in l1 the straight step serves as well, since columns are used up one by one.
    """
    z, scales = box.clip(x), np.ones(x.shape[1]) if threat.scale is None else threat.scales
    gradient = scales * _margin_gradient(subject, 0.999 * z, answer.label)
    room = np.where(gradient > 0.0, z - box.low, box.high - z) / scales
    room = np.where(scales > 0.0, room, 0.0)
    size = np.abs(gradient)
    if threat.norm is Norm.INF:
        steps = np.where(size > 0.0, np.minimum(room, radius), 0.0)
    elif threat.norm is Norm.ONE:
        order = np.argsort(-size, axis=1)
        left = radius - (np.cumsum(np.take_along_axis(room, order, axis=1), axis=1))
        taken = np.clip(np.take_along_axis(room, order, axis=1) + np.minimum(left, 0.0), 0.0, None)
        steps = np.zeros_like(x)
        np.put_along_axis(steps, order, taken, axis=1)
    else:
        low, high = np.zeros((len(x), 1)), np.full((len(x), 1), 1e100)
        for _ in range(1000):
            middle = np.where(high > 4 * low, np.sqrt(np.maximum(low, 1e-100) * high), low / 2 + high / 2)
            over = vector_norm(np.minimum(room, middle * size), Norm.TWO)[:, None] > radius
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        steps = np.minimum(room, low * size)
    return np.clip(x - np.sign(gradient) * scales * steps, -LARGEST, LARGEST)


def _margin_gradient(subject, x, label):
    """Gradient of the answered class's score less that of the class that sets the radius."""
    runner_up = subject.predictor.predict(x, Norm.TWO).radii.runner_up
    if subject.head.binary:
        return subject.gradient(x, np.where(label == 1, 1.0, -1.0)[:, None])[1]
    cotangents = np.zeros((len(x), subject.head.classes))
    rows = np.arange(len(x))
    cotangents[rows, label] += 1.0
    cotangents[rows, np.where(runner_up == label, (label + 1) % subject.head.classes, runner_up)] -= 1.0
    return subject.gradient(x, cotangents)[1]


# --- the kinds of inputs -------------------------------------------------------------------


def near_boundary(net, _, count, rng):
    """Bisection between two points of different label down to float32 neighbours, and what lies around those."""
    subject = Subject(net.graph, net.claim)
    yield Case(subject, around(boundary(subject, count // 16, rng, np.float32), 16, rng, np.float32))


def near_boundary_in_doubles(net, _, count, rng):
    """The same down to float64 neighbours, where ours may abstain."""
    subject = Subject(net.graph, net.claim)
    yield Case(subject, around(boundary(subject, count // 16, rng, np.float64), 16, rng, np.float64))


def attained(net, _, count, rng):
    """Ordinary points, whose radii are the true ones where the network is linear or an isometry."""
    yield Case(Subject(net.graph, net.claim), float32(rng.normal(size=(count, 1, net.graph.input_size))))


def tampered_margin(net, _, count, rng):
    """The last biases shifted so that the margin at a point is of the size of float32's rounding error."""
    for _ in range(4):
        graph = net.graph
        x = float32(rng.normal(size=(1, graph.input_size)))
        last = next(op for op in reversed(graph.ops) if isinstance(op, ops.Dense))
        head = Subject(graph).head
        raw = Subject(graph).float64(x)[0]
        first, second = _two_classes(raw, head.owners)
        shift = np.zeros(len(raw))
        shift[second] = raw[first] - raw[second]
        bias = float32(last.bias + (shift[1:] if head.binary else shift))
        if head.binary and first == 1:  # the 0 in front has no bias
            bias = float32(last.bias - raw[first])
        subject = Subject(nets.with_biases(graph, {last.output: bias}), net.claim)
        yield Case(subject, around(np.repeat(x, count // 64, axis=0), 16, rng, np.float32, ulps=64))


def _two_classes(raw, owners):
    first = int(raw.argmax())
    return first, int(np.where(owners == owners[first], -np.inf, raw).argmax())


def cancelling_biases(net, _, count, rng):
    """1e6 added to every score before a layer takes it away again, in float32 not quite."""
    graph = net.graph
    layers = [op for op in graph.ops if isinstance(op, ops.Dense | ops.Conv)]
    first, last = layers[0], layers[-1]
    if first is last:  # the inputs have to be large themselves
        centre = 1e6
        biases = {last.output: float32(last.bias - last.weight @ np.full(graph.input_size, centre))}
    else:
        centre, origin = 0.0, np.zeros((1, graph.input_size))
        far = nets.with_biases(graph, {first.output: float32(first.bias + 1e6)})
        drift = Execution(far, np.float64).scores(origin) - Execution(graph, np.float64).scores(origin)
        biases = {first.output: float32(first.bias + 1e6), last.output: float32(last.bias - drift[0])}
    subject = Subject(nets.with_biases(graph, biases), net.claim)
    yield Case(subject, float32(centre + rng.normal(size=(count, 1, graph.input_size))))


def json_doubles(net, _, count, rng):
    """Inputs that are doubles, at the boundary to within float32's rounding."""
    subject = Subject(net.graph, net.claim)
    points = boundary(subject, count // 16, rng, np.float32)
    clusters = np.repeat(points[:, None, :], 16, axis=1)
    yield Case(subject, clusters * (1.0 + rng.uniform(-(2.0**-23), 2.0**-23, size=clusters.shape)))


def subnormal(net, _, count, rng):
    """Inputs and biases below float32's smallest normal number: some processors take them for zero."""
    tiny = 2.0**-129
    biases = {
        op.output: float32(op.bias * tiny)
        for op in net.graph.ops
        if isinstance(op, ops.Dense | ops.Conv) and op.bias is not None
    }
    subject = Subject(nets.with_biases(net.graph, biases), net.claim)
    yield Case(subject, float32(rng.normal(size=(count, 1, net.graph.input_size)) * tiny))


def huge(net, _, count, rng):
    """Inputs up to the end of float32, where sums overflow."""
    size = 10.0 ** rng.uniform(36.0, 38.5, size=(count, 1, 1))
    x = np.clip(rng.normal(size=(count, 1, net.graph.input_size)) * size, -LARGEST, LARGEST)
    yield Case(Subject(net.graph, net.claim), float32(x))


SUITES: dict[str, Suite] = {
    "near boundary": near_boundary,
    "attained": attained,
    "tampered margin": tampered_margin,
    "cancelling biases": cancelling_biases,
    "JSON doubles": json_doubles,
    "subnormal": subnormal,
    "huge": huge,
    "near boundary in doubles": near_boundary_in_doubles,
}
MAY_ABSTAIN = {"near boundary in doubles"}
"""Where no rule can tell: the margin is of the size of float64's own rounding error."""


def boundary(subject, count, rng, dtype):
    """(count, d) points that differ from one of another label by one unit in the last place of one entry."""
    d = subject.graph.input_size
    a, b = (rng.normal(size=(20 * count + 200, d)).astype(dtype).astype(float) for _ in range(2))

    def label(x):
        return OURS.answer(subject, x, BALLS[Norm.TWO]).label

    apart = np.flatnonzero(label(a) != label(b))[:count]
    assert len(apart) == count, "the network answers one class almost everywhere"
    a, b = a[apart], b[apart]
    own = label(a)
    for _ in range(200):
        middle = (a / 2 + b / 2).astype(dtype).astype(float)
        if ((middle == a) | (middle == b)).all():
            break
        same = (label(middle) == own)[:, None]
        a, b = np.where(same, middle, a), np.where(same, b, middle)
    few, many = np.zeros(count, int), np.full(count, d)  # how many entries are taken from b
    while (many - few > 1).any():
        half = (few + many) // 2
        same = label(np.where(np.arange(d) < half[:, None], b, a)) == own
        few, many = np.where(same, half, few), np.where(same, many, half)
    return np.where(np.arange(d) < few[:, None], b, a)


def around(points, k, rng, dtype, ulps=2):
    """(N, k, d): each point and k - 1 others within a few units in the last place, entry by entry."""
    steps = rng.integers(-ulps, ulps + 1, size=(len(points), k, points.shape[1]))
    steps[:, 0] = 0
    spacing = np.spacing(np.abs(points).astype(dtype)).astype(float)
    return (points[:, None, :] + steps * spacing[:, None, :]).astype(dtype).astype(float)


def scaled(norm, size, rng):
    """A threat set of uneven scales, in which about a third of the columns are frozen."""
    scales = np.exp(rng.normal(size=size) * 2.0) * (rng.random(size) > 0.3)
    scales[rng.integers(size)] = 1.0
    return Threat(norm, tuple(scales.tolist()))


def run(suite, net_name, norms=tuple(Norm), count=1000, seed=0, *, in_scales=False):
    """The tally of each rule, by name, on one suite and network, for balls or for scaled threat sets."""
    net, total = nets.make(net_name), defaultdict(Tally)
    for norm in norms:
        rng = np.random.default_rng([seed, sum(map(ord, suite + net_name + norm))])
        threat = scaled(norm, net.graph.input_size, np.random.default_rng(seed)) if in_scales else BALLS[norm]
        for case in SUITES[suite](net, norm, count, rng):
            for rule in RULES:
                total[rule.name] += judge(case, threat, rule, exact_steps=suite == "attained")
    return dict(total)


def nets_of(suite):
    """Networks that a suite is about."""
    return nets.ATTAINED if suite == "attained" else tuple(nets.NETS)


def added(tallies):
    """Tallies by rule, added up."""
    total = defaultdict(Tally)
    for each in tallies:
        for rule, tally in each.items():
            total[rule] += tally
    return dict(total)
