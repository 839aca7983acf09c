"""Nothing of what is sent stands in the log: neither inputs nor credentials, not even where they are bad."""

import io
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import httpx
import numpy as np

from service.auth.api_keys import KeyStore
from service.auth.scopes import Scope
from tests.service.conftest import eventually, lipserve, state_beside, url_of

NUMBER, TEXT = 0.7071234567890123, "marked-by-the-test"
JSON = {"Content-Type": "application/json"}
MARKS = ("7071234567890123", TEXT)


def test_nothing_of_inputs_and_credentials_is_logged(models):
    state = state_beside(models)
    key = KeyStore(f"sqlite:///{state / 'jobs.sqlite'}").create("a", [Scope.ADMIN])
    secret = key.split("_", 2)[2]
    array = io.BytesIO()
    np.savez(array, inputs=np.array([[NUMBER, 1.0]]), labels=np.array([5]))
    with lipserve("--models", models, "--state", state, "--port", 0, "--max-body-bytes", 2000) as process:
        base = f"{url_of(process)}/v1/models/two-moons"
        client = httpx.Client(headers={"Authorization": f"Bearer {key}", "Prefer": "wait=60"}, timeout=60)
        row = [NUMBER, 0.5]
        statuses = [
            client.post(f"{base}/predict", **body).status_code
            for body in (
                {"json": {"inputs": [row]}},
                {"json": {"inputs": [row, [NUMBER]]}},
                {"json": {"inputs": [[NUMBER * 1e300, 1]]}},
                {"json": {"inputs": [[TEXT, NUMBER]]}},
                {"json": {"inputs": [row], TEXT: NUMBER}},
                {"json": {"inputs": [row], "norm": TEXT}},
                {"content": f'{{"inputs": [[{NUMBER}, "{TEXT}', "headers": JSON},
                {"content": f"{TEXT} {NUMBER}", "headers": {"Content-Type": "text/plain"}},
                {"content": b"\xff" + TEXT.encode(), "headers": JSON},
                {"json": {"inputs": [row] * 200}},
                {"json": {"inputs": [row]}, "headers": {"Authorization": f"Bearer {TEXT}"}},
                {"json": {"inputs": [row]}, "headers": {"Authorization": f"Bearer {key[:-1]}"}},
                {"json": {"inputs": [row]}, "params": {"key": TEXT}},
            )
        ]
        assert statuses == [200, 422, 422, 422, 422, 422, 400, 415, 400, 413, 401, 401, 200]
        for body in (
            {"files": {"data": (f"{TEXT}.npz", array.getvalue())}},
            {"files": {"data": (f"{TEXT}.npz", array.getvalue()[:-50])}},
            {"files": {"data": ("a.csv", f"a,label\n{NUMBER},{TEXT}\n")}},
            {"files": {TEXT: ("a", b"x")}},
            {"content": f"--x\r\n{TEXT}", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            {"json": {"path": f"../{TEXT}"}},
            {"json": {"inputs": [row], "labels": [7]}},
        ):
            answer = client.post(f"{base}/evaluations", **body)
            assert 400 <= answer.status_code < 500, (body, answer.text)
        assert client.post(f"{base}/audits", json={"inputs": [row], "samples": 10}).status_code == 200
        client.close()
        process.send_signal(signal.SIGTERM)
        log = "".join(process.communicate(timeout=60))
    for mark in (*MARKS, secret):
        assert mark not in log


def test_a_fault_in_a_job_logs_only_type_and_place(tmp_path):
    script = (
        "import sys, service.sandbox.worker as worker\n"
        f"def fail(*_): raise ValueError('{TEXT}')\n"
        "worker._run = fail\n"
        f"sys.argv = ['worker', {str(tmp_path)!r}, str(2**33)]\n"
        "worker.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        said, log = process.stdout.read(), process.stderr.read()
    assert b"ValueError" in log
    assert b"in fail" in log
    assert TEXT.encode() not in log + said


def test_a_name_of_a_file_forges_no_line_of_the_log(models):
    forged = "2026-01-01T00:00:00.000+00:00 info service.auth.authenticator request status=200"
    names = [
        f"a\n{forged}",
        f"b\r{forged}",
        f"c\x1b[2K{forged}",
        f"d\u2028{forged}",
        f"e\x85{forged}",
        os.fsdecode(b"\xff"),
    ]
    for name in names[::2]:
        (models / f"{name}.onnx").write_bytes(b"x")
    with lipserve("--models", models, "--port", 0, "--poll-seconds", 0.05) as process:
        url = url_of(process)
        for name in names[1::2]:
            (models / f"{name}.onnx").write_bytes(b"x")
        eventually(lambda: len(httpx.get(f"{url}/v1/models").json()["models"]) == 1 + len(names))
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert log.count("refused") >= len(names)
    for line in log.splitlines():
        assert line.startswith(("lipserve: ", f"{datetime.now(UTC).year}-")), line
        assert line.isprintable()
        assert not line.startswith(forged)
