"""A disk that takes no more: told with its cause, logged, seen by /readyz, and over when there is room again."""

import gzip
import io
import os
import resource
import signal
import struct
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from service.database.connect import StorageError, unusable
from service.problems import ProblemKind
from tests.service.conftest import digits, eventually, lipserve, stopped_worker, two_moons, url_of
from tests.service.test_bad_input import check

FULL = ProblemKind.INSUFFICIENT_STORAGE
MODEL = "/v1/models/two-moons"


@contextmanager
def no_room(pid):
    """Nothing can be written to any file of a process: its limit of their size is 0."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def npz(rows):
    file = io.BytesIO()
    np.savez(file, inputs=np.zeros((rows, 2)), labels=np.arange(rows) % 2)
    return file.getvalue()


def idx(*shape):
    return gzip.compress(
        struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
        + bytes(i % 2 for i in range(np.prod(shape)))
    )


def test_a_full_disk_is_reported_logged_and_seen_by_readiness(models, tmp_path):
    arguments = ("--models", models, "--state", tmp_path / "state", "--port", 0, "--uploads")
    with lipserve(*arguments) as process, httpx.Client(base_url=url_of(process), timeout=60) as client:
        asked = {
            "audit": lambda: client.post(f"{MODEL}/audits", json={"samples": 5}),
            "rows": lambda: client.post(f"{MODEL}/evaluations", json={"inputs": [[0, 0]], "labels": [0]}),
            "file": lambda: client.post(f"{MODEL}/evaluations", files={"data": npz(5)}),
            "large file": lambda: client.post(f"{MODEL}/evaluations", files={"data": npz(100_000)}),
            "images": lambda: client.post(
                f"{MODEL}/evaluations", files={"images": idx(5, 1, 2), "labels": idx(5)}
            ),
            "upload": lambda: client.put("/v1/models/new", content=digits()),
            "label": lambda: client.put(f"{MODEL}/labels/canary", json={"version": 1}),
            "unload": lambda: client.post("/v2/repository/models/two-moons/unload"),
        }
        with no_room(process.pid):
            for name, ask in asked.items():
                answer = ask()
                assert (name, answer.status_code) == (name, 507)
                check(answer, FULL)
            ready = eventually(lambda: (a := client.get("/readyz")).status_code == 503 and a)
            check(ready, ProblemKind.NOT_READY, reason="jobs cannot be stored: disk I/O error")
            assert str(tmp_path) not in ready.text
            assert client.post(f"{MODEL}/predict", json={"inputs": [[0, 0]]}).status_code == 200
        eventually(lambda: client.get("/readyz").status_code == 200)
        for name, ask in asked.items():
            assert (name, ask().status_code < 300) == (name, True)
        process.terminate()
        _, errors = process.communicate(timeout=30)
    for told in ("the data of the job cannot be written: File too large", "jobs cannot be stored: disk I/O error",
                 "the file of loads and unloads cannot be written: File too large", "jobs can be stored again"):  # fmt: skip
        assert told in errors
    assert errors.count("jobs cannot be stored") == 1
    assert "Traceback" not in errors


def test_a_full_sqlite_database_is_distinguished_from_one_that_does_not_answer(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'full.sqlite'}")
    with engine.connect() as connection:
        for statement in ("CREATE TABLE t (x BLOB)", "PRAGMA max_page_count = 3"):
            connection.exec_driver_sql(statement)
        with pytest.raises(OperationalError) as caught:
            connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(100000))")
        full = unusable(caught.value)
        assert isinstance(full, StorageError)
        assert full.cause == "database or disk is full"
        with pytest.raises(OperationalError) as caught:
            connection.exec_driver_sql("SELECT * FROM nothing")
        assert not isinstance(unusable(caught.value), StorageError)


def test_a_job_that_finds_the_disk_full_says_so(serve, tmp_path):
    state = tmp_path / "state"
    client = serve({"two-moons": two_moons()}, state=state)
    asked = {"inputs": [[0, 0]], "labels": [0], "report": True}
    place = client.post(f"{MODEL}/evaluations", json=asked, headers={"Prefer": "respond-async"}).headers[
        "location"
    ]
    pid = stopped_worker(state)
    with no_room(pid):
        os.kill(pid, signal.SIGCONT)
        job = eventually(lambda: (job := client.get(place).json())["state"] == "failed" and job)
        assert (job["problem"]["type"], job["problem"]["detail"]) == (FULL.uri, "File too large")
