"""Mutants of the certificate, each killed by a named test: the tests are called as they stand.

A mutant replaces a piece of a function's source; where the piece is not there any more the mutant
fails, so that it cannot go stale. Some single steps are redundant by design and have no mutant of
their own here: one factor or another of the radius (the slack for a caller's norm pays for it, and
has one), and one ``up`` of a norm (the
factor of ``inflate`` is twice what is owed). κ is 1 for the working norms that the predictor
chooses (l2 for p = 1, linf for p = inf), so its mutant shows where linf radii meet l2 bounds.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from lipmodel import norms
from lipmodel.certify import box, boxed_radius, head, linear_box, linear_runs, lipschitz, radius, rounding
from lipmodel.certify.norms import convolution
from lipmodel.certify.rounding import RoundingBounds
from lipmodel.certify.scaling import bound as witness
from lipmodel.certify.tight.mixtures import Mixer
from lipmodel.certify.tight.tightener import Tightener
from lipmodel.network import ops
from lipmodel.network import rewrites as simplify
from lipmodel.network.window import Window
from lipmodel.norms import Norm
from lipmodel.threat import Threat
from tests import test_norms, test_verify
from tests.certify import (
    test_box,
    test_graph,
    test_head,
    test_lipschitz,
    test_local,
    test_mixtures,
    test_radius,
    test_rounding,
    test_threat,
    test_witness,
)
from tests.soundness import test_forward_error, test_suites, test_worst_cases

RECURSION = rounding._Recursion
RULE = radius.RadiusRule
RULE_IN_FLOATS = radius.RuleInFloats.__call__
TWO, INF = Norm.TWO, Norm.INF


@dataclass(frozen=True)
class Killer:
    """A test and the parameters it is called with."""

    test: Callable
    parameters: tuple = ()

    def __call__(self, monkeypatch):
        wants = "monkeypatch" in inspect.signature(inspect.unwrap(self.test)).parameters
        self.test(*self.parameters, **({"monkeypatch": monkeypatch} if wants else {}))


@dataclass(frozen=True)
class Mutant:
    """A function, the pieces of its source replaced, and the tests that notice."""

    function: Callable
    pieces: dict[str, str]
    killers: tuple[Killer, ...]


FORMULA = Killer(
    test_forward_error.test_error_bound_is_the_formula,
    (test_forward_error.hidden_layer, np.float32, 1.0, 0.0),
)
FORMULA_BIAS = Killer(FORMULA.test, (test_forward_error.hidden_layer, np.float32, 1.0, 1000.0))
FORMULA_TINY = Killer(FORMULA.test, (test_forward_error.hidden_layer, np.float32, 2.0**-120, 0.0))
FORMULA_CONV = Killer(FORMULA.test, (test_forward_error.hidden_convolution, np.float64, 1.0, 0.0))
ONE_SIGN = Killer(test_forward_error.test_two_roundings_of_one_sign_reach_two_thirds_of_the_bound)
FLUSHING = Killer(test_forward_error.test_flushing_to_zero_stays_within_the_bound)
RADIUS = Killer(test_worst_cases.test_radius_is_the_formula, (TWO, TWO, 16))
OWN_NORM = Killer(test_local.test_the_error_in_the_ball_is_that_of_inputs_in_its_own_norm)
SMALLEST = Killer(test_radius.test_no_radius_is_so_small_that_a_caller_may_not_measure_it, (TWO, 540))
ALONE = Killer(test_radius.test_one_input_alone_is_certified_as_in_a_batch, ("several", TWO))
KAPPA = Killer(test_worst_cases.test_radius_is_the_formula, (INF, TWO, 16))
TWO_FORMATS = Killer(test_worst_cases.test_radius_for_another_format_is_the_formula)
FORWARD_CONV = Killer(test_forward_error.test_forward_error_of_every_network, ("conv 8x8", TWO, np.float64))
STRIDES = Killer(test_worst_cases.test_bounds_on_large_convolutions_cover_the_matrix, ("strides", TWO, TWO))
FREQUENCIES = Killer(
    test_worst_cases.test_gram_iteration_is_never_below_the_exact_norm_at_any_frequency_of_signs
)
CHANNELS = Killer(test_worst_cases.test_gram_iteration_covers_the_matrix_of_uneven_channels)
ENTRYWISE = Killer(test_lipschitz.test_slopes_of_functions_entry_by_entry_are_never_above_their_bound)
GRAM = Killer(test_worst_cases.test_gram_iteration_pays_for_its_roundings)
VECTORS = Killer(test_worst_cases.test_spectral_bound_does_not_trust_its_singular_vectors, (0.8,))
COPIES = Killer(test_worst_cases.test_copies_side_by_side_attain_the_bound)
DOUBLES = Killer(test_worst_cases.test_doubles_rounded_to_float32_stay_within_the_radius, (TWO,))
NEAR = Killer(test_suites.test_ours_holds_where_naive_rules_break, ("near boundary", False))
SPECTRAL = Killer(test_norms.test_spectral_bound_is_never_below_the_exact_norm)
CHOLESKY = Killer(test_norms.test_spectral_bound_trusts_neither_cholesky_nor_lanczos, (0.8,))
CHOLESKY_RANK_1 = Killer(test_norms.test_spectral_bound_by_cholesky_is_the_formula, (1,))
CHOLESKY_RANK_64 = Killer(test_norms.test_spectral_bound_by_cholesky_is_the_formula, (64,))
ABSOLUTE = Killer(test_norms.test_absolute_spectral_bound_is_never_below_the_exact_norm)
VECTOR = Killer(test_norms.test_vector_bound_is_never_below_the_exact_norm)
GAMMA = Killer(test_norms.test_gamma_is_never_below_the_exact_one)
PAIRS = Killer(test_lipschitz.test_linear_nets_attain_their_pair_constants, (TWO,))
PROTOTYPES = Killer(
    test_head.test_radius_is_that_of_the_nearest_foreign_prototype, ("reduce max of rows", TWO)
)
CANCELLING = Killer(test_rounding.worst, (test_rounding.CANCELLING, np.float32, TWO))
SCALED = Killer(test_threat.test_constants_of_a_linear_network_are_exact, (TWO, test_threat.SCALES))
SCALED_KAPPA = Killer(test_threat.test_change_norms_are_attained, (INF,))
BOXED = Killer(test_box.test_linear_scores_behind_a_clip_have_the_exact_distance, (Threat(TWO), (0.0, 1.0)))
BOXED_SCALED = Killer(BOXED.test, (Threat(TWO, test_box.SCALES), (0.0, 1.0)))
BOX_CERTIFICATES = Killer(
    test_box.test_certificates_by_the_box_hold_and_tampered_ones_fail, (Threat(TWO), (0.0, 1.0))
)
BOX_ERRORS = Killer(test_box.test_the_runtimes_errors_are_those_of_the_largest_input_in_the_box)
BOX_ROUNDING = Killer(test_box.test_rounding_of_a_product_of_maps_is_paid_for_in_the_box)
BOX_LOCAL = Killer(test_box.test_local_bounds_behind_a_clip_hold_and_are_larger, (Threat(TWO), "relu"))
PRODUCT = Killer(test_threat.test_roundings_of_a_product_are_paid_for)
SCALED_NORMS = Killer(test_witness.test_norms_are_never_below_the_exact_ones, ("groups of 4",))
SCALED_ROUNDINGS = Killer(test_witness.test_roundings_of_scaled_entries_are_paid_for)
SCALED_ROWS = Killer(test_witness.test_rows_of_the_head_are_those_of_the_inverse_weights)
SCALED_GROUPS = Killer(
    test_witness.test_what_stands_between_is_1_lipschitz_in_every_weighted_norm, ("columns",)
)
ATTAINED = Killer(test_witness.test_slopes_attain_the_bound_where_weights_are_right)
BARRED = Killer(test_witness.test_a_chain_begins_after_what_no_weights_are_known_for, ("relu after sorting",))

LINE = "return Affine(constant, slope)"
SMALLER = "return Affine(constant * {factor}, slope * {factor})"
POWER_ITERATION = """def bound_spectral_norm(weight):
    w = np.asarray(weight, dtype=np.float64)
    v = np.ones(w.shape[1])
    for _ in range(10):
        v = w.T @ (w @ v)
        v = v / (np.linalg.norm(v) or 1.0)
    return float(np.linalg.norm(w @ v))
"""
SVD = """def bound_spectral_norm(weight):
    return float(np.linalg.norm(np.asarray(weight, dtype=np.float64), 2))
"""

MUTANTS = {
    "E divided by ten": Mutant(
        RoundingBounds.pair_coefficients, {LINE: SMALLER.format(factor=0.1)}, (FORMULA, ONE_SIGN)
    ),
    "E dropped": Mutant(
        RoundingBounds.pair_coefficients, {LINE: SMALLER.format(factor=0.0)}, (FORMULA, CANCELLING, NEAR)
    ),
    "2E is E": Mutant(RULE._terms, {"promised if same else": "promised.times(0.0) if same else"}, (RADIUS,)),
    "B left out of the denominator": Mutant(
        RULE._terms, {"lipschitz + up(self.kappa * promised.slope)": "lipschitz"}, (RADIUS, KAPPA)
    ),
    "κ is 1": Mutant(RULE._terms, {"self.kappa * promised.slope": "promised.slope"}, (KAPPA,)),
    "the float64 error at the centre left out": Mutant(
        RULE._terms,
        {"self.evaluated.pair_coefficients(first, second)": "promised.times(0.0)"},
        (TWO_FORMATS,),
    ),
    "the float32 error in the ball left out": Mutant(
        RULE._terms,
        {"error = promised + (": "error = promised.times(0.0) + ("},
        (TWO_FORMATS,),
    ),
    "no slack for a caller's norm": Mutant(
        radius.client_factor, {"(size + (6 if threat.scale is None else 8)) * 2.0**-52": "0.0"}, (RADIUS,)
    ),
    "radii as small as can be": Mutant(RULE._of_batch, {"radius > self._least": "radius > 0.0"}, (SMALLEST,)),
    "one radius as small as can be": Mutant(
        RULE_IN_FLOATS, {"not radius > self.least": "not radius > 0.0"}, (SMALLEST,)
    ),
    "E of a tightened ball in the ball's own norm": Mutant(
        Tightener._slack,
        {"ball.radius, rule.promised.norm)": "ball.radius, local._working)"},
        (OWN_NORM,),
    ),
    "E forgotten of one input": Mutant(RULE_IN_FLOATS, {"slope * size + constant": "0.0"}, (ALONE,)),
    "overflow forgotten of one input": Mutant(
        RULE_IN_FLOATS,
        {"min(least_radius, self.slack.constant - self.slack.slope * size)": "least_radius"},
        (ALONE,),
    ),
    "γ_{n+2} is γ_n in hidden layers": Mutant(
        RECURSION._linear, {"local(terms + 2": "local(terms"}, (FORMULA,)
    ),
    "γ_{n+2} is γ_n in the last layer": Mutant(
        RECURSION.scores, {"local(terms + 2": "local(terms"}, (FORMULA, ONE_SIGN)
    ),
    "γ is 0": Mutant(RECURSION.gamma, {"gamma(k, self.execution.unit_roundoff)": "0.0"}, (FORMULA, ONE_SIGN)),
    "γ is ku": Mutant(norms.gamma, {"/ down(1.0 - up(k * unit_roundoff))": ""}, (GAMMA,)),
    "n is the smaller side": Mutant(
        RECURSION.step, {"op.weight.shape[1]": "min(op.weight.shape)"}, (FORMULA,)
    ),
    "n of a convolution without its channels": Mutant(
        RECURSION.step, {"op.kernel[0].size": "op.kernel[0, 0].size"}, (FORMULA_CONV,)
    ),
    "bias left out of the error": Mutant(
        RECURSION._linear,
        {
            "x.size.times(bound_absolute_norm(op, self.norm)).plus(offset)": "x.size.times(bound_absolute_norm(op, self.norm))"
        },
        (FORMULA_BIAS,),
    ),
    "bias of the last layer left out": Mutant(
        RECURSION.scores, {"np.abs(op.bias)": "0.0 * op.bias"}, (FORMULA_BIAS,)
    ),
    "η dropped": Mutant(
        RECURSION.underflow, {".times(float(up(up(each) * spread)))": ".times(0.0)"}, (FORMULA_TINY, FLUSHING)
    ),
    "power iteration for the norm": Mutant(norms.bound_spectral_norm, {"": POWER_ITERATION}, (SPECTRAL,)),
    "plain SVD for the norm": Mutant(norms.bound_spectral_norm, {"": SVD}, (SPECTRAL,)),
    "Collatz's least quotient for the largest": Mutant(
        norms.bound_absolute_operator_norm, {"ratio.max()": "ratio.min()"}, (ABSOLUTE,)
    ),
    "V taken for orthogonal": Mutant(norms.bound_spectral_norm, {"1.0 - delta": "1.0"}, (VECTORS,)),
    "what Cholesky leaves left out": Mutant(norms._bound_by_cholesky, {" + off, 8": ", 8"}, (CHOLESKY,)),
    "roundings of RRᵀ left out": Mutant(
        norms._bound_by_cholesky, {" + factor_error": ""}, (CHOLESKY_RANK_1,)
    ),
    "roundings of WᵀW left out": Mutant(
        norms._bound_by_cholesky, {"shift + gram_error + f": "shift + f"}, (CHOLESKY_RANK_64,)
    ),
    "inflate is nearest": Mutant(
        norms.inflate,
        {"up(up(x * (1.0 + 4.0 * (roundings + 2) * UNIT_ROUNDOFF_64)) + 2.0**-1000)": "x"},
        (VECTOR,),
    ),
    "up is nearest": Mutant(
        norms.up, {"np.nextafter(x, np.inf)": "x"}, (Killer(test_norms.test_directed_rounding),)
    ),
    "down is nearest": Mutant(
        norms.down, {"np.nextafter(x, -np.inf)": "x"}, (Killer(test_norms.test_directed_rounding),)
    ),
    "Gram iteration without its error": Mutant(
        convolution.bound_gram_iteration,
        {"_bound_self_adjoint(gram, error)": "_bound_self_adjoint(gram, 0.0)"},
        (GRAM,),
    ),
    "Collatz's least quotient for the largest, of convolutions": Mutant(
        convolution._bound_self_adjoint, {").max())": ").min())"}, (FREQUENCIES, CHANNELS)
    ),
    "taps cancel": Mutant(
        convolution._bound_self_adjoint,
        {"np.abs(taps).sum(axis=2)": "np.abs(taps.sum(axis=2))"},
        (FREQUENCIES, CHANNELS),
    ),
    "functions of different tensors are of one": Mutant(
        lipschitz._entrywise,
        {"each.source != source": "False"},
        (
            Killer(
                test_lipschitz.test_functions_of_different_tensors_are_not_counted_by_their_slopes,
                (ops.Sum, TWO),
            ),
        ),
    ),
    "a maximum is as steep as the flattest": Mutant(
        lipschitz._entrywise, {"max(each.slope": "min(each.slope"}, (ENTRYWISE,)
    ),
    "a sum is as steep as the steepest": Mutant(
        lipschitz._entrywise, {"slope + inputs[1].slope": "max(slope, inputs[1].slope)"}, (ENTRYWISE,)
    ),
    "a negative slope is none": Mutant(
        lipschitz._entrywise, {"np.abs(op.slope).max()": "op.slope.max()"}, (ENTRYWISE,)
    ),
    "constant of another pair": Mutant(
        head.Head.distances,
        {"return self._distances[norm]": "return np.roll(self._distances[norm], 1, axis=0)"},
        (PAIRS,),
    ),
    "overlapping slices are MaxMin": Mutant(
        simplify._sorting_network,
        {"\n        or not ops.distinct(i for op in slices for i in op.indices)": ""},
        (Killer(test_graph.test_overlapping_slices_are_not_read_jointly),),
    ),
    "a join costs its largest part": Mutant(
        lipschitz._joined, {"bound_vector_norm(np.asarray(constants), norm)": "max(constants)"}, (COPIES,)
    ),
    "scores of the same class are not left out": Mutant(
        RULE._terms,
        {
            "(self.owners[first[:, None] if second is None else first] == theirs)": "(first[:, None] == np.arange(len(theirs)))"
        },
        (PROTOTYPES,),
    ),
    "a mixture moves as its largest share does": Mutant(
        Mixer.margins_of,
        {"np.where(pair, lipschitz, self._bound_lipschitz(targets, weights, competitors))": "lipschitz"},
        (Killer(test_mixtures.test_reach_is_at_most_the_distance_to_where_the_rival_wins, (TWO,)),),
    ),
    "rows of a mixture rounded for free": Mutant(
        head.FeatureBound.bound_mixtures,
        {"bound_vector_norm(rows, dual, axis=1) + rounding_slack": "bound_vector_norm(rows, dual, axis=1)"},
        (Killer(test_mixtures.test_constant_of_a_mixture_whose_rows_cancel, (TWO,)),),
    ),
    "error of a mixture dropped": Mutant(
        Mixer.error_of,
        {"inflate((weights * pairs).sum(axis=1), len(targets) + 2)": "np.zeros(len(competitors))"},
        (
            Killer(
                test_verify.test_certificates_by_mixtures_hold_and_little_more_fails,
                ("head: reduce max of rows",),
            ),
        ),
    ),
    "scores of no class are not left out": Mutant(
        RULE._terms,
        {"| (theirs < 0)": "| (np.arange(len(theirs)) % 2 == 1)"},
        (PROTOTYPES,),
    ),
    "scaled entries rounded for free": Mutant(
        witness._scaled, {"3.0 * gamma(roundings) * largest": "0.0"}, (SCALED_ROUNDINGS,)
    ),
    "weights not inverted on the head": Mutant(
        witness.ScaledBound.feature_bound, {"1.0 / weights": "weights"}, (SCALED_ROWS, ATTAINED)
    ),
    "weights not inverted on the next layer": Mutant(
        witness._scaled, {"1.0 / weights": "weights"}, (SCALED_NORMS, ATTAINED)
    ),
    "rows of the scaled head rounded for free": Mutant(
        witness.ScaledBound.feature_bound,
        {"int(spread * (head.roundings + 3 * (last.after.shape[1] + 5))) + 1": "0"},
        (SCALED_ROWS,),
    ),
    "the first scaled layer left out": Mutant(
        witness.ScaledBound.feature_bound,
        {"up(min(bounds) * self.bound_hidden)": "self.bound_hidden"},
        (ATTAINED,),
    ),
    "mean and rest exchanged": Mutant(
        witness.weigh, {"b * picked + (a - b)": "a * picked + (b - a)"}, (SCALED_NORMS, SCALED_ROWS)
    ),
    "groups found in the wrong places": Mutant(
        witness._groups, {"np.argsort(places.ravel())[groups]": "groups"}, (SCALED_GROUPS,)
    ),
    "Relu after sorting is 1-Lipschitz in weighted norms": Mutant(
        witness._groups, {"single and groups.shape[1] > 1": "False"}, (BARRED,)
    ),
    "padding counted wrongly": Mutant(Window.positions.func, {"* s - b +": "* s - b + 1 +"}, (FORWARD_CONV,)),
    "stride counted wrongly in programs": Mutant(
        Window.positions.func, {"* s - b +": "* 1 - b +"}, (FORWARD_CONV,)
    ),
    "stride counted wrongly in norms": Mutant(
        convolution._space_to_depth, {"np.concatenate(phases, axis=1)": "phases[0]"}, (STRIDES,)
    ),
    "inputs rounded for free": Mutant(
        radius.bound_input_rounding,
        {"moved + 2.0**-24 * size": "2.0**-24 * size"},
        (DOUBLES,),
    ),
    "a scale taken twice": Mutant(
        lipschitz._tensors,
        {"bound_equivalence(threat.norm, s, len(run.weight))": "bound_change(threat, s, graph.input_size)"},
        (SCALED,),
    ),
    "a scale left out": Mutant(
        linear_runs.threat_run,
        {"threat.scales[changed]": "np.ones(len(changed))"},
        (SCALED,),
    ),
    "1/s in the place of s": Mutant(
        linear_runs.threat_run,
        {"threat.scales[changed]": "1.0 / threat.scales[changed]"},
        (SCALED,),
    ),
    "κ of a scaled threat set is that of the ball": Mutant(
        linear_runs.bound_change,
        {"if threat.scale is None": "if True"},
        (SCALED_KAPPA,),
    ),
    "room of the other side": Mutant(
        box.radius_in_box,
        {"np.where(rows < 0.0, above, below)": "np.where(rows > 0.0, above, below)"},
        (BOXED, BOXED_SCALED),
    ),
    "room in raw units": Mutant(box.Box.room, {"if threat.scale is not None:": "if False:"}, (BOXED_SCALED,)),
    "gradients scaled twice": Mutant(
        linear_box.LinearBox.gradients,
        {"changed * threat.scales": "changed * threat.scales[threat.changed] * threat.scales"},
        (BOXED_SCALED,),
    ),
    "μ² for μ": Mutant(box._in_l2, {"0.5 / tau": "(0.5 / tau) ** 2"}, (BOX_CERTIFICATES,)),
    "columns without room go on": Mutant(
        box._in_linf, {"margins - reached": "margins"}, (Killer(BOXED.test, (Threat(INF), (0.0, 1.0))),)
    ),
    "E at ρ, not over the box": Mutant(
        boxed_radius.BoxedRule.in_box, {"np.full(len(z), self._box_size)": "size"}, (BOX_ERRORS,)
    ),
    "a crossed Clip taken for a projection": Mutant(
        box.find_box,
        {"((low <= high) & ": "(True & "},
        (Killer(test_box.test_ends_that_make_a_box, ((1.0, 0.0), False)),),
    ),
    "a Clip beside another reader of the input": Mutant(
        box._sole_readers,
        {"len(readers[name]) == 1": "readers[name]"},
        (Killer(test_box.test_a_clip_that_is_not_alone_with_the_input_makes_no_box),),
    ),
    "what rounding of rows loses in the box for free": Mutant(
        linear_box.LinearBox.radii, {"down(margins - lost)": "margins"}, (BOX_ROUNDING,)
    ),
    "linear functions least over the box alone": Mutant(
        box.support_in_box,
        {"np.fmin(np.fmin(bound, boxed), everything)": "np.fmin(everything, 0.0)"},
        (BOX_LOCAL,),
    ),
    "Hölder's exponent left out of a scaled norm": Mutant(
        linear_runs.bound_scaling, {", exponent)": ", Norm.INF)"}, (SCALED_KAPPA,)
    ),
    "roundings of products for free": Mutant(
        linear_runs.LinearRun.times_dense, {"size, roundings, maps": "size, 0, maps"}, (PRODUCT,)
    ),
    "roundings of products with the head for free": Mutant(
        linear_runs.LinearRun.turn,
        {"inflate(size, roundings)": "0.0 * size"},
        (PRODUCT,),
    ),
    "no guard against overflow": Mutant(
        RULE._overflow_radius,
        {"return slack": "return np.full(len(size), np.inf)"},
        (Killer(test_radius.test_nothing_is_certified_where_it_might_overflow),),
    ),
}


def mutated(function, pieces):
    """The function's code with pieces of its source replaced; the piece "" stands for all of it."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    source = source[source.index("def ") :]  # without its decorators
    for old, new in pieces.items():
        assert old in source, f"{old!r} is not in {function.__qualname__} any more"
        source = source.replace(old, new) if old else new
    namespace = {}
    # Compiled here, where annotations are not evaluated, and bound to the module's own names.
    exec(compile(source, f"<mutant of {function.__qualname__}>", "exec"), function.__globals__, namespace)
    return function, namespace[function.__name__].__code__


@cache
def holds_as_it_stands(killer):
    """Fails where the test does without a mutant; of several mutants it is asked once."""
    with pytest.MonkeyPatch.context() as patch:
        killer(patch)


CASES = [(name, killer) for name, mutant in MUTANTS.items() for killer in mutant.killers]


@pytest.mark.parametrize(("name", "killer"), CASES, ids=[f"{name}: {k.test.__name__}" for name, k in CASES])
def test_mutant_is_killed(name, killer, monkeypatch):
    holds_as_it_stands(killer)
    function, code = mutated(MUTANTS[name].function, MUTANTS[name].pieces)
    with monkeypatch.context() as patch:
        patch.setattr(function, "__code__", code)
        with pytest.raises(AssertionError):
            killer(monkeypatch)
