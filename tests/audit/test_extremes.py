"""The extreme-value estimate, against scipy's fit and against laws whose end is known."""

from __future__ import annotations

import numpy as np
import pytest

from lipmodel.audit.extremes import MIN_BLOCKS, estimate_right_end, log_likelihood

stats = pytest.importorskip("scipy.stats")


def sample(shape, seed, size=200):
    return stats.weibull_max.rvs(shape, loc=2.0, scale=0.5, size=size, random_state=seed)


@pytest.mark.parametrize("shape", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_likelihood_is_at_least_that_of_scipys_fit(shape, seed):
    maxima = sample(shape, seed)
    location = estimate_right_end(maxima)
    fitted, end, scale = stats.weibull_max.fit(maxima, floc=location)
    assert log_likelihood(location - maxima) == pytest.approx(
        stats.weibull_max.logpdf(maxima, fitted, end, scale).sum(), abs=1e-3
    )
    free = stats.weibull_max.logpdf(maxima, *stats.weibull_max.fit(maxima)).sum()
    assert log_likelihood(location - maxima) >= free - 1e-3


def test_the_end_is_found():
    ends = [estimate_right_end(sample(3.0, seed)) for seed in range(10)]
    assert np.median(ends) == pytest.approx(2.0, abs=0.03)


def test_scales_with_the_data():
    maxima = sample(3.0, 0)
    assert estimate_right_end(7.0 * maxima) == pytest.approx(7.0 * estimate_right_end(maxima), rel=1e-9)
    assert estimate_right_end(maxima - 3.0) == pytest.approx(estimate_right_end(maxima) - 3.0, rel=1e-6)


def test_a_law_without_an_end_gets_no_estimate():
    found = [estimate_right_end(stats.gumbel_r.rvs(size=400, random_state=seed) ** 3) for seed in range(5)]
    assert found == [None] * 5


def test_degenerate_maxima():
    assert estimate_right_end(np.full(50, 1.25)) == 1.25
    assert estimate_right_end(np.arange(MIN_BLOCKS - 1.0)) is None
    assert estimate_right_end(np.zeros(20)) == 0.0
    two_values = np.repeat([1.0, 2.0], 10)
    assert 2.0 <= estimate_right_end(two_values) < 2.1
