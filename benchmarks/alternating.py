"""An older commit and the present tree measured in turns, and the ratio of the two with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
from scipy.stats import binom

from benchmarks.lipserve import ROOT
from benchmarks.tables import markdown

TREES = ("before", "now")
ROUNDS = 10
Costs = Mapping[str, float]
"""Of one tree in one round, by name."""
Pairs = dict[str, list[tuple[float, float]]]
"""Costs (before, now) in each round, by name."""

baseline_option = click.option(
    "--baseline",
    type=click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True),
    help="Worktree of an older commit: measure it and this tree in turns, and print the ratios.",
)


def in_rounds(measure: Callable[[str], Costs], rounds: int) -> Pairs:
    """Return the costs of both ``TREES`` in each round; which of them goes first alternates."""
    found: Pairs = {}
    for number in range(rounds):
        click.echo(f"round {number + 1} of {rounds}", err=True)
        costs = {tree: measure(tree) for tree in TREES[:: 1 if number % 2 else -1]}
        for name in costs["now"]:
            found.setdefault(name, []).append((costs["before"][name], costs["now"][name]))
    return found


def ratio(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the median over rounds of now / before, and its interval of at least 95% by order statistics.

    The interval holds for any distribution, as rounds disturbed by other work count no more than others; it
    takes six rounds, with fewer it is their range.
    """
    ratios = sorted(now / before for before, now in pairs)
    rank = max(1, int(binom.ppf(0.025, len(ratios), 0.5)))
    return float(np.median(ratios)), ratios[rank - 1], ratios[-rank]


def table(found: Pairs, unit: str) -> str:
    """Return Markdown: medians, and the ratio of each cost."""
    rows = []
    for name, pairs in found.items():
        middle, low, high = ratio(pairs)
        before, now = np.median(pairs, axis=0)
        rows.append((name, f"{before:.4g}", f"{now:.4g}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}"))
    return markdown((unit, "before", "now", "ratio", "95% interval"), rows)


def environment(tree: Path) -> dict[str, str]:
    """Return the variables with which Python imports that tree and not the present folder."""
    return {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}


def environments(baseline: Path) -> dict[str, dict[str, str]]:
    """Return the variables for each of ``TREES``."""
    return dict(zip(TREES, (environment(baseline), environment(ROOT)), strict=True))
