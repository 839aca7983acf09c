"""Exact verification: honest certificates hold, and whatever promises more than can be proved fails."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from fractions import Fraction

import flint
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lipmodel.audit.gradient import GradientEngine
from lipmodel.certificates.format import Certificate, Scaling, Share, digest
from lipmodel.certify.head import linear_head
from lipmodel.certify.issue import certify
from lipmodel.certify.lipschitz import bound_tensors
from lipmodel.certify.norms.convolution import bound_gram_iteration
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.scaling import bound as witness
from lipmodel.cli import main
from lipmodel.errors import CertificateError, MissingExtraError, ModelError
from lipmodel.network import ops
from lipmodel.network.metadata import Claims
from lipmodel.network.ops import Graph
from lipmodel.network.reader.read import read_onnx
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.norms import MIN_DISTANCE, Norm, bound_spectral_norm, vector_norm
from lipmodel.threat import BALLS
from lipmodel.verify import evaluation, proof, scaling
from lipmodel.verify.check import verify
from lipmodel.verify.convolution_norms import gram_iteration, kernel_spectral_norm
from lipmodel.verify.exact_numbers import PRECISION
from lipmodel.verify.layer_norms import ConvolutionNorms, MatrixNorms, layer_norms
from lipmodel.verify.linear_head import owners
from lipmodel.verify.lipschitz import lipschitz_constants
from lipmodel.verify.spectral import spectral_norm
from tests import exact
from tests.certify.test_certificate import older
from tests.certify.test_graph import READ
from tests.certify.test_head import HEADS
from tests.networks import (
    dense,
    entrywise_tree,
    float32,
    groupsort_net,
    linear_net,
    n_activation,
    orthogonal,
    relu,
    to_file,
    top_k,
    uneven,
    with_activation,
)

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _precision():
    with flint.ctx.workprec(PRECISION):
        yield


def scale(name, x, size, factor, divide=False):
    return ops.Scale(output=name, inputs=(x,), shape=(size,), factor=np.asarray(factor), divide=divide)


def tail():
    """Dense, then Scale, Shift and a division, each entry by its own."""
    weight = float32(RNG.normal(size=(3, 4)))
    offset = ops.Shift(output="c", inputs=("b",), shape=(3,), offset=float32([0.1, -2.0, 0.0]))
    layers = (
        dense("a", "input", weight), scale("b", "a", 3, float32([1.0, -0.3, 1.7])), offset,
        scale("d", "c", 3, float32([0.7, 3.0, 1.1]), divide=True),
    )  # fmt: skip
    return Graph(input="input", input_shape=(4,), ops=layers, output="d")


NETS = {
    **{f"read: {name}": content for name, content in READ.items()},
    **{f"head: {name}": content for name, (content, _) in HEADS.items()},
    "groups of 4": to_file(groupsort_net((4, 8, 8), 3, group_size=4)),
    "linf": to_file(groupsort_net((4, 8, 8), 3, kind="rows")),
    "binary": to_file(groupsort_net((2, 64, 64), 1)),
    "n-activations": to_file(with_activation(groupsort_net((4, 8, 8), 3), n_activation)),
    "deep": to_file(groupsort_net((6,) + (8,) * 20, 4)),
    "wide": to_file(groupsort_net((64, 128, 128), 10)),
    "linear": to_file(linear_net([[1.0, 2.0], [0.5, -1.0]])),
    "tail": to_file(tail()),
    "float64": to_bytes(write_model(linear_net(np.eye(2) / 3), np.float64)),
    "large biases": to_file(groupsort_net((4, 8, 8), 3, bias_scale=1e6)),
    "scaled pairs": to_file(uneven(groupsort_net((4, 16, 16), 3))),
    "scaled groups of 4": to_file(
        with_activation(uneven(groupsort_net((4, 16, 16), 3, group_size=4)), top_k)
    ),
    "scaled relu, far apart": to_file(
        uneven(with_activation(groupsort_net((4, 16, 16), 1), relu), spread=3.0)
    ),
    "scaled, deep": to_file(uneven(groupsort_net((4, 8, 12, 8, 6, 8), 3))),
}


@pytest.mark.parametrize("name", NETS)
def test_honest_certificates_hold(name):
    try:
        predictor = CertifiedPredictor(NETS[name])
    except ModelError as error:
        pytest.skip(f"not certified: {error}")
    x = RNG.normal(size=(2, predictor.file.graph.input_size)) * [[1.0], [100.0]]
    for norm in Norm:
        for certificate in certify(predictor, x, norm):
            read = Certificate.from_json(certificate.to_json())
            assert verify(read, NETS[name]).reasons == ()
            assert bool(read.scaling) >= name.startswith("scaled")


@pytest.mark.parametrize("name", [name for name in NETS if name.startswith("head")])
def test_certificates_by_mixtures_hold_and_little_more_fails(name):
    predictor = CertifiedPredictor(NETS[name])
    x = np.random.default_rng(7).normal(size=(30, predictor.file.graph.input_size))
    gained = 0
    for norm in Norm:
        alone = certify(predictor, x, norm)
        for before, c in zip(alone, certify(predictor, x, norm, mix=True), strict=True):
            assert verify(Certificate.from_json(c.to_json()), NETS[name]).reasons == ()
            assert c.certified_radius >= before.certified_radius
            gained += c.certified_radius > before.certified_radius * 1.001
            # The pair's bounds do not support the mixture's radius.
            if c.certified_radius > before.certified_radius * 1.001:
                assert verify(replace(c, rivals=before.rivals), NETS[name]).verdict == "fails"
            longer = replace(c, certified_radius=c.certified_radius * (1 + 1e-6))
            proved = proof.Proof(read_onnx(NETS[name])).check(longer)
            assert [check.name for check in proved if not check.passed] == ["radius"] * (
                c.certified_radius > 0
            )
    assert gained > 0


@pytest.mark.parametrize("norm", list(Norm))
def test_near_the_boundary_they_hold_and_little_more_fails(norm):
    """Linear: the radius is attained, so a radius larger by 1e-9 is false."""
    content = to_file(linear_net([[1.0, 2.0, -0.5], [0.5, -1.0, 0.25]]))
    predictor = CertifiedPredictor(content)
    for size in (1.0, 1e-3, 1e-9, 1e-12, 1e-14, 1e-15):
        (c,) = certify(predictor, [[size, 1.0, 4.0 + size]], norm)
        assert verify(c, content).verdict == "holds"
        if size > 1e-6:
            longer = replace(c, certified_radius=c.certified_radius * (1 + 1e-9))
            assert any("radius" in r for r in verify(longer, content).reasons)
            proved = proof.Proof(read_onnx(content)).check(longer)
            assert [check.name for check in proved if not check.passed] == ["radius"]


CONTENT = to_file(groupsort_net((4, 8, 8), 3), Claims(Norm.TWO, 1.1, ("a", "b", "c")))
HONEST = max(certify(CertifiedPredictor(CONTENT), RNG.normal(size=(20, 4))), key=lambda c: c.certified_radius)
RIVAL = HONEST.rivals[0]
THIRD = 3 - HONEST.label_index - HONEST.runner_up_index
NEAREST = next(i for i, r in enumerate(HONEST.rivals) if r.score == HONEST.runner_up_index)


def with_rival(**members):
    rivals = list(HONEST.rivals)
    rivals[NEAREST] = replace(rivals[NEAREST], **members)
    return replace(HONEST, rivals=tuple(rivals))


def mixed_by(*shares):
    return with_rival(mixture=shares)


def less(value, part):
    return value * (1 - part)


def moved(by):
    values = (np.nextafter(HONEST.input[0], by), *HONEST.input[1:])
    return tuple(float(v) for v in values)


def scores_up(by):
    scores = list(HONEST.scores)
    scores[HONEST.label_index] += by
    ahead = sorted(scores)[-1] - sorted(scores)[-2]
    return replace(HONEST, scores=tuple(scores), margin=float(np.nextafter(ahead, 0)))


def lower_bounds(part):
    """Bounds and radius changed together, so that they still agree with one another."""
    rivals = tuple(replace(r, bound_lipschitz=less(r.bound_lipschitz, part)) for r in HONEST.rivals)
    return replace(HONEST, rivals=rivals, certified_radius=HONEST.certified_radius / (1 - part) * (1 - 1e-12))


TAMPERED = {
    "digest of the model": (replace(HONEST, model_sha256="0" * 64), "digest of the model: states 000"),
    "input": (replace(HONEST, input=moved(9.0)), "digest of the input"),
    "input and its digest": (
        replace(HONEST, input=(9.0, *HONEST.input[1:]), input_sha256=digest((9.0, *HONEST.input[1:]))),
        "size of the input",
    ),
    "input, digest and size": (
        replace(HONEST, input=(9.0, *HONEST.input[1:]), input_sha256=digest((9.0, *HONEST.input[1:])), bound_input_norm=99.0),
        "scores",
    ),
    "input cut short": (replace(HONEST, input=(0.0,), input_sha256=digest((0.0,))), "length of the input"),
    "digest of the input": (replace(HONEST, input_sha256="0" * 64), "digest of the input"),
    "norm": (replace(HONEST, norm=Norm.INF), "size of the input: l2 may be more than the 1.0 times linf"),
    "norm and ratio": (replace(HONEST, norm=Norm.INF, bound_norm_ratio=2.0, certified_radius=less(HONEST.certified_radius, 1e-6)), "Lipschitz constants: .*; radius: states"),
    "label": (replace(HONEST, label_index=THIRD), "label: states class"),
    "label and name swapped": (
        replace(HONEST, label=HONEST.runner_up, label_index=HONEST.runner_up_index), "label: states class"),
    "name of the label": (replace(HONEST, label="x"), "names of the classes: class . is not named 'x'"),
    "runner-up": (replace(HONEST, runner_up_index=THIRD), "runner-up"),
    "name of the runner-up": (replace(HONEST, runner_up="x"), "names of the classes"),
    "runner-up that is the label": (replace(HONEST, runner_up_index=HONEST.label_index), "runner-up"),
    "tensor": (replace(HONEST, score_tensor="a0"), "owners of the scores"),
    "tensor that is not there": (replace(HONEST, score_tensor="nothing"), "owners of the scores"),
    "owners": (replace(HONEST, owners=(0, 1, 1)), "label|owners|runner-up"),
    "nobody's scores": (replace(HONEST, owners=(-1, -1, -1)), "label"),
    "score": (scores_up(1e-9), r"scores: scores\[.\] is .*beyond any rounding"),
    "scores swapped": (replace(HONEST, scores=HONEST.scores[::-1]), "label|margin|runner-up|scores"),
    "margin up": (replace(HONEST, margin=HONEST.margin * (1 + 1e-12)), "margin"),
    "margin down": (replace(HONEST, margin=less(HONEST.margin, 1e-12)), "margin"),
    "radius by 1 %": (replace(HONEST, certified_radius=HONEST.certified_radius * 1.01), "radius from the stated"),
    "radius by 1e-9": (replace(HONEST, certified_radius=HONEST.certified_radius * (1 + 1e-9)), "radius from the stated"),
    "radius of infinity, nearly": (replace(HONEST, certified_radius=1e308), "radius from the stated"),
    "L": (with_rival(bound_lipschitz=less(HONEST.rivals[NEAREST].bound_lipschitz, 1e-9)), "Lipschitz constants: rival"),
    "L of 0": (with_rival(bound_lipschitz=0.0, bound_error_slope=0.0), "runner-up|Lipschitz"),
    "L and radius": (lower_bounds(0.01), "Lipschitz constants: rival .*; radius: states"),
    "E": (with_rival(bound_error=less(HONEST.rivals[NEAREST].bound_error, 1e-6)), "rounding errors: rival ., E is stated"),
    "B": (with_rival(bound_error_slope=less(HONEST.rivals[NEAREST].bound_error_slope, 1e-6)), "rounding errors: rival ., B is stated"),
    "size": (replace(HONEST, bound_input_norm=less(HONEST.bound_input_norm, 1e-12)), "size of the input: its l2 norm is above"),
    "ratio": (replace(HONEST, bound_norm_ratio=0.5), "size of the input"),
    "norm of the error": (replace(HONEST, error_norm=Norm.ONE), "size of the input"),
    "a mixture that is half": (mixed_by(Share(HONEST.label_index, 0.5)), "mixtures: the weights .* do not add up"),
    "a mixture of a foreign score": (mixed_by(Share(THIRD, 1.0)), "mixtures: a score .* is not of the answered class"),
    "a mixture named twice": (
        mixed_by(Share(HONEST.label_index, 0.5), Share(HONEST.label_index, 0.5)), "mixtures: .* its score is named twice"),
    "a mixture with a negative weight": (mixed_by(Share(HONEST.label_index, -1.0)), "mixtures: a weight"),
    "a rival left out": (replace(HONEST, rivals=HONEST.rivals[:1]), "label: its rivals"),
    "a rival twice": (replace(HONEST, rivals=HONEST.rivals[:1] * 2), "label: its rivals"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_certificates_fail_with_the_reason(name):
    certificate, reason = TAMPERED[name]
    verdict = verify(certificate, CONTENT)
    assert verdict.verdict == "fails"
    assert re.search(reason, "; ".join(verdict.reasons)), verdict.reasons


def test_the_untampered_one_holds():
    assert verify(HONEST, CONTENT).verdict == "holds"


def test_a_radius_that_no_caller_can_measure_fails():
    """Beyond about 2⁻⁵⁴⁰ a change of the label is at the distance 0, computed in float64."""
    for norm in Norm:
        made = certify(CertifiedPredictor(CONTENT), np.asarray([HONEST.input]), norm)[0]
        for factor, verdict in ((2.0, "holds"), (1.0, "fails"), (0.5, "fails")):
            least = replace(made, certified_radius=MIN_DISTANCE[norm] * factor)
            assert verify(least, CONTENT).verdict == verdict


def test_a_weaker_certificate_is_true():
    assert verify(replace(HONEST, certified_radius=HONEST.certified_radius / 2), CONTENT).verdict == "holds"
    assert verify(replace(HONEST, certified_radius=0.0), CONTENT).verdict == "holds"


@pytest.mark.parametrize("at", range(0, len(CONTENT), max(1, len(CONTENT) // 40)))
def test_an_altered_model_fails(at):
    altered = CONTENT[:at] + bytes([CONTENT[at] ^ 1]) + CONTENT[at + 1 :]
    assert verify(HONEST, altered).verdict == "fails"


def test_a_weight_changed_under_a_forged_digest_fails():
    """Not only the digest guards: with the digest of the altered file stated, the numbers are refuted."""
    graph = groupsort_net((4, 8, 8), 3)
    altered = replace(
        graph, ops=(replace(graph.ops[0], weight=float32(graph.ops[0].weight * 1.01)), *graph.ops[1:])
    )
    content = to_file(altered, Claims(Norm.TWO, 1.1, ("a", "b", "c")))
    forged = replace(HONEST, model_sha256=read_onnx(content).sha256)
    reasons = "; ".join(verify(forged, content).reasons)
    for statement in ("scores", "Lipschitz constants", "rounding errors"):
        assert f"{statement}: " in reasons


@given(st.data())
def test_altered_json_never_holds_unless_it_is_true(data):
    """Any one number altered in any way: refused, or fails, or a weaker statement than the honest one."""
    members = json.loads(HONEST.to_json())
    name = data.draw(st.sampled_from(["margin", "certified_radius", "bound_input_norm", "bound_norm_ratio"]))
    members[name] *= data.draw(st.sampled_from([0.0, 0.5, 1 - 2**-30, 1 + 2**-30, 2.0, 1e300, -1.0]))
    try:
        altered = Certificate.from_json(json.dumps(members))
    except (CertificateError, ValueError):
        return
    if verify(altered, CONTENT).verdict == "holds":
        assert altered.certified_radius <= HONEST.certified_radius
        assert altered.bound_input_norm >= HONEST.bound_input_norm
        assert altered.bound_norm_ratio >= HONEST.bound_norm_ratio


def test_never_holds_beyond_what_is_true_where_weights_underflow():
    """Factors whose product is no float64: the exact radius is (1 - 1/2)/√2."""
    layers = (
        dense("a", "input", np.eye(2)), scale("b", "a", 2, 1e200), scale("c", "b", 2, 1e-200), scale("d", "c", 2, 1e-200),
    )  # fmt: skip
    content = to_bytes(
        write_model(Graph(input="input", input_shape=(2,), ops=layers, output="d"), np.float64)
    )
    (c,) = certify(CertifiedPredictor(content), [[1.0, 0.5]], Norm.TWO)
    assert c.certified_radius <= 0.5 / 2**0.5 or verify(c, content).verdict == "fails"
    reasons = "; ".join(
        verify(replace(c, rivals=(replace(c.rivals[0], bound_lipschitz=1e-300),)), content).reasons
    )
    assert "Lipschitz constants: rival 1, L is stated to be at most 1e-300; proved is 1.41421" in reasons


def test_overflow_within_the_radius_fails():
    graph = Graph("input", (2,), (dense("scores", "input", np.eye(2) * 1e154),), "scores")
    content = to_bytes(write_model(graph, np.float64))
    (c,) = certify(CertifiedPredictor(content), [[1.0, 0.5]], Norm.TWO)
    assert verify(c, content).verdict == "holds"
    proved = proof._Proved(proof.Proof(read_onnx(content)), c)
    assert not proved.rounding.overflows(flint.arb(1))
    assert proved.rounding.overflows(flint.arb(2) ** 512)


# --- weights of groups ---------------------------------------------------------------------

UNEVEN = to_file(uneven(groupsort_net((4, 16, 16), 3)))
SCALED = certify(CertifiedPredictor(UNEVEN), RNG.normal(size=(1, 4)))[0]
FIRST, SECOND = SCALED.scaling


def scaled_by(*scaling):
    return replace(SCALED, scaling=scaling)


def heavier(entry, **members):
    return replace(entry, **{name: (getattr(entry, name)[0] * by, *getattr(entry, name)[1:]) for name, by in members.items()})  # fmt: skip


TAMPERED_WEIGHTS = {
    "none": (scaled_by(), "Lipschitz constants: rival"),
    "all 1": (scaled_by(*(replace(e, mean=(1.0,) * 8, rest=(1.0,) * 8) for e in SCALED.scaling)), "Lipschitz constants: rival"),
    "one mean larger": (scaled_by(heavier(FIRST, mean=1.5), SECOND), "Lipschitz constants: rival"),
    "one rest smaller": (scaled_by(FIRST, heavier(SECOND, rest=0.5)), "Lipschitz constants: rival"),
    "means for rests": (scaled_by(replace(FIRST, mean=FIRST.rest[::-1], rest=FIRST.mean), SECOND), "Lipschitz constants: rival"),
    "of one layer alone": (scaled_by(SECOND), "Lipschitz constants: rival"),
    "of the first layer alone": (scaled_by(FIRST), "scaling: what follows 'a0'|scaling: '.*' is made by an operation"),
    "in the wrong order": (scaled_by(SECOND, FIRST), "scaling: 'a1' is not all"),
    "twice": (scaled_by(FIRST, FIRST, SECOND), "scaling: 'a0' is not all"),
    "too few": (scaled_by(FIRST, replace(SECOND, mean=SECOND.mean[:-1])), "scaling: the numbers of 'a1' are in 8 groups"),
    "one for each number": (scaled_by(FIRST, replace(SECOND, mean=SECOND.mean * 2, rest=SECOND.rest * 2)), "scaling: the numbers of 'a1' are in 8"),
    "of what is sorted": (scaled_by(FIRST, replace(SECOND, tensor="z1")), "scaling: 'z1' is not made by a dense layer"),
    "of the scores": (scaled_by(FIRST, replace(SECOND, tensor="scores")), "scaling: 'scores' is not made by"),
    "of nothing": (scaled_by(replace(FIRST, tensor="?"), SECOND), "scaling: '\\?' is not made by"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED_WEIGHTS)
def test_tampered_weights_fail_with_the_reason(name):
    certificate, reason = TAMPERED_WEIGHTS[name]
    verdict = verify(certificate, UNEVEN)
    assert verdict.verdict == "fails"
    assert re.search(reason, "; ".join(verdict.reasons)), verdict.reasons


def test_weights_prove_no_more_than_they_do():
    """With what they prove stated but for one part in 10⁹, the certificate fails; with other weights and more stated it is true."""
    assert verify(SCALED, UNEVEN).verdict == "holds"
    lower = tuple(replace(r, bound_lipschitz=less(r.bound_lipschitz, 1e-9)) for r in SCALED.rivals)
    (reason,) = verify(replace(SCALED, rivals=lower), UNEVEN).reasons
    assert reason.startswith("Lipschitz constants: rival")
    higher = tuple(replace(r, bound_lipschitz=r.bound_lipschitz * 9) for r in SCALED.rivals)
    weaker = replace(
        scaled_by(heavier(FIRST, mean=1.5), SECOND),
        rivals=higher,
        certified_radius=SCALED.certified_radius / 10,
    )
    assert verify(weaker, UNEVEN).verdict == "holds"


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 12.0))
def test_any_weights_prove_a_true_constant(seed, spread):
    """Never below the slopes of the network; and the float64 bound is never below what is proved exactly."""
    rng = np.random.default_rng(seed)
    file = read_onnx(UNEVEN)
    head = linear_head(file.graph)
    layers = witness.chain(head.body)
    weights = tuple(np.exp(np.clip(rng.normal(size=(2, 8)) * spread, -13, 13)) for _ in layers)
    entries = (Scaling(f"a{n}", *map(tuple, w.tolist())) for n, w in enumerate(weights))
    norm = Norm(rng.choice(list(Norm)))
    scaled = scaling.scaled(head.body, tuple(entries), proof.Proof(file).layers, BALLS[norm])
    begin = bound_tensors(head.body, norm)[file.graph.input]
    bounds = witness.prove(layers, weights).feature_bound(head, begin).bound_pairs()
    engine, x = GradientEngine(file.graph), rng.normal(size=(50, 4)) * 3.0
    for i, j in ((0, 1), (1, 2)):
        cotangent = np.eye(3)[i] - np.eye(3)[j]
        slopes = engine(x, np.tile(cotangent, (50, 1)))[1]
        observed = vector_norm(slopes, norm.dual).max()
        proved = scaled([flint.arb(v) for v in (head.rows[i] - head.rows[j]).tolist()])
        assert observed <= float(proved) * (1 + 1e-12)
        assert proved <= flint.arb(float(bounds[i, j]))


# --- without the model ---------------------------------------------------------------------


def test_without_the_model_it_says_that_it_checked_consistency_alone():
    verdict = verify(HONEST)
    assert verdict.verdict == "consistent"
    assert "all that was checked" in verdict.meaning
    assert verify(lower_bounds(0.01)).verdict == "consistent"  # nothing but the model refutes it
    assert verify(replace(HONEST, certified_radius=1.0 + HONEST.certified_radius)).verdict == "fails"


LARGEST, SMALLEST = float(np.finfo(float).max), 5e-324


@pytest.mark.parametrize(
    ("lie", "name"),
    [
        (with_rival(bound_error=1e308, bound_lipschitz=SMALLEST, bound_error_slope=0.0), "radius from"),
        (
            replace(
                HONEST, scores=tuple(LARGEST if s == max(HONEST.scores) else -LARGEST for s in HONEST.scores)
            ),
            "margin",
        ),
        (replace(HONEST, certified_radius=LARGEST), "radius from"),
    ],
)
def test_numbers_beyond_float64_are_told_like_any_other(lie, name):
    assert any(reason.startswith(name) for reason in verify(lie).reasons)


def test_equal_scores_that_do_not_move_certify_nothing():
    rivals = tuple(
        replace(
            RIVAL,
            score=i,
            mixture=(Share(0, 1.0),),
            bound_lipschitz=0.0,
            bound_error=0.0,
            bound_error_slope=0.0,
        )
        for i in (1, 2)
    )
    lie = replace(HONEST, scores=(1.0,) * 3, label_index=0, runner_up_index=1, margin=0.0, rivals=rivals)
    assert [reason.split(":")[0] for reason in verify(lie).reasons] == ["radius from the stated bounds"]
    assert verify(replace(lie, certified_radius=0.0)).verdict == "consistent"


def test_consistency_needs_no_flint(monkeypatch):
    for name in [n for n in sys.modules if n == "flint" or n.startswith(("flint.", "lipmodel.verify."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flint", None)
    from lipmodel.verify.check import verify as fresh

    assert fresh(HONEST).verdict == "consistent"
    with pytest.raises(MissingExtraError, match=r"lipcert\[verify\]"):
        fresh(HONEST, CONTENT)


# --- the parts, each against another derivation --------------------------------------------


@pytest.mark.parametrize("name", READ)
def test_exact_values(name):
    graph = read_onnx(READ[name]).graph
    x = tuple(RNG.normal(size=graph.input_size))
    ours = evaluation.evaluate(graph, x, graph.output)
    theirs = exact.evaluate(graph, np.array(x))
    assert [Fraction(int(v), ours.denominator) for v in ours.numerators.ravel()] == theirs.ravel().tolist()


MATRICES = {
    "random": lambda m, n: RNG.normal(size=(m, n)),
    "orthogonal": lambda m, n: orthogonal(RNG, m, n),
    "identity": np.eye,
    "rank one": lambda m, n: np.outer(RNG.normal(size=m), RNG.normal(size=n)),
    "all sizes": lambda m, n: RNG.normal(size=(m, n)) * 10.0 ** RNG.integers(-30, 30, size=(m, n)),
    "integers": lambda m, n: RNG.integers(-2, 3, size=(m, n)).astype(float),
    "zero": lambda m, n: np.zeros((m, n)),
    "subnormal": lambda m, n: np.full((m, n), 1e-310),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_spectral_norm_against_exact_ldl(kind):
    for _ in range(12):
        w = MATRICES[kind](*RNG.integers(1, 9, 2))
        bound = spectral_norm(w)
        as_float = float(np.nextafter(float(bound.upper()), np.inf))
        assert exact.bounds_spectral_norm(w, as_float)
        if w.any() and kind != "subnormal":
            assert not exact.bounds_spectral_norm(w, as_float * (1 - 1e-13))
            assert bound <= bound_spectral_norm(w)


def test_matrix_norms_are_attained_or_closed():
    w = np.array([[3.0, -4.0], [0.0, 1.0], [2.0, 2.0]])
    norms = MatrixNorms(w)
    assert float(norms.norm(Norm.ONE, Norm.ONE)) == 7
    assert float(norms.norm(Norm.INF, Norm.INF)) == 7
    assert float(norms.norm(Norm.ONE, Norm.INF)) == 4
    assert float(norms.norm(Norm.TWO, Norm.INF)) == 5
    assert norms.norm(Norm.ONE, Norm.TWO).overlaps(flint.arb(21).sqrt())
    for source in Norm:
        for target in Norm:
            for _ in range(50):
                v = RNG.normal(size=2)
                ratio = np.linalg.norm(w @ v, float(target)) / np.linalg.norm(v, float(source))
                assert ratio <= float(norms.norm(source, target)) * (1 + 1e-12)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("dilations", [(1, 1), (2, 1)])
def test_kernels_against_the_matrix_they_are(strides, dilations):
    """A convolution written out, on a large enough image, comes near its infinite-signal norm."""
    from lipmodel.network.window import Window

    kernel = float32(RNG.normal(size=(2, 3, 2, 3)))
    window = Window(
        spatial=(8, 9), size=(2, 3), strides=strides, dilations=dilations, begin=(1, 1), end=(1, 1)
    )
    op = ops.Conv(output="y", inputs=("x",), shape=(2, *window.output), kernel=kernel, window=window)
    matrix = layer_norms(op)
    assert isinstance(matrix, MatrixNorms)
    whole = ConvolutionNorms(op)
    for source in Norm:
        for target in Norm:
            assert float(matrix.norm(source, target)) <= float(whole.norm(source, target)) * (1 + 1e-12)
        assert float(matrix.absolute(source)) <= float(whole.absolute(source)) * (1 + 1e-12)
    reachable = float(matrix.spectral)
    assert float(kernel_spectral_norm(kernel, strides, dilations)) <= reachable * 1.6


def test_gram_iteration_is_exact_where_a_kernel_is_one_tap():
    w = float32(RNG.normal(size=(4, 3)))
    assert float(gram_iteration(w[:, :, None])) == pytest.approx(np.linalg.norm(w, 2), rel=0.03)
    for shape in ((3, 2, 3), (2, 3, 2, 2), (4, 1, 3, 3)):
        kernel = float32(RNG.normal(size=shape))
        assert gram_iteration(kernel) <= bound_gram_iteration(kernel)
        assert float(gram_iteration(kernel)) == pytest.approx(bound_gram_iteration(kernel), rel=1e-9)


def test_gram_iteration_of_uneven_channels_is_never_above_the_float64_one():
    """What is certified can be proved; and it is never below the matrix of the convolution at one frequency."""
    for n, m, trials in ((3, 4, 3), (4, 3, 3), (6, 6, 1), (8, 8, 1)):
        for _ in range(trials):
            scale = 10.0 ** RNG.uniform(-4, 4, size=(1, n, 1, 1))
            kernel = float32(RNG.integers(-9, 10, size=(m, n, 3, 2)) * scale)
            proved = gram_iteration(kernel)
            assert proved <= bound_gram_iteration(kernel)
            assert exact.bounds_spectral_norm(
                exact.rational(kernel).sum(axis=(2, 3)), np.nextafter(float(proved.upper()), np.inf)
            )
    small = RNG.integers(-1, 2, size=(2, 3, 3, 2)).astype(float)  # of which no bits are cut off at first
    for kernel in (np.zeros((2, 3, 2, 2)), np.full((2, 2, 1, 1), 1e-200), small):
        assert gram_iteration(kernel) <= bound_gram_iteration(kernel)


@pytest.mark.parametrize("norm", list(Norm))
def test_slopes_of_functions_entry_by_entry(norm):
    """Proved exactly: at most what is certified, and no less than is observed, in rationals."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        graph = entrywise_tree(rng, 3)
        proved = lipschitz_constants(graph, {}, BALLS[norm]).constants[norm]
        assert proved <= flint.arb(bound_tensors(graph, norm)[graph.output][norm])
        x = float32(rng.normal(size=3))
        y = float32(x + rng.normal(size=3))
        moved = exact.evaluate(graph, x) - exact.evaluate(graph, y)
        observed = max(abs(moved) / abs(exact.rational(x) - exact.rational(y)))
        assert flint.arb(observed.numerator) / observed.denominator <= proved.upper()


@pytest.mark.parametrize("name", HEADS)
def test_owners_by_sets(name):
    content, expected = HEADS[name]
    graph = read_onnx(content).graph
    assert owners(graph, CertifiedPredictor(content).head.scores) == expected.tolist()
    assert owners(graph, graph.output) == [0, 1, 2]
    assert owners(graph, graph.input) is None


@pytest.mark.parametrize(
    "largest",
    [
        ops.ReduceExtremum(output="y", inputs=("x",), shape=(1,), kind="max", axes=(0,)),
        ops.Sort(output="y", inputs=("x",), shape=(1,), axis=0, k=1, largest=True),
    ],
    ids=["reduce max", "topk"],
)
def test_owners_where_a_maximum_is_over_the_only_axis(largest):
    assert owners(Graph("x", (3,), (largest,), "y"), "x") == [0, 1, 1, 1]


# --- the command ---------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def files(tmp_path):
    (tmp_path / "m.onnx").write_bytes(CONTENT)
    np.save(tmp_path / "x.npy", RNG.normal(size=(2, 4)))
    made = run(
        "certify", tmp_path / "m.onnx", "--inputs", tmp_path / "x.npy", "--certificates", tmp_path / "c"
    )
    assert made.exit_code == 0
    np.save(tmp_path / "first.npy", np.load(tmp_path / "x.npy")[:1])
    return tmp_path


def test_command_proves_what_certify_wrote(files):
    answer = run("verify", files / "c/0.json", "--model", files / "m.onnx", "--input", files / "first.npy")
    assert (answer.exit_code, "holds: every statement is proved" in answer.stdout) == (0, True)
    answer = run(
        "verify", files / "c/1.json", "--model", files / "m.onnx", "--input", files / "first.npy", "--json"
    )
    assert answer.exit_code == 1
    report = json.loads(answer.stdout)
    assert report["verdict"] == "fails"
    assert report["checks"][0] == {
        "name": "input that was sent", "passed": False, "reason": report["checks"][0]["reason"],
    }  # fmt: skip


def test_command_without_a_model(files):
    answer = run("verify", files / "c/0.json", "--json")
    assert (answer.exit_code, json.loads(answer.stdout)["verdict"]) == (1, "consistent")
    assert "all that was checked" in run("verify", files / "c/0.json").stdout


def test_command_refuses_what_is_no_certificate(files):
    (files / "bad.json").write_text("{}")
    answer = run("verify", files / "bad.json")
    assert (answer.exit_code, answer.stderr) == (2, "error: certificate, format: is missing\n")
    assert run("verify", files / "none.json").exit_code == 2


def test_command_fails_against_another_model(files):
    (files / "other.onnx").write_bytes(to_file(groupsort_net((4, 8, 8), 3, seed=1)))
    answer = run("verify", files / "c/0.json", "--model", files / "other.onnx")
    assert (answer.exit_code, "✗ digest of the model" in answer.stdout) == (1, True)
    (files / "broken.onnx").write_bytes(CONTENT[:100])
    answer = run("verify", files / "c/0.json", "--model", files / "broken.onnx")
    assert (answer.exit_code, "✗ model: is refused" in answer.stdout) == (1, True)


def test_a_file_that_runs_as_something_else_is_refused(monkeypatch):
    """Verification shares the reader, so it runs the file as well: a misread bias is noticed."""
    file = read_onnx(CONTENT)
    first = replace(file.graph.ops[0], bias=file.graph.ops[0].bias + 1e-3)
    misread = replace(file, graph=replace(file.graph, ops=(first, *file.graph.ops[1:])))
    monkeypatch.setitem(verify.__globals__, "read_onnx", lambda model: misread)
    (reason,) = verify(HONEST, CONTENT).reasons
    assert reason.startswith("model: is refused: onnxruntime computes something other")


@pytest.mark.parametrize("name", ["weights normalised in the graph", "folded constants"])
def test_a_certificate_names_the_weights_that_the_file_computes(name):
    """Where it names others, or (as in the older format) none, it promises what other runtimes do not keep."""
    (c,) = certify(CertifiedPredictor(READ[name]), [[0.5, -1.0, 0.25, 2.0]])
    assert c.folded_weights_sha256 == read_onnx(READ[name]).folded_sha256
    assert verify(Certificate.from_json(c.to_json()), READ[name]).verdict == "holds"
    for other in (Certificate.from_json(older(c)), replace(c, folded_weights_sha256="0" * 64)):
        (reason,) = verify(other, READ[name]).reasons
        assert reason.startswith("digest of folded weights: states")


def test_weights_that_the_whole_file_computes_otherwise_are_refused(monkeypatch):
    """All is proved of the reader's weights, so a certificate cannot name those of another run instead."""
    content = READ["folded constants"]
    (c,) = certify(CertifiedPredictor(content), [[0.5, -1.0, 0.25, 2.0]])
    other = replace(read_onnx(content), folded_sha256="1" * 64)
    monkeypatch.setitem(verify.__globals__, "read_onnx", lambda model: other)
    (reason,) = verify(c, content).reasons
    assert reason.startswith("model: is refused: the weights that it computes are others")


def test_a_certificate_names_no_weights_where_the_file_computes_none():
    (reason,) = verify(replace(HONEST, folded_weights_sha256="0" * 64), CONTENT).reasons
    assert reason.endswith("the file computes no weights")
    assert verify(Certificate.from_json(older(HONEST)), CONTENT).verdict == "holds"
