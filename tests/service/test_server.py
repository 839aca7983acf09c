"""The end of a serving process: nothing that was accepted is lost."""

import asyncio
import json
import signal
import time

import httpx
import pytest

from benchmarks.drain import drain_once, predict_request
from tests.networks import convolutional_net, to_file
from tests.service.conftest import (
    HEALTH,
    connected,
    eventually,
    lipserve,
    post,
    rest,
    running,
    stopped_worker,
    two_moons,
    url_of,
)


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(two_moons())
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_accepted_is_lost_under_load(models, workers):
    request = predict_request(models / "model.onnx")
    outcome = asyncio.run(drain_once(models, request, clients=16, workers=workers, seconds=0.5))
    assert outcome.losses == []
    assert outcome.counts["answered"] > 20
    assert outcome.after_signal > 0
    assert outcome.status == 0


def test_a_drain_answers_what_comes_says_it_is_not_ready_and_closes_connections(models):
    with lipserve("--models", models, "--port", 0, "--drain-seconds", 30) as process:
        url = url_of(process)
        with httpx.Client(base_url=url) as kept, connected(url) as idle:
            assert kept.get("/readyz").status_code == 200
            process.send_signal(signal.SIGTERM)
            eventually(lambda: httpx.get(url + "/readyz").status_code == 503)
            told = kept.get("/readyz")
            assert told.json()["type"] == "/problems/not-ready"
            assert told.headers["connection"] == "close"
            assert httpx.post(url + "/v1/models/model/predict", json={"inputs": [[0, 1]]}).status_code == 200
            idle.sendall(HEALTH)
            assert b"alive" in rest(idle)
        assert process.wait(timeout=20) == 0  # with the last connection, not after 30 s


def test_what_waits_in_the_queue_of_the_socket_is_answered(models):
    with lipserve("--models", models, "--port", 0, "--drain-seconds", 0) as process:
        url = url_of(process)
        process.send_signal(signal.SIGSTOP)  # the system goes on accepting
        waiting = [connected(url) for _ in range(20)]
        for connection in waiting:
            connection.sendall(HEALTH)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        answers = [rest(connection) for connection in waiting]
        for connection in waiting:
            connection.close()
        assert all(b"alive" in answer for answer in answers)
        assert process.wait(timeout=20) == 0


def test_a_request_that_never_ends_is_given_up_in_time(models):
    with lipserve("--models", models, "--port", 0, "--drain-seconds", 0, "--shutdown-seconds", 1) as process:
        url = url_of(process)
        with connected(url) as connection:
            connection.sendall(post(b"{", "/v1/models/model/predict", length=100))
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0


def test_threads_that_compute_do_not_hold_up_the_end(models):
    """Each of these requests takes half a minute, and its client waits for it."""
    (models / "slow.onnx").write_bytes(to_file(convolutional_net()))
    options = ("--port", 0, "--tighten-seconds", 600, "--drain-seconds", 0, "--shutdown-seconds", 1)
    with lipserve("--models", models, *options) as process:
        url = url_of(process)
        body = json.dumps({"inputs": [[0.5] * 784] * 10, "tighten": True}).encode()
        with connected(url) as one, connected(url) as other:
            for connection in (one, other):
                connection.sendall(post(body, "/v1/models/slow/predict"))
            eventually(lambda: "lipserve_in_flight_requests 3.0" in httpx.get(url + "/metrics").text)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0
            assert rest(one) == rest(other) == b""


@pytest.mark.parametrize("workers", [1, 2])
def test_whoever_waits_for_a_job_is_answered_at_once(models, tmp_path, workers):
    state = tmp_path / "state"
    arguments = ["--models", models, "--port", 0, "--state", state, "--workers", workers]
    with lipserve(*arguments) as process:
        url = url_of(process)
        with connected(url) as connection:
            connection.sendall(post(b'{"samples": 10000}', "/v1/models/model/audits", "Prefer: wait=60"))
            stopped_worker(state)
            process.send_signal(signal.SIGTERM)
            answer = rest(connection)
        assert process.wait(timeout=20) == 0
    assert b" 202 " in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["state"] in ("running", "interrupted")


def test_readiness_tells_of_models_engine_and_database(models, monkeypatch):
    monkeypatch.setattr("service.jobs.queue.PROBE_SECONDS", 0.0)
    with running(models) as client:
        assert client.get("/readyz").json().items() >= {"status": "ready", "served": 1, "refused": 0}.items()
        with monkeypatch.context() as patch:
            patch.setattr("service.inference.engine.Engine.alive", lambda _: False)
            assert client.get("/readyz").json()["detail"] == "predictions cannot be run"

        def fail(*_):
            raise OSError("gone")

        with monkeypatch.context() as patch:
            for method in ("beat", "count"):
                patch.setattr(f"service.jobs.store.Store.{method}", fail)
            assert client.get("/readyz").json()["detail"] == "the database of jobs does not respond"
            text = client.get("/metrics").text
            assert "lipserve_database_up 0.0" in text
            assert client.post("/v1/models/model/predict", json={"inputs": [[0, 1]]}).status_code == 200
        assert client.get("/readyz").status_code == 200
