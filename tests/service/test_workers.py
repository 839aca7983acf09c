"""Several processes behind one address, as a command that really runs."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.conftest import PREDICT, command, eventually, lipserve, url_of

AUDITS = "/v1/models/two-moons/audits"
BODY = {"inputs": [[0.5, 0.25]]}


@pytest.fixture
def arguments(models, tmp_path):
    return ["--models", models, "--state", tmp_path / "state", "--port", 0, "--drain-seconds", 0]


def children(pid):
    """Process ids of the workers of a supervisor."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def worker_of(answer):
    return answer.headers["x-request-id"].partition("-")[0]


def asked(url, times=40):
    """One request each over so many connections; ids of the workers that answered."""
    found = []
    for _ in range(times):
        answer = httpx.post(url + PREDICT, json=BODY)
        assert answer.status_code == 200
        found.append(worker_of(answer))
    return set(found)


def counted(url):
    seen = {}
    for family in text_string_to_metric_families(httpx.get(url + "/metrics").text):
        for sample in family.samples:
            if sample.labels.get("route", "").endswith("/predict") or not sample.labels:
                seen[sample.name] = sample.value
    return seen


def test_all_workers_answer_and_each_reports_the_sum(arguments):
    with lipserve(*arguments, "--workers", 3) as process:
        url = url_of(process)
        assert len(children(process.pid)) == 3
        assert len(asked(url)) == 3
        eventually(lambda: counted(url)["lipserve_requests_total"] == 40)
        assert counted(url)["lipserve_workers"] == 3
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_a_worker_that_dies_is_started_again_and_nothing_is_forgotten(arguments):
    with lipserve(*arguments, "--workers", 2) as process:
        url = url_of(process)
        asked(url)
        eventually(lambda: counted(url)["lipserve_requests_total"] == 40)
        time.sleep(1.1)  # both have written
        before = children(process.pid)
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: len(set(children(process.pid)) - set(before)) == 1)
        eventually(lambda: len(asked(url, 10)) == 2)
        eventually(lambda: counted(url)["lipserve_requests_total"] >= 50)
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert "was killed by signal 9 and is restarted" in errors
    assert process.returncode == 0


def test_workers_that_keep_dying_end_the_service(arguments):
    with lipserve(*arguments, "--workers", 2) as process:
        url_of(process)
        while process.poll() is None:
            for pid in children(process.pid) if Path(f"/proc/{process.pid}/task").exists() else []:
                if process.poll() is None:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Error: workers died 6 times within 60 s" in errors
    assert "Traceback" not in errors


def test_workers_end_when_their_supervisor_is_killed(arguments):
    with lipserve(*arguments, "--workers", 2) as process:
        url_of(process)
        pids = children(process.pid)
        process.kill()
        process.wait()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_worker_that_cannot_start_is_reported(arguments, tmp_path):
    (tmp_path / "state").write_text("")
    with lipserve(*arguments, "--workers", 2, approved=False) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "jobs cannot be stored in" in errors
    assert "Traceback" not in errors


def test_a_port_in_use_is_reported_with_several_workers_too(arguments):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = command(*arguments, "--workers", 2, "--port", taken.getsockname()[1])
    assert refused.exit_code == 1
    assert "Address already in use" in refused.stderr


def test_a_job_is_seen_and_cancelled_by_any_of_them(arguments):
    with lipserve(*arguments, "--workers", 2) as process:
        url = url_of(process)
        made, owners = [], set()
        while len(owners) < 2:
            answer = httpx.post(
                url + AUDITS, json={"samples": 20, "seed": len(made)}, headers={"Prefer": "wait=0"}
            )
            assert answer.status_code == 202
            owners.add(worker_of(answer))
            made.append(answer.headers["location"])
        for place in made:
            seen = set()

            def ended(place=place, seen=seen):
                answer = httpx.get(url + place)
                assert answer.status_code == 200
                seen.add(worker_of(answer))
                return answer.json()["state"] == "done" and len(seen) == 2

            eventually(ended)
        place = httpx.post(url + AUDITS, json={"samples": 10_000}, headers={"Prefer": "wait=0"}).headers[
            "location"
        ]
        states = {httpx.delete(url + place).json()["state"] for _ in range(8)}
        assert states == {"cancelled"}
        assert len(httpx.get(url + "/v1/audits").json()["jobs"]) == len(made) + 1
        process.terminate()


def test_nothing_temporary_is_left_by_a_service_that_was_killed(arguments, tmp_path):
    temporary, metrics = tmp_path / "tmp", tmp_path / "state" / "metrics"
    temporary.mkdir()
    with lipserve(*arguments, "--workers", 2, TMPDIR=str(temporary)) as process:
        url_of(process)
        pids = children(process.pid)
        process.kill()
        process.wait()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert list(temporary.iterdir()) == []
    assert len(list(metrics.iterdir())) == 1
    with lipserve(*arguments, "--workers", 2) as process:
        url_of(process)
        assert len(list(metrics.iterdir())) == 1  # none of the run before
        process.terminate()
        process.communicate(timeout=30)
    assert list(metrics.iterdir()) == []


def test_an_unload_and_a_load_reach_all_of_them(arguments):
    def answered(url, status):
        seen = [httpx.post(url + PREDICT, json=BODY) for _ in range(20)]
        return {answer.status_code for answer in seen} == {status} and len(set(map(worker_of, seen))) == 2

    repository = "/v2/repository/models/two-moons/"
    arguments += ["--workers", 2, "--poll-seconds", 0.1, "--uploads"]
    with lipserve(*arguments) as process:
        url = url_of(process)
        assert httpx.post(url + repository + "unload").status_code == 200
        eventually(lambda: answered(url, 409))
        before = children(process.pid)
        os.kill(before[1], signal.SIGKILL)
        eventually(lambda: len(set(children(process.pid)) - set(before)) == 1)
        eventually(lambda: answered(url, 409))
        process.terminate()
        process.communicate(timeout=30)
    with lipserve(*arguments) as process:
        url = url_of(process)
        assert answered(url, 409)
        assert httpx.post(url + repository + "load").status_code == 200
        eventually(lambda: answered(url, 200))


def test_many_processes_write_one_sqlite_file_and_lose_nothing(tmp_path):
    script = (
        "import sys, time; from service.jobs.store import Job, State, Store\n"
        "url, server = sys.argv[1:]\n"
        "store = Store(url, server)\n"
        "for i in range(60):\n"
        "    id = f'{server}{i:03}'\n"
        "    store.add(Job(id, 'audit', 'm', 'x', '{}', State.QUEUED, 0.0, server, time.time()))\n"
        "    store.beat(); assert store.start(id); store.set_progress(id, 0.5); store.prune(10_000)\n"
        "    assert store.finish(id, State.DONE, result='{}')\n"
    )
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    writers = [subprocess.Popen([sys.executable, "-c", script, url, name]) for name in "abcd"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0, 0]
    from service.jobs.store import State, Store

    store = Store(url, "e")
    assert store.count()[State.DONE] == 240
    store.close()
