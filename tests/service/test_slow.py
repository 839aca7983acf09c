"""Work of seconds: its limits, its turns, and its end when nobody waits for it."""

import asyncio
import json
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.deadline import CancelledError, Deadline
from lipmodel.norms import Norm
from service.inference import engine
from service.inference.attack_search import AttackSearch
from service.inference.fair_pool import FairPool
from service.models.registry import Model
from service.problems import Problem, ProblemKind
from tests.networks import convolutional_net, to_file
from tests.service.conftest import connected, digits, eventually, in_flight, post, two_moons
from tests.service.test_bad_input import check

SLOW = to_file(convolutional_net())
X = np.random.default_rng(1).uniform(size=(1, 784)).tolist()
PREDICT = "/v1/models/slow/predict"
MANY = engine.SLOW_THREADS + engine.SLOW_QUEUED_PER_CALLER
"""That one caller may have in the service at a time."""


def ask(client, *, chunked=False, **options):
    """A connection on which radii are to be tightened: directly, or through the application."""
    body = json.dumps({"inputs": X, "tighten": True, **options}).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    connection = connected(client)
    connection.sendall(
        post(chunks, PREDICT, "Transfer-Encoding: chunked", length=None) if chunked else post(body, PREDICT)
    )
    return connection


def test_radii_are_tightened_as_far_as_time_allows(serve):
    client = serve({"slow": SLOW}, tighten_seconds=0.2)
    plain, cut = (
        client.post(PREDICT, json={"inputs": X, "tighten": tighten}).json()["predictions"][0]
        for tighten in (False, True)
    )
    assert "tightening_complete" not in plain
    assert cut["tightening_complete"] is False
    assert cut["certified_radius"] >= plain["certified_radius"] > 0
    tensor = {"name": "input", "shape": [1, 784], "datatype": "FP64", "data": X}
    answer = client.post("/v2/models/slow/infer", json={"inputs": [tensor], "parameters": {"tighten": True}})
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    tensor = {"name": "tightening_complete", "datatype": "BOOL", "shape": [1], "data": [False]}
    assert outputs["tightening_complete"] == tensor


def test_a_search_with_time_left_says_that_it_is_complete(client):
    answer = client.post("/v1/models/two-moons/predict", json={"inputs": [[0.5, 0.25]], "tighten": True})
    assert answer.json()["predictions"][0]["tightening_complete"] is True


@pytest.mark.parametrize("chunked", [False, True])
def test_what_a_client_does_not_wait_for_ends(serve, chunked):
    """The client that leaves holds up nobody, whether its request ran, or was queued."""
    client = serve({"slow": SLOW, "two-moons": two_moons()}, tighten_seconds=600)
    connections = [ask(client, chunked=chunked) for _ in range(MANY)]
    eventually(lambda: in_flight(client) == MANY)
    for connection in connections:
        connection.close()
    eventually(lambda: in_flight(client) == 0, 30)
    answer = client.post(
        "/v1/models/two-moons/predict", json={"inputs": [[0.5, 0.25]], "tighten": True}, timeout=30
    )
    assert answer.json()["predictions"][0]["tightening_complete"] is True
    text = client.get("/metrics").text
    assert 'lipserve_problems_total{kind="internal"}' not in text


def test_slow_work_keeps_no_ordinary_batch_waiting_and_its_queue_is_bounded(serve):
    client = serve({"slow": SLOW, "digits": digits()}, tighten_seconds=600)
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(ask(client))
        eventually(lambda: in_flight(client) == MANY)
        rows = np.zeros((10_000, 16)).tolist()  # left to a thread
        assert client.post("/v1/models/digits/predict", json={"inputs": rows}, timeout=30).status_code == 200
        for asked in (PREDICT, "/v1/models/slow/attacks"):
            options = {"tighten": True} if asked == PREDICT else {}
            refused = client.post(asked, json={"inputs": X, **options}, timeout=30)
            check(refused, ProblemKind.QUEUE_FULL)
            assert int(refused.headers["retry-after"]) >= 1


def test_an_attack_that_is_cancelled_ends():
    attacker, model = AttackSearch(FairPool("slow", 1, queued=1, queued_per_caller=1)), Model("m", "1", CertifiedPredictor(two_moons()), 1, None)  # fmt: skip
    deadline = Deadline()
    deadline.cancel()
    with pytest.raises(CancelledError):
        attacker._attack(model.predictor, np.zeros((1, 2)), Norm.TWO, deadline)


def test_a_long_batch_that_is_cancelled_ends_after_a_part():
    model = Model("m", "1", CertifiedPredictor(two_moons()), engine.MERGED_MULTIPLICATIONS // 2, None)
    deadline = Deadline()
    parts = engine._parts(model, np.zeros((5, 2)), deadline)
    assert len(next(parts)) == 2
    deadline.cancel()
    with pytest.raises(CancelledError):
        next(parts)


class Held:
    """Work that runs until it is let go, or is cancelled if it looks."""

    def __init__(self):
        self.go, self.order = threading.Event(), []

    def __call__(self, name, *, looks=False):
        def work(deadline):
            self.order.append(name)
            while not self.go.wait(0.001):
                if looks:
                    deadline.check()
            return name

        return work


def pool(queued=10, queued_per_caller=10):
    return FairPool("test", 1, queued=queued, queued_per_caller=queued_per_caller)


async def turns():
    """Long enough for every task to have taken its next step."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_callers_take_turns():
    async def run():
        held, fair = Held(), pool()
        tasks = [
            asyncio.create_task(fair.run(name[0], held(name))) for name in ("a1", "a2", "a3", "b1", "c1")
        ]
        await turns()
        held.go.set()
        results = await asyncio.gather(*tasks)
        fair.close()
        return results, held.order

    results, order = asyncio.run(run())
    assert results == ["a1", "a2", "a3", "b1", "c1"]
    assert order == ["a1", "a2", "b1", "c1", "a3"]


def test_queues_are_bounded_by_caller_and_together():
    async def run():
        held, fair = Held(), pool(3, 2)
        tasks = [asyncio.create_task(fair.run(name, held(name))) for name in "aaab"]
        await turns()
        details = []
        for name in "abc":
            with pytest.raises(Problem) as refused:
                await fair.run(name, held(name), 2.5)
            details.append(refused.value.detail)
            assert refused.value.headers == {"Retry-After": "3"}
        held.go.set()
        await asyncio.gather(*tasks)
        fair.close()
        return details

    assert asyncio.run(run()) == [
        "2 long requests of this caller are queued; the limit is 2",
        "3 long requests are queued; the limit is 3",
        "3 long requests are queued; the limit is 3",
    ]


def test_what_is_cancelled_leaves_the_queue_and_its_thread_is_free_once_it_ends():
    async def run():
        held, fair = Held(), pool()
        names = ("running", "queued", "last")
        tasks = [asyncio.create_task(fair.run(name, held(name, looks=True))) for name in names]
        await turns()
        for task in tasks[:2]:
            task.cancel()
        await turns()
        assert [task.cancelled() for task in tasks] == [True, True, False]
        while len(held.order) < 2:  # the cancelled one has looked, and the last one has its thread
            await asyncio.sleep(0.001)
        held.go.set()
        result = await asyncio.wait_for(tasks[2], 10)
        fair.close()
        return result, held.order

    assert asyncio.run(run()) == ("last", ["running", "last"])


def test_a_turn_that_comes_to_a_cancelled_task_is_passed_on():
    async def run():
        held, fair = Held(), pool()
        first, second, third = (asyncio.create_task(fair.run(name, held(name))) for name in "abc")
        await turns()
        fair._pass_on()  # the turn of the second, which is cancelled before it takes it
        second.cancel()
        await turns()
        held.go.set()
        return await asyncio.wait_for(asyncio.gather(first, third), 10)

    assert asyncio.run(run()) == ["a", "c"]


def test_a_thread_that_is_free_in_the_turn_of_a_cancellation_goes_to_the_next_caller():
    """A cancelled task is still queued when the thread comes back: it has yet to take itself out."""

    async def run():
        held, fair = Held(), pool()
        names = ("a", "b1", "b2", "c")
        first, *others, last = (asyncio.create_task(fair.run(name[0], held(name))) for name in names)
        await turns()
        held.go.set()
        fair._threads.submit(lambda: None).result(10)  # the first has ended: its thread comes back next
        others[0].cancel()
        results = await asyncio.wait_for(asyncio.gather(first, *others, last, return_exceptions=True), 10)
        assert (fair._idle, fair._queues) == (1, {})
        fair.close()
        return results

    first, cancelled, *others = asyncio.run(run())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert (first, *others) == ("a", "b2", "c")


def test_a_closed_pool_ends_what_runs():
    async def run():
        held, fair = Held(), pool()
        tasks = [asyncio.create_task(fair.run(name, held(name, looks=True))) for name in "ab"]
        await turns()
        fair.close()
        with pytest.raises(CancelledError):
            await asyncio.wait_for(tasks[0], 10)
        tasks[1].cancel()

    begun = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - begun < 20
