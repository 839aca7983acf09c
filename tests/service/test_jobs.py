"""The life of a job: waiting, following, cancelling, limits, crashes, and the death of the server."""

import json
import os
import random
import signal
import sqlite3
import struct
import time
from contextlib import suppress
from threading import Thread

import httpx
import pytest

from service.components import open_jobs
from service.database.connect import StoreError
from service.jobs.store import Store
from service.problems import ProblemKind
from service.settings import Settings
from tests.networks import groupsort_net, to_file
from tests.service.conftest import (
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

AUDITS, EVALUATIONS = (f"/v1/models/two-moons/{kind}" for kind in ("audits", "evaluations"))
NO_WAIT = {"Prefer": "wait=0"}
QUICK = {"samples": 5}


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def ended(client, url):
    return eventually(lambda: (job := client.get(url).json())["finished"] and job)


def test_a_report_that_is_ready_in_time_is_the_answer(client):
    answer = client.post(AUDITS, json=QUICK, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=60"
    job = client.get(answer.headers["content-location"]).json()
    assert job["state"] == "done"
    assert job["progress"] == 1
    assert job["result"] == answer.json()
    assert job["model"] == {"name": "two-moons", "sha256": answer.json()["sha256"]}
    defaults = {"box": None, "norm": None, "seed": 0, "report": False, "rows": 0}
    assert job["parameters"] == QUICK | defaults
    assert job["created"] <= job["started"] <= job["finished"]


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [("wait=0", "wait=0"), ("respond-async", "respond-async"), ("foo, Wait=0;x", "wait=0")],
)
def test_a_report_that_is_not_ready_is_promised(client, prefer, applied):
    answer = client.post(AUDITS, json=QUICK, headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == applied
    assert answer.json()["state"] in ("queued", "running")
    assert answer.headers["location"] == f"/v1/audits/{answer.json()['id']}"
    assert ended(client, answer.headers["location"])["state"] == "done"


@pytest.mark.parametrize("prefer", ["wait=-1", "wait=x", "wait=3600", "wait", "return=minimal"])
def test_a_preference_that_cannot_be_honoured_is_passed_over(client, prefer):
    assert "preference-applied" not in client.post(AUDITS, json=QUICK, headers={"Prefer": prefer}).headers


def events(client, url):
    """Events as a client of the wire sees them: (name, data)."""
    with client.stream("GET", f"{url}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = None
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_events_report_progress_until_the_end(models, state):
    with running(models, state=state) as client:
        url = queued(client, AUDITS, samples=3000)
        seen = list(events(client, url))
        assert [name for name, _ in seen] == ["progress"] * (len(seen) - 1) + ["end"]
        shares = [job["progress"] for _, job in seen]
        assert shares == sorted(shares)
        assert any(0 < share < 1 for share in shares)
        assert shares[-1] == 1
        assert seen[-1][1]["state"] == "done"
        assert "result" not in seen[-1][1]
        assert list(events(client, url)) == [seen[-1]]  # of what has ended, the end alone


def test_a_disconnected_watcher_does_not_affect_others(models, state, capsys):
    with running(models, state=state) as client:
        url = queued(client, AUDITS, **QUICK)
        for _ in range(3):
            next(events(client, url))
        assert ended(client, url)["state"] == "done"
    assert capsys.readouterr().err == ""


def test_cancelling_stops_the_work(models, state):
    with running(models, state=state) as client:
        running_url, queued_url = (queued(client, AUDITS, **QUICK) for _ in range(2))
        pid = stopped_worker(state)
        for url in (queued_url, running_url):
            assert client.delete(url).json()["state"] == "cancelled"
        eventually(lambda: pid not in workers(state))
        eventually(lambda: not list((state / "work").iterdir()))
        assert client.post(AUDITS, json=QUICK, headers={"Prefer": "wait=60"}).status_code == 200
        assert [client.get(url).json()["state"] for url in (queued_url, running_url)] == ["cancelled"] * 2


def test_cancelling_a_finished_job_changes_nothing(client):
    url = client.post(AUDITS, json=QUICK, headers={"Prefer": "wait=60"}).headers["content-location"]
    before = client.get(url).json()
    assert client.delete(url).json() == before == client.get(url).json()


def test_a_full_queue_is_reported(models, state):
    with running(models, state=state, max_queued=2) as client:
        first = queued(client, AUDITS, **QUICK)
        pid = stopped_worker(state)
        for _ in range(2):
            assert client.post(AUDITS, json=QUICK, headers=NO_WAIT).status_code == 202
        answer = client.post(AUDITS, json=QUICK, headers=NO_WAIT)
        check(answer, ProblemKind.QUEUE_FULL, reason="limit of queued jobs reached (2 queued)")
        assert 1 <= int(answer.headers["retry-after"]) <= 3600
        os.kill(pid, signal.SIGCONT)
        ended(client, first)
        eventually(lambda: client.post(AUDITS, json=QUICK, headers=NO_WAIT).status_code == 202)
        assert len(client.get("/v1/audits").json()["jobs"]) == 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_crash_of_a_worker_fails_its_job_alone(models, state, number):
    with running(models, state=state) as client:
        url, other = (queued(client, AUDITS, **QUICK) for _ in range(2))
        pid = stopped_worker(state)
        os.kill(pid, number)
        with suppress(ProcessLookupError):  # a stopped process heeds a SIGSEGV once it goes on
            os.kill(pid, signal.SIGCONT)
        job = ended(client, url)
        assert job["state"] == "failed"
        assert job["problem"]["type"] == "/problems/job-failed"
        assert job["problem"]["detail"] == f"the worker process was killed by signal {int(number)}"
        assert job["result"] is None
        assert ended(client, other)["state"] == "done"


def test_a_worker_that_cannot_be_started_fails_its_job_alone(models, state, monkeypatch, caplog):
    with running(models, state=state) as client:
        with monkeypatch.context() as patch:
            patch.setattr("service.sandbox.launch.sys.executable", "/nonexistent")
            answer = client.post(AUDITS, json=QUICK, headers={"Prefer": "wait=60"})
            check(answer, ProblemKind.JOB_FAILED, reason="no worker process could be run")
        assert client.post(AUDITS, json=QUICK, headers={"Prefer": "wait=60"}).status_code == 200
    assert "FileNotFoundError" in caplog.text


def test_a_waiting_request_gets_the_problem_of_a_failed_job(models, state):
    with running(models, state=state) as client:
        answers = []
        thread = Thread(
            target=lambda: answers.append(client.post(AUDITS, json=QUICK, headers={"Prefer": "wait=60"}))
        )
        thread.start()
        os.kill(stopped_worker(state), signal.SIGKILL)
        thread.join()
        check(answers[0], ProblemKind.JOB_FAILED, reason="killed by signal 9")


def test_a_job_that_takes_too_long_is_stopped(models, state):
    with running(models, state=state, job_seconds=1) as client:
        url = queued(client, AUDITS, **QUICK)
        pid = stopped_worker(state)
        reason = "the job was stopped at its time limit of 1 s (job_seconds)"
        assert ended(client, url)["problem"]["detail"] == reason
        assert pid not in workers(state)


def zeros_in_idx(folder, rows, side):
    """Images of bytes and labels, all 0, in files with holes, which take no space."""
    folder.mkdir(parents=True)
    for name, header, size in (
        ("t10k-images-idx3-ubyte", struct.pack(">4i", 2051, rows, side, side), side * side * rows),
        ("t10k-labels-idx1-ubyte", struct.pack(">2i", 2049, rows), rows),
    ):
        (folder / name).write_bytes(header)
        os.truncate(folder / name, len(header) + size)


def test_a_job_that_needs_too_much_memory_fails(models, state, tmp_path, capfd):
    # The labels alone, of eight bytes, are too many.
    zeros_in_idx(tmp_path / "data" / "large", 120_000_000, 1)
    with running(models, state=state, data=tmp_path / "data", job_bytes=2**29) as client:
        job = ended(client, queued(client, EVALUATIONS, path="large", epsilons=[0.1]))
    assert job["state"] == "failed"
    assert "MemoryError" in job["problem"]["detail"]
    assert "MemoryError" in capfd.readouterr().err


def test_data_may_be_larger_than_the_memory_of_a_job(models, state, tmp_path):
    rows, side, limit = 350_000, 28, 2**28
    assert rows * side**2 > limit
    zeros_in_idx(tmp_path / "data" / "large", rows, side)
    (models / "images.onnx").write_bytes(to_file(groupsort_net((side**2, 2), 10)))
    with running(models, state=state, data=tmp_path / "data", job_bytes=limit) as client:
        url = "/v1/models/images/evaluations"
        answer = client.post(url, json={"path": "large"}, headers={"Prefer": "wait=60"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["samples"] == rows


def test_a_result_outlasts_a_database_that_does_not_answer(models, state, monkeypatch, caplog):
    failures = [OSError("gone"), OSError("still gone")]

    def finish(self, *arguments, **values):
        if failures:
            raise failures.pop()
        return original(self, *arguments, **values)

    original = Store.finish
    monkeypatch.setattr(Store, "finish", finish)
    with running(models, state=state) as client:
        url = queued(client, AUDITS, **QUICK)
        assert ended(client, url)["state"] == "done"
    assert failures == []
    assert caplog.text.count("does not respond; trying again") == 2


def test_pages_hold_every_job_once_the_newest_first(models, state):
    with running(models, state=state) as client:
        made = [client.post(AUDITS, json=QUICK, headers=NO_WAIT).json()["id"] for _ in range(5)]
        path, seen, pages = "/v1/audits?limit=2", [], 0
        while path:
            page = client.get(path).json()
            seen += [job["id"] for job in page["jobs"]]
            path, pages = page["next"], pages + 1
        assert seen == made[::-1]
        assert pages == 3
        assert client.get("/v1/evaluations").json() == {"jobs": [], "next": None}
        for query in ("limit=0", "limit=101", "limit=x"):
            assert client.get(f"/v1/audits?{query}").status_code == 422
        assert client.get("/v1/audits?before=nope").status_code == 404


@pytest.mark.parametrize("path", ["/v1/audits/nope", "/v1/audits/nope/events", "/v1/evaluations/nope"])
def test_an_unknown_job_is_reported(client, path):
    check(client.get(path), ProblemKind.UNKNOWN_JOB, reason="has the id 'nope'")


def test_an_audit_is_no_evaluation(client):
    url = queued(client, AUDITS, **QUICK)
    check(client.get(url.replace("audits", "evaluations")), ProblemKind.UNKNOWN_JOB)


def test_a_stop_interrupts_running_jobs_and_keeps_queued_ones(models, state):
    with running(models, state=state) as client:
        first, second = (queued(client, AUDITS, **QUICK) for _ in range(2))
        stopped_worker(state)
    assert workers(state) == []
    with running(models, state=state) as client:
        interrupted = client.get(first).json()
        assert interrupted["state"] == "interrupted"
        assert interrupted["problem"]["type"] == "/problems/job-interrupted"
        assert ended(client, second)["state"] == "done"


def test_followers_do_not_hold_up_a_stop(models, state):
    with running(models, state=state, shutdown_seconds=60) as client:
        url = queued(client, AUDITS, **QUICK)
        stopped_worker(state)
        seen = []
        follower = httpx.Client(base_url=client.base_url, timeout=60)
        thread = Thread(target=lambda: seen.extend(events(follower, url)))
        thread.start()
        time.sleep(0.5)  # it follows by now
        begun = time.monotonic()
    assert time.monotonic() - begun < 30
    thread.join()
    follower.close()
    assert seen[-1][1]["state"] == "interrupted"


@pytest.mark.parametrize(
    ("jobs", "kills", "kind"),
    [
        pytest.param(6, 2, "sqlite", id="few"),
        pytest.param(20, 20, "sqlite", id="many", marks=pytest.mark.slow),
        pytest.param(20, 20, "postgresql", id="many-postgresql", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost_or_done_twice_when_the_server_is_killed(request, models, state, jobs, kills, kind):
    rng = random.Random(0)
    arguments = ["--models", models, "--state", state, "--port", 0]
    if kind == "postgresql":
        arguments += ["--database", new_database(request.getfixturevalue("postgresql"))]
    past = {}  # final jobs as first seen
    urls = []

    def look(url):
        with httpx.Client(base_url=url, timeout=60) as client:
            for job_url in urls:
                job = client.get(job_url).json()
                assert past.setdefault(job_url, job) == job or not past[job_url]["finished"]
                past[job_url] = job
        return all(job["finished"] for job in past.values())

    with lipserve(*arguments) as process:
        url = url_of(process)
        for seed in range(jobs):
            answer = httpx.post(url + AUDITS, json=QUICK | {"seed": seed}, headers=NO_WAIT)
            urls.append(answer.headers["location"])
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
    for _ in range(kills - 1):
        with lipserve(*arguments) as process:
            look(url_of(process))
            time.sleep(rng.uniform(0, 1.5))
            process.kill()
        if kind == "postgresql":
            continue
        with sqlite3.connect(state / "jobs.sqlite") as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with lipserve(*arguments) as process:
        url = url_of(process)
        eventually(lambda: look(url), 120)
    states = [past[job_url]["state"] for job_url in urls]
    assert set(states) <= {"done", "interrupted"}
    assert states.count("interrupted") <= kills
    assert len({job["id"] for job in past.values()}) == jobs
    for seed, job_url in enumerate(urls):
        job = past[job_url]
        assert job["parameters"]["seed"] == seed
        assert (job["result"] is not None) == (job["state"] == "done")
    eventually(lambda: workers(state) == [])
    assert list((state / "work").iterdir()) == []


def test_a_worker_dies_with_its_server(models, state):
    with lipserve("--models", models, "--state", state, "--port", 0) as process:
        httpx.post(url_of(process) + AUDITS, json={"samples": 10_000}, headers=NO_WAIT)
        pid = eventually(lambda: workers(state))[0]
        process.kill()
        eventually(lambda: pid not in workers(state))


def test_an_unusable_state_folder_is_reported(models, state, tmp_path):
    with running(models, state=state), pytest.raises(StoreError, match="in use by another server"):
        open_jobs(Settings(models=models, state=state))
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StoreError, match=r"jobs cannot be stored in .*; choose a writable folder with --state"
    ):
        open_jobs(Settings(models=models, state=tmp_path / "file"))
    (state / "jobs.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        open_jobs(Settings(models=models, state=state))
    for url, reason in [("nonsense", "URL is not valid"), ("mysql+pymysql://x", "database")]:
        with pytest.raises(StoreError, match=reason):
            open_jobs(Settings(models=models, state=tmp_path / "other", database=url))


def test_the_state_folder_is_beside_the_models_unless_named(tmp_path):
    assert Settings(models=tmp_path / "m").state_folder == tmp_path / "m.state"


def test_a_job_that_is_queued_is_promised_though_the_database_fails_then(models, monkeypatch):
    with running(models) as client:
        with monkeypatch.context() as patch:

            def fail(*_, **__):
                raise StoreError("gone")

            patch.setattr(Store, "get", fail)
            answer = client.post(AUDITS, json=QUICK)
            assert answer.status_code == 202
            assert answer.json()["state"] == "queued"
        assert ended(client, answer.headers["location"])["state"] == "done"
