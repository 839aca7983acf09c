"""The soundness suite at full size: claims and violations by suite and rule, and the cost of soundness.

    python -m benchmarks.soundness [--count 2500] [--workers 2] [--scaled]

The inputs are those of ``tests/soundness``, which runs a small part of them; exit status 1 where a
rule of ours is violated, where a suite breaks no naive rule, or where too little is certified.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.lipserve import EXAMPLES
from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import RadiusRule
from lipmodel.certify.rounding import FORMATS, bound_rounding
from lipmodel.norms import Norm
from lipmodel.threat import BALLS
from tests.networks import float32, groupsort_net, to_file
from tests.soundness import nets, suites
from tests.soundness.rules import DOUBLE, NAIVE, OURS, OURS_SINGLE, PORTABLE, RULES, Subject


def main() -> int:
    """Print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2500, help="inputs for each suite, network and norm")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scaled", action="store_true", help="scaled threat sets in place of balls")
    options = parser.parse_args()
    start = time.monotonic()
    jobs = [(suite, net) for suite in suites.SUITES for net in suites.nets_of(suite)]
    with ProcessPoolExecutor(options.workers) as pool:
        run = partial(suites.run, count=options.count, in_scales=options.scaled)
        results = dict(zip(jobs, pool.map(run, *zip(*jobs, strict=True)), strict=True))
    failed = _print_suites(results)
    print(f"\n{time.monotonic() - start:.0f} s for the suites with {options.workers} processes\n")
    if not options.scaled:
        _print_costs()
    return 1 if failed else 0


def _print_suites(results):
    failures, whole = [], []
    print("| suite | rule | inputs | claims r > 0 | V1 | V2 | certified |\n|---|---|---|---|---|---|---|")
    for suite in suites.SUITES:
        total = suites.added(tallies for (name, _), tallies in results.items() if name == suite)
        whole.append(total)
        _print_rows(suite, total)
        for rule in RULES:
            tally = total[rule.name]
            violated = tally.wrong + tally.flipped > 0
            if violated != (rule in NAIVE):
                failures.append(f"{suite}: {rule.name} {'is' if violated else 'is not'} violated")
        if suite not in suites.MAY_ABSTAIN and total[OURS.name].share < 0.99:
            failures.append(f"{suite}: only {total[OURS.name].share:.2%} certified")
    _print_rows("**all**", suites.added(whole))
    print(*failures, sep="\n")
    for (suite, net), tallies in results.items():
        for rule in (OURS, PORTABLE, OURS_SINGLE):
            if tallies[rule.name].wrong + tallies[rule.name].flipped:
                print(f"violated: {suite}, {net}, {rule.name}: {tallies[rule.name]}")
    return failures


def _print_rows(suite, total):
    for rule, tally in total.items():
        print(
            f"| {suite} | {rule} | {tally.inputs:,} | {tally.claims:,} | {tally.wrong:,} | {tally.flipped:,} "
            f"| {tally.share:.3%} |"
        )


def _print_costs():
    print(
        "| net | norm | median radius | lost, float64: median, 99% | lost, portable: median, 99% | open, ms "
        "| bounds, ms | inference, µs | certificate, µs |\n|---|---|---|---|---|---|---|---|---|"
    )
    rng = np.random.default_rng(5)
    for name, graph, x in _networks(rng):
        subject = Subject(graph)
        opened = _seconds(lambda g=graph: CertifiedPredictor(to_file(nets.fresh(g))), 3)
        inference = _seconds(lambda s=subject, x=x: s.float64(x), 9)
        for norm in Norm:
            plain = DOUBLE.answer(subject, x, BALLS[norm]).radius
            lost = [1.0 - rule.answer(subject, x, BALLS[norm]).radius / plain for rule in (OURS, PORTABLE)]
            shown = [", ".join(f"{q:.1e}" for q in np.quantile(values, (0.5, 0.99))) for values in lost]
            working = Norm.INF if norm is Norm.INF else Norm.TWO
            lipschitz, rounding = _analyse(graph, norm, working)
            analysis = _seconds(lambda g=graph, p=norm, q=working: _analyse(g, p, q), 3)
            rule = RadiusRule(subject.head.owners, lipschitz, rounding, input_size=graph.input_size)
            scores = subject.float64(x)
            certify = _seconds(lambda rule=rule, scores=scores, x=x: rule(scores, x), 9)
            # for 1,000 inputs, a millisecond is a microsecond an input
            print(
                f"| {name} | {norm} | {np.median(plain):.3g} | {shown[0]} | {shown[1]} | {opened * 1e3:.1f} "
                f"| {analysis * 1e3:.1f} | {inference * 1e3:.2f} | {certify * 1e3:.2f} |"
            )


def _networks(rng):
    """Yield name, graph and 1,000 float32 inputs: of the suites, the trained examples, and a wide network."""
    for name in nets.NETS:
        graph = nets.make(name).graph
        yield name, graph, float32(rng.normal(size=(1000, graph.input_size)))
    for path in sorted(EXAMPLES.glob("*.onnx")):
        predictor = CertifiedPredictor(path)
        low, high = predictor.claims.input_box or (0.0, 1.0)
        x = rng.uniform(low, high, size=(1000, predictor.file.graph.input_size))
        if path.stem == "digits":
            x = rng.permutation(load_digits().data / 16.0)[:1000]
        yield f"trained {path.stem}", predictor.file.graph, float32(x)
    yield "784-1024-1024-10", groupsort_net((784, 1024, 1024), 10), float32(rng.normal(size=(1000, 784)))


def _analyse(graph, norm, working):
    """Return the bounds derived once for each model and norm, without caches."""
    graph = nets.fresh(graph)
    return bound_lipschitz(graph, norm), bound_rounding(graph, working, FORMATS[np.float64])


def _seconds(function, times):
    """Return the median seconds of some calls."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


if __name__ == "__main__":
    sys.exit(main())
