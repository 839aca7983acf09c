"""The database of jobs, each test on SQLite and on a real PostgreSQL of its own."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.jobs.store import Job, State, Store
from service.problems import ProblemKind
from tests.service.conftest import (
    PostgreSQL,
    eventually,
    lipserve,
    new_database,
    queued,
    running,
    stopped_worker,
    url_of,
    workers,
)
from tests.service.test_bad_input import check

AUDITS = "/v1/models/two-moons/audits"


@pytest.fixture
def stores(url):
    """The database as two servers see it."""
    both = Store(url, "a" * 32), Store(url, "b" * 32)
    yield both
    for store in both:
        store.close()


def add(store, job_id="j1", created=1.0, kind="audit", work=()):
    store.add(Job(job_id, kind, "m", "0" * 64, "{}", State.QUEUED, 0.0, store.server, created), work)
    return job_id


def test_a_job_is_kept_as_it_is(stores, url):
    one, other = stores
    add(one)
    assert one.start("j1")
    result, radii = '{"é\\u0000": 0.1}' + " " * 10**6, bytes(range(256)) * 300
    assert one.finish("j1", State.DONE, result=result, radii=radii, progress=1.0)
    kept = other.get("j1")
    assert (kept.state, kept.result, kept.radii, kept.progress) == (State.DONE, result, radii, 1.0)
    assert other.get("j1", bulk=False).result is None
    assert other.get("nope") is None
    again = Store(url, "c" * 32)
    assert again.get("j1") == kept
    again.close()


def test_a_report_is_kept_with_its_job_and_goes_with_it(stores):
    one, other = stores
    for job_id, created in [("j1", 1.0), ("j2", 2.0)]:
        add(one, job_id, created)
        assert one.finish(job_id, State.DONE, report={"a": b"\0a" + job_id.encode(), "b": b""})
    assert not other.finish("j1", State.CANCELLED, report={"c": b"late"})
    assert [other.report_file("j1", name) for name in "abc"] == [b"\0aj1", b"", None]
    assert other.prune(1) == 1
    assert other.report_file("j1", "a") is None
    assert other.report_file("j2", "a") == b"\0aj2"


def test_of_two_that_end_a_job_one_wins(stores):
    one, other = stores
    add(one)
    assert one.start("j1")
    assert not other.start("j1")
    assert other.finish("j1", State.CANCELLED)
    assert not one.set_progress("j1", 0.5)
    assert not one.finish("j1", State.DONE, result="{}")
    assert one.get("j1").state is State.CANCELLED
    assert one.get("j1").result is None


def test_of_many_that_start_a_job_one_wins(url):
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda i: Store(url, f"{i:032d}"), range(8)))  # all create the tables
        for round_ in range(5):
            job_id = add(stores[0], f"j{round_}")
            assert sum(threads.map(lambda store: store.start(job_id), stores)) == 1  # noqa: B023
    for store in stores:
        store.close()


def a_minute_passes(monkeypatch, *stores):
    """As it is once servers other than these have not been heard of for a minute, in which these were awake."""
    for _ in range(5):
        now = time.time() + 15
        monkeypatch.setattr("service.jobs.store.time.time", lambda now=now: now)
        for store in stores:
            store.beat()


@pytest.mark.parametrize("sleep", [70, 86_400])
def test_servers_that_slept_take_one_another_for_alive(stores, monkeypatch, sleep):
    """The machine slept: the one that wakes first has not heard of the other for as long as that."""
    one, two = stores
    add(one, "j1", work=[b"x"])
    add(two, "j2", work=[b"x"])
    a_minute_passes(monkeypatch, one, two)
    now = time.time() + sleep
    monkeypatch.setattr("service.jobs.store.time.time", lambda: now)
    for first, second in ((one, two), (two, one)):
        first.beat()
        assert list(first.adopt(10)) == []
        assert first.interrupt_orphans("{}") == 0
        assert second.queued() == [f"j{1 + (second is two)}"]
    a_minute_passes(monkeypatch, one)  # and the other never woke
    assert list(one.adopt(10)) == ["j2"]


def test_the_jobs_of_a_dead_server_are_interrupted(stores, monkeypatch):
    dead, alive = stores
    add(dead, "j1")
    add(alive, "j2")
    assert alive.interrupt_orphans("{}") == 0
    a_minute_passes(monkeypatch, alive)
    assert alive.interrupt_orphans("{}") == 1
    assert dead.get("j1").state is State.INTERRUPTED
    assert alive.get("j2").state is State.QUEUED
    assert not dead.start("j1")
    assert list(dead.queued()) == []
    assert list(alive.queued()) == ["j2"]


def test_jobs_of_a_dead_server_are_taken_over_once(stores, url, monkeypatch):
    gone, alive = stores
    third = Store(url, "c" * 32)
    for number in range(6):
        add(gone, f"j{number}", created=float(number), work=[b"0", bytes([number]) * 3])
    assert gone.start("j0")
    assert alive.adopt(10) == []
    a_minute_passes(monkeypatch, alive, third)
    assert list(alive.adopt(2)) == ["j0", "j1"]
    assert list(alive.parts("j1")) == [b"0", b"\1\1\1"]
    assert list(third.adopt(10)) == ["j2", "j3", "j4", "j5"]
    assert alive.interrupt_orphans("{}") == 0
    # The one that was taken for dead goes on, and finds that it has no jobs.
    assert not gone.set_progress("j0", 0.5)
    assert not gone.finish("j0", State.FAILED)
    assert not gone.start("j1")
    assert alive.start("j0")
    assert not gone.finish("j0", State.DONE, result="{}")
    assert alive.finish("j0", State.DONE, result="{}")
    assert list(alive.parts("j0")) == []
    assert gone.finish("j1", State.CANCELLED)
    assert list(alive.parts("j1")) == []
    third.close()


def test_a_job_that_was_begun_twice_is_not_taken_over_again(stores, monkeypatch):
    gone, alive = stores
    add(gone, "j1", work=[b"x"])
    assert gone.start("j1")
    assert gone.requeue_running() == 1
    assert gone.start("j1")
    assert gone.requeue_running() == 0
    a_minute_passes(monkeypatch, alive)
    assert list(alive.adopt(10)) == []
    assert alive.interrupt_orphans("{}") == 1
    assert gone.get("j1").state is State.INTERRUPTED
    assert list(gone.parts("j1")) == []


def test_jobs_of_a_server_that_stops_are_free_at_once(stores):
    leaving, staying = stores
    add(leaving, "j1", work=[b"x"])
    leaving.leave()
    assert list(staying.adopt(10)) == ["j1"]


def test_of_many_that_take_over_jobs_one_gets_each(postgresql, monkeypatch):
    url = new_database(postgresql)
    gone = Store(url, "a" * 32)
    for number in range(200):
        add(gone, f"j{number}", work=[b"x"])
    gone.leave()
    gone.close()
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda i: Store(url, f"{i:032d}"), range(8)))

        def take(store):
            return [job_id for _ in range(40) for job_id in store.adopt(1)]

        taken = [job_id for ids in threads.map(take, stores) for job_id in ids]
    assert sorted(taken) == sorted(f"j{number}" for number in range(200))
    for store in stores:
        store.close()


def test_pages_hold_every_job_once(stores):
    one, other = stores
    for number in range(7):  # of the same moment, too
        add(one, f"j{number}", created=float(number // 3))
    add(one, "e", kind="evaluation")
    seen, last = [], None
    while page := other.page("audit", 2, last):
        seen += [job.id for job in page]
        last = page[-1]
    assert seen == ["j6", "j5", "j4", "j3", "j2", "j1", "j0"]


def test_the_oldest_that_have_ended_are_deleted(stores):
    one, other = stores
    for number in range(6):
        add(one, f"j{number}", created=float(number))
    for number in (0, 2, 3, 5):
        assert one.finish(f"j{number}", State.FAILED)
    assert other.prune(4) == 0
    assert other.prune(2) == 2
    assert [job.id for job in one.page("audit", 10)] == ["j5", "j4", "j3", "j1"]


def test_two_servers_share_a_database(postgresql, models, tmp_path):
    url, state = new_database(postgresql), tmp_path / "state"
    with running(models, state=state, database=url) as one, running(models, database=url) as other:
        answer = one.post(AUDITS, json={"samples": 5}, headers={"Prefer": "wait=60"})
        assert answer.status_code == 200
        done = other.get(answer.headers["content-location"]).json()
        assert done["result"] == answer.json()
        running_url, queued_url = (queued(one, AUDITS, samples=5) for _ in range(2))
        pid = stopped_worker(state)
        eventually(lambda: other.get(running_url).json()["state"] == "running")
        assert other.delete(queued_url).json()["state"] == "cancelled"
        assert other.delete(running_url).json()["state"] == "cancelled"
        eventually(lambda: pid not in workers(state))
        with other.stream("GET", f"{running_url}/events") as events:
            assert events.read().startswith(b"event: end\n")
        states = [job["state"] for job in one.get("/v1/audits").json()["jobs"]]
        assert states == ["cancelled", "cancelled", "done"]
        assert one.post(AUDITS, json={"samples": 5}, headers={"Prefer": "wait=60"}).status_code == 200


def test_a_database_that_is_down_is_reported_and_recovers(models):
    with PostgreSQL() as server, running(models, database=new_database(server.url)) as client:
        answer = client.post(AUDITS, json={"samples": 5}, headers={"Prefer": "wait=60"})
        place = answer.headers["content-location"]
        server.stop()
        for method, path in (
            ("GET", "/v1/audits"),
            ("GET", place),
            ("GET", f"{place}/events"),
            ("GET", f"{place}/report/audit.html"),
            ("DELETE", place),
            ("POST", AUDITS),
        ):
            told = client.request(method, path, json={"samples": 5} if method == "POST" else None)
            check(told, ProblemKind.JOBS_UNAVAILABLE)
            assert int(told.headers["retry-after"]) > 0
            assert str(server.url.partition("host=")[2]) not in told.text
        predicted = client.post("/v1/models/two-moons/predict", json={"inputs": [[1, 2]]})
        assert predicted.status_code == 200
        server.start()
        assert eventually(lambda: client.get(place).json().get("result")) == answer.json()
        assert client.post(AUDITS, json={"samples": 5}, headers={"Prefer": "wait=60"}).status_code == 200
        assert len(client.get("/v1/audits").json()["jobs"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("jobs", [10, 200])
def test_each_job_is_done_once_though_a_server_is_killed(postgresql, models, tmp_path, jobs):
    database = new_database(postgresql)
    common = ("--models", models, "--port", 0, "--database", database, "--max-queued", jobs)
    with (
        lipserve(*common, "--state", tmp_path / "one") as victim,
        lipserve(*common, "--state", tmp_path / "two") as survivor,
    ):
        urls = [url_of(victim), url_of(survivor)]
        places = []
        for number in range(jobs):
            answer = httpx.post(
                urls[number % 2] + AUDITS, json={"samples": 5, "seed": number}, headers={"Prefer": "wait=0"}
            )
            places.append(answer.headers["location"])
        eventually(lambda: httpx.get(urls[1] + places[0]).json()["state"] != "queued")
        stopped = stopped_worker(tmp_path / "one")  # so that its server is killed in the middle of a job
        victim.kill()
        os.kill(stopped, signal.SIGKILL)  # one that is stopped does not see that its server died

        def all_jobs():
            found = [httpx.get(urls[1] + place).json() for place in places]
            return found if all(job["finished"] for job in found) else None

        found = eventually(all_jobs, 600)
    assert [job["state"] for job in found] == ["done"] * jobs
    assert [job["parameters"]["seed"] for job in found] == list(range(jobs))
    store = Store(database, "f" * 32)
    kept = [store.get(place.rpartition("/")[2]) for place in places]
    store.close()
    assert sorted(job.attempts for job in kept) == [1] * (jobs - 1) + [2]
