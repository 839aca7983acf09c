"""Requests that are answered together: nobody gets another's answer, and nobody waits for a timer."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from service.inference.batcher import Batch, Batcher
from service.telemetry.metrics import Metrics
from tests.networks import groupsort_net, to_file

PREDICTOR = CertifiedPredictor(to_file(groupsort_net((4, 16, 16), 3)))


def batcher(most_rows=64):
    sizes = []

    def run(inputs):
        sizes.append(len(inputs))
        return Batch(PREDICTOR.answer(inputs, Norm.TWO))

    return Batcher(run, most_rows, Metrics()), sizes


def test_each_request_gets_its_own_answers():
    x = np.random.default_rng(0).normal(size=(60, 4))
    parts = np.split(x, [1, 3, 10, 11, 40])

    async def ask():
        together, sizes = batcher(20)
        answers = await asyncio.gather(*(together.submit(part) for part in parts))
        return answers, sizes

    answers, sizes = asyncio.run(ask())
    assert sizes == [11, 29, 20]  # never more than 20 rows, but for one request that has more
    for part, answer in zip(parts, answers, strict=True):
        own = PREDICTOR.predict(part)
        assert (answer.radii == own.radii.certified_radius).all()
        assert (answer.predictions.scores == own.scores).all()
        assert answer.labels.tolist() == own.radii.label.tolist()
        assert answer.columns[0] == own.scores.tolist()


def test_answers_do_not_depend_on_the_batch():
    """To the bit, on this processor: so what is merged with what is nobody's concern."""
    x = np.random.default_rng(1).normal(size=(1024, 4))
    whole = PREDICTOR.predict(x)
    for size in (1, 2, 3, 7, 64, 500):
        for start in range(0, len(x), max(size, 100)):
            part = PREDICTOR.predict(x[start : start + size])
            assert (part.scores == whole.scores[start : start + size]).all()
            radii = whole.radii.certified_radius[start : start + size]
            assert (part.radii.certified_radius == radii).all()


def test_a_request_alone_is_run_two_turns_later():
    async def ask():
        together, sizes = batcher()
        future = together.submit(np.zeros((1, 4)))
        await asyncio.sleep(0)
        before = future.done()
        await asyncio.sleep(0)
        return before, future.done(), sizes

    assert asyncio.run(ask()) == (False, True, [1])


def test_what_arrives_a_turn_later_is_run_with_it():
    async def ask():
        together, sizes = batcher()
        first = together.submit(np.zeros((1, 4)))
        await asyncio.sleep(0)
        await asyncio.gather(first, together.submit(np.ones((2, 4))))
        return sizes

    assert asyncio.run(ask()) == [3]


def test_a_request_given_up_is_not_run_nor_in_the_way():
    async def ask():
        together, sizes = batcher()
        futures = [together.submit(np.full((1, 4), i)) for i in range(3)]
        futures[1].cancel()
        kept = [await futures[0], await futures[2]]
        return [part.predictions.scores for part in kept], sizes

    scores, sizes = asyncio.run(ask())
    assert sizes == [2]
    for i, found in zip((0, 2), scores, strict=True):
        assert (found == PREDICTOR.predict(np.full((1, 4), i)).scores).all()


def test_a_failure_reaches_every_request_of_the_batch():
    def run(_):
        raise RuntimeError("no")

    async def ask():
        together = Batcher(run, 64, Metrics())
        return await asyncio.gather(
            *(together.submit(np.zeros((1, 4))) for _ in range(3)), return_exceptions=True
        )

    found = asyncio.run(ask())
    assert [str(error) for error in found] == ["no"] * 3


def test_scores_that_overflow_are_one_requests_concern(client, monkeypatch):
    """Merged with others, only the request whose scores are not finite is refused."""
    original = CertifiedPredictor.answer

    def answer(self, inputs, norm, **options):
        found = original(self, inputs, norm, **options)
        found.scores[inputs[:, 0] == 7.0] = np.inf
        return found

    monkeypatch.setattr(CertifiedPredictor, "answer", answer)
    from concurrent.futures import ThreadPoolExecutor

    def ask(value):
        return client.post("/v1/models/two-moons/predict", json={"inputs": [[value, 0.0]]}).status_code

    with ThreadPoolExecutor(16) as pool:
        values = [7.0 if i % 4 == 0 else float(i) / 100 for i in range(64)]
        assert list(pool.map(ask, values)) == [422 if v == 7.0 else 200 for v in values]


@pytest.mark.parametrize("norm", list(Norm))
def test_radii_in_float32_hold_for_float32(norm):
    """Float32 execution certifies no more than the portable radius of the same scores would."""
    x = np.random.default_rng(2).normal(size=(200, 4))
    fast = PREDICTOR.predict(x, norm, execution=np.float32)
    plain = PREDICTOR.predict(x, norm)
    assert (fast.radii.label == plain.radii.label).mean() > 0.99
    certified = fast.radii.certified_radius > 0
    assert certified.mean() > 0.9
    assert (fast.radii.certified_radius[certified] < plain.radii.certified_radius[certified]).all()
    portable = PREDICTOR.portable_radii(x, norm)  # of float64 scores, so it pays one such error, not two
    assert (fast.radii.certified_radius < portable + 1e-6)[certified].all()
    assert np.allclose(fast.radii.certified_radius, portable, atol=1e-4)
    assert (fast.scores != plain.scores).any()
    assert (fast.scores == fast.scores.astype(np.float32)).all()
