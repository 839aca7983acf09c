"""New files: whatever harm they do to the process that reads them is limited to the isolated checker."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import httpx
import pytest
from onnx import TensorProto, helper
from sqlalchemy import create_engine, text

from lipmodel.errors import FileFormatError
from service.models.checks import SLICES, Checks
from service.models.load_requests import LoadRequests
from service.models.verdicts import Verdict, Verdicts
from service.models.watcher import Models
from service.problems import ProblemKind
from service.sandbox.checker_process import CheckerProcess
from service.sandbox.resources import UNLIMITED, memory_left
from tests.service.conftest import digits, eventually, lipserve, running, two_moons, url_of
from tests.service.test_bad_input import check
from tests.service.test_watching import external, moons, put

HARMFUL = """
import ctypes, os, signal
from service.sandbox import checker

def forever(path):
    while True:
        pass

def exhaust(path):
    kept = bytearray(2**40)

def overflow(path):
    overflow(path)

def write_to_zero(path):
    ctypes.string_at(0)

HARM = {
    "SIGFPE": lambda path: os.kill(os.getpid(), signal.SIGFPE),
    "SIGSEGV": write_to_zero,
    "SIGABRT": lambda path: os.abort(),
    "seconds": forever,
    "max_bytes": exhaust,
    "killed": lambda path: os.kill(os.getpid(), signal.SIGKILL),
    "raises": lambda path: 1 // 0,
    "recursion": overflow,
    "silent": lambda path: os._exit(0),
}
real = checker.read_onnx
checker.read_onnx = lambda path: HARM.get(path.stem, real)(path)
checker.main()
"""
"""A checker with a reader that does the harm named by the file."""


def answers(paths, seconds=20.0, left=2**30, script=HARMFUL):
    """Return one checker's answers on several files."""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        for path in paths:
            task = {"path": str(path), "seconds": seconds, "max_bytes": 2**30, "left": left}
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            yield json.loads(process.stdout.readline())
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_crash_of_a_check_is_reported_and_the_next_file_is_checked(tmp_path):
    expected = {
        **{
            name: {"reason": f"reading it crashes the process that checks it ({name})"}
            for name in ("SIGFPE", "SIGSEGV", "SIGABRT")
        },
        "seconds": {"ran_out": "seconds"},
        **{name: {"ran_out": "max_bytes"} for name in ("max_bytes", "killed", "silent")},
        "raises": {"reason": "it cannot be read: ZeroDivisionError (see the service's log)"},
        "recursion": {"reason": "it cannot be read: RecursionError (see the service's log)"},
    }
    for name in (*expected, "good"):
        (tmp_path / f"{name}.onnx").write_bytes(two_moons())
    told = answers([tmp_path / f"{name}.onnx" for name in (*expected, "good")], seconds=1.0)
    for name, answer in zip((*expected, "good"), told, strict=True):
        assert answer.items() >= expected.get(name, {}).items(), name
        assert ("sha256" in answer) == (name == "good"), name


def test_memory_is_limited_to_what_the_container_has_left(tmp_path):
    put(tmp_path / "good.onnx", two_moons())
    for left, accepted in [(2**16, False), (2**28, True)]:
        (answer,) = answers([tmp_path / "good.onnx"], left=left)
        assert ("sha256" in answer) == accepted
        assert left < answer["max_bytes"] < left + 2**28
        assert accepted or answer["ran_out"] == "max_bytes"


def test_a_process_that_may_have_less_memory_already_checks_within_that(tmp_path):
    """As under ``ulimit -d`` and systemd's LimitDATA, which no process may raise again."""
    put(tmp_path / "good.onnx", two_moons())
    script = f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, 2 * [{2**29}])\n{HARMFUL}"
    (answer,) = answers([tmp_path / "good.onnx"], script=script)
    assert "sha256" in answer
    assert answer["max_bytes"] == 2**29


def test_nothing_lives_on_when_the_server_or_the_checker_dies(tmp_path):
    """The fork is in an endless loop that holds the interpreter."""
    put(tmp_path / "seconds.onnx", two_moons())
    task = json.dumps(
        {"path": str(tmp_path / "seconds.onnx"), "seconds": 600, "max_bytes": 2**30, "left": 2**30}
    )
    for die in ("stdin", "group"):
        process = subprocess.Popen(
            [sys.executable, "-c", HARMFUL], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        process.stdin.write(task + "\n")
        process.stdin.flush()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        fork = int(eventually(lambda children=children: children.read_text().split())[0])
        process.stdin.close() if die == "stdin" else os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        eventually(lambda fork=fork: not os.path.exists(f"/proc/{fork}") or zombie(fork), 30)
        process.stdin.close()


def test_a_process_in_a_session_of_its_own_gives_way_all_the_same():
    """Its niceness counts within its session alone, where the kernel groups processes by session."""
    script = "from service.sandbox.resources import lower_priority; lower_priority(); print(open('/proc/self/autogroup').read())"
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel does not group processes by session")
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True, check=True
    )
    assert ran.stdout.split()[-2:] == ["nice", "10"]


def zombie(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def verdicts(tmp_path):
    kept = Verdicts(f"sqlite:///{tmp_path / 'verdicts.sqlite'}")
    yield kept
    kept.close()


@pytest.fixture
def checks(verdicts):
    checks = Checks(verdicts, seconds=30, max_bytes=2**30)
    yield checks
    checks.stop()


def look(checks, path):
    """The verdict on a file, checked where it has none."""
    file = checks.look_up(path)
    return file.verdict or checks.submit(file).result(60)


def test_a_verdict_is_of_the_files_content_and_is_kept(checks, verdicts, tmp_path):
    put(tmp_path / "m.onnx", two_moons())
    put(tmp_path / "bad.onnx", b"garbage")
    assert look(checks, tmp_path / "m.onnx") == Verdict()
    assert look(checks, tmp_path / "bad.onnx").reason.startswith("not an ONNX model")
    other = Checks(Verdicts(f"sqlite:///{tmp_path / 'verdicts.sqlite'}"), seconds=30, max_bytes=2**30)
    (tmp_path / "bad.onnx").rename(tmp_path / "moved.onnx")
    assert other.look_up(tmp_path / "m.onnx").verdict == Verdict()
    assert other.look_up(tmp_path / "moved.onnx").verdict.reason.startswith("not an ONNX model")
    other.forget(tmp_path / "m.onnx")
    assert other.look_up(tmp_path / "m.onnx").verdict is None
    assert checks.look_up(tmp_path / "m.onnx").verdict is None
    other._verdicts.close()


def test_a_verdict_covers_the_weight_files_beside_a_model(checks, tmp_path):
    content, weights = external(moons(1), "weights.bin")
    put(tmp_path / "m.onnx", content)
    assert "cannot be read" in look(checks, tmp_path / "m.onnx").reason  # and is not, ever after:
    put(tmp_path / "weights.bin", weights)
    assert look(checks, tmp_path / "m.onnx") == Verdict()
    assert checks.look_up(tmp_path / "m.onnx").locations == ("weights.bin",)
    put(tmp_path / "weights.bin", weights[:-4])
    assert checks.look_up(tmp_path / "m.onnx").verdict is None
    assert "which has only" in look(checks, tmp_path / "m.onnx").reason
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(2**40)  # it holds no more than its length
    assert look(checks, tmp_path / "m.onnx").reason is not None


def test_weights_behind_links_in_a_circle_are_refused_once(checks, tmp_path):
    put(tmp_path / "m.onnx", external(moons(1), "weights.bin")[0])
    (tmp_path / "weights.bin").symlink_to(tmp_path / "weights.bin")
    assert "cannot be read" in look(checks, tmp_path / "m.onnx").reason
    assert "cannot be read" in checks.look_up(tmp_path / "m.onnx").verdict.reason


def test_a_check_that_fails_is_repeated_by_the_next_poll(checks, tmp_path, monkeypatch, caplog):
    asked = []

    def ask(self, path, **limits):
        asked.append(path)
        raise OSError("no process can be run")

    monkeypatch.setattr(CheckerProcess, "check", ask)
    put(tmp_path / "models" / "m.onnx", two_moons())
    models = Models(tmp_path / "models", checks, LoadRequests(tmp_path / "loads.json"))
    for looks in (1, 2):
        eventually(lambda: all(p.check.done() for p in models._pending.values()))
        for _ in range(3):
            models._reload_checked()
        assert len(asked) == looks
        models.poll()
    assert "m.onnx could not be checked: no process can be run" in caplog.text


def test_a_cancelled_wait_does_not_cancel_the_check(checks, tmp_path):
    put(tmp_path / "m.onnx", two_moons())
    verdict = checks.submit(checks.look_up(tmp_path / "m.onnx"))

    async def give_up():
        asyncio.wrap_future(verdict).cancel()

    asyncio.run(give_up())
    assert verdict.result(60) == Verdict()


def test_a_file_that_is_replaced_while_it_is_checked_has_no_verdict(checks, verdicts, tmp_path, monkeypatch):
    put(tmp_path / "m.onnx", two_moons())
    file = checks.look_up(tmp_path / "m.onnx")
    ask = CheckerProcess.check

    def replaced(self, *arguments, **limits):
        answer = ask(self, *arguments, **limits)
        put(tmp_path / "m.onnx", digits())
        return answer

    monkeypatch.setattr(CheckerProcess, "check", replaced)
    with pytest.raises(FileFormatError, match="was replaced"):
        checks.submit(file).result(60)
    assert verdicts.get(file.digest) is None


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_pipe_in_place_of_a_file_being_checked_does_not_block(checks, tmp_path, monkeypatch, kind):
    """A pipe would be waited for, and a device read, for ever: no other file would be checked."""
    put(tmp_path / "m.onnx", two_moons())
    ask = CheckerProcess.check

    def replaced(self, path, **limits):
        answer = ask(self, path, **limits)
        if path.name == "m.onnx":
            path.unlink()
            {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
        return answer

    monkeypatch.setattr(CheckerProcess, "check", replaced)
    with pytest.raises(FileFormatError, match=r"not a regular file|directory"):
        checks.submit(checks.look_up(tmp_path / "m.onnx")).result(20)
    put(tmp_path / "other.onnx", two_moons())
    assert look(checks, tmp_path / "other.onnx") == Verdict()


def test_files_that_ran_into_a_limit_are_checked_again_under_a_larger_one(tmp_path, verdicts):
    put(tmp_path / "m.onnx", two_moons())
    small = Checks(verdicts, seconds=1, max_bytes=2**28)
    digest = small.look_up(tmp_path / "m.onnx").digest
    for verdict in (Verdict("slow", seconds=1), Verdict("large", max_bytes=2**28)):
        verdicts.put(digest, verdict)
        assert small.look_up(tmp_path / "m.onnx").verdict == verdict
        assert Checks(verdicts, seconds=2, max_bytes=2**30).look_up(tmp_path / "m.onnx").verdict is None


def test_verdicts_of_another_reader_do_not_count_and_old_ones_go(verdicts, tmp_path, monkeypatch):
    verdicts.put("0" * 64, Verdict())
    monkeypatch.setattr("service.models.verdicts.READER", "another")
    assert verdicts.get("0" * 64) is None
    monkeypatch.setattr("service.models.verdicts.MAX_STORED", 5)
    for i in range(8):
        verdicts.put(f"{i:064}", Verdict())
    engine = create_engine(f"sqlite:///{tmp_path / 'verdicts.sqlite'}")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM verdicts")).scalar() == 5
    engine.dispose()


def test_verdicts_that_cannot_be_written_stand_here_and_are_written_later(verdicts, tmp_path, caplog):
    """Else a process that does not check itself would wait for a verdict for ever."""
    engine = create_engine(f"sqlite:///{tmp_path / 'verdicts.sqlite'}")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE verdicts RENAME TO elsewhere"))
    verdicts.put("0" * 64, Verdict("bad"))
    verdicts.put("1" * 64, Verdict())
    verdicts.put("2" * 64, Verdict())
    assert verdicts.get("0" * 64) == Verdict("bad")
    assert "is not stored beyond this process" in caplog.text
    verdicts.forget("2" * 64)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO verdicts"))
    engine.dispose()
    verdicts.write()
    assert [verdicts.get(f"{i}" * 64) for i in range(3)] == [Verdict("bad"), Verdict(), None]


def test_verdicts_reached_without_a_database_are_written_later(tmp_path):
    put(tmp_path / "models" / "m.onnx", two_moons())
    url = f"sqlite:///{tmp_path / 'state' / 'jobs.sqlite'}"
    with running(tmp_path / "models", state=tmp_path / "state", poll_seconds=0.05) as client:
        engine, other = create_engine(url), Verdicts(url)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE verdicts RENAME TO elsewhere"))
        put(tmp_path / "models" / "new.onnx", digits())
        eventually(lambda: client.get("/v1/models/new").json()["status"] == "served")
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO verdicts"))
        digest = client.get("/v1/models/new").json()["sha256"]
        assert eventually(lambda: other.get(digest)) == Verdict()
        engine.dispose()
        other.close()


def test_quick_files_do_not_wait_for_slow_ones_and_nothing_is_checked_twice(verdicts, tmp_path, monkeypatch):
    """Twenty files that hang come first, then two quick ones; the requested slices stand for time."""
    asked, lock = [], threading.Lock()

    def ask(self, path, *, seconds, **limits):
        with lock:
            asked.append((path.stem, seconds))
        slow = path.stem.startswith("slow")
        return {"ran_out": "seconds"} if slow else {"sha256": checks.look_up(path).digest}

    monkeypatch.setattr(CheckerProcess, "check", ask)
    checks = Checks(verdicts, seconds=60, max_bytes=2**30)
    names = [f"slow{i:02}" for i in range(20)] + ["quick1", "quick2"]
    for name in names:
        put(tmp_path / f"{name}.onnx", name.encode())
    futures = {}
    with checks._changed:  # none begins before all are there
        for name in names:
            file = checks.look_up(tmp_path / f"{name}.onnx")
            futures[name] = checks.submit(file)
            assert checks.submit(file) is futures[name]
    reasons = {name: future.result(30).reason for name, future in futures.items()}
    checks.stop()
    assert [name for name, reason in reasons.items() if reason is None] == ["quick1", "quick2"]
    assert "more than the limit of 60 s" in reasons["slow00"]
    assert {n for n, s in asked[:22]} == set(names)  # each had its first slice before any had a second
    assert sorted(s for n, s in asked if n == "slow07") == [*SLICES, 60]
    assert len(asked) == 62


def test_memory_left_is_the_least_of_all_groups(tmp_path):
    process = tmp_path / "cgroup"
    for version, (name, limit, used, cache) in enumerate(
        [
            ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            ("", "memory.max", "memory.current", "inactive_file"),
        ]
    ):
        root = tmp_path / f"v{version + 1}"
        group = root / name / "outer" / "inner"
        group.mkdir(parents=True)
        process.write_text(f"7:{name}:/outer/inner\n" if name else "0::/outer/inner\n")
        assert 0 < memory_left(root, process) < UNLIMITED  # of the machine
        for folder, most, now in [(group, 2**29, 2**28), (group.parent, 2**28, 2**27)]:
            (folder / limit).write_text(f"{most}\n")
            (folder / used).write_text(f"{now}\n")
        assert memory_left(root, process) == 2**27
        (group.parent / "memory.stat").write_text(f"{cache} 4096\nactive_file 7\n")
        assert memory_left(root, process) == 2**27 + 4096
        (group.parent / used).write_text(f"{2**30}\n")
        assert memory_left(root, process) == 0
    process.write_text("0::/elsewhere\n")  # in a container whose own group is mounted as the root
    (tmp_path / "v2" / "memory.max").write_text(f"{2**26}")
    (tmp_path / "v2" / "memory.current").write_text("0")
    assert memory_left(tmp_path / "v2", process) == 2**26


def division():
    """The least integer by -1: 185 bytes that end the process where they are divided natively."""
    constants = [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("a", -(2**63)), ("b", -1))]
    nodes = [helper.make_node("Div", ["a", "b"], ["c"]), helper.make_node("Reshape", ["x", "c"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def test_a_file_that_crashes_its_reader_does_not_crash_the_server(tmp_path):
    """Dropped while it serves, and there at the next start; the checker's reader dies of one by its name."""
    put(tmp_path / "models" / "m.onnx", two_moons())
    arguments = ["--models", tmp_path / "models", "--port", 0, "--poll-seconds", 0.1]
    for _ in range(2):
        with lipserve(*arguments, approved=False) as process:
            url = url_of(process)
            put(tmp_path / "models" / "division.onnx", division())

            def refused(url=url):
                model = httpx.get(f"{url}/v1/models/division").json()
                return model.get("status") == "refused" and model["reason"]

            assert eventually(refused)
            answer = httpx.post(f"{url}/v1/models/m/predict", json={"inputs": [[0, 1]]})
            assert answer.status_code == 200
            assert process.poll() is None


def test_new_files_are_reported_as_checking_while_known_ones_are_served(tmp_path, monkeypatch):
    go_on = threading.Event()
    ask = CheckerProcess.check

    def wait(self, *arguments, **limits):
        assert go_on.wait(60)
        return ask(self, *arguments, **limits)

    monkeypatch.setattr(CheckerProcess, "check", wait)
    folder = tmp_path / "models"
    put(folder / "known.onnx", two_moons())
    with running(folder, poll_seconds=0.05) as client:
        assert client.get("/readyz").json()["checking"] == 0
        put(folder / "new.onnx", moons(1))
        put(folder / "known" / "2" / "model.onnx", moons(2))
        listed = eventually(
            lambda: [m for m in client.get("/v1/models").json()["models"] if m["status"] == "checking"]
        )
        assert listed[0]["name"] == "new"
        assert "being checked" in listed[0]["reason"]
        known = eventually(lambda: (m := client.get("/v1/models/known").json())["versions"][1:] and m)
        assert (known["version"], known["fault"]) == ("1", None)
        assert [v["status"] for v in known["versions"]] == ["served", "checking"]
        assert client.post("/v1/models/known/predict", json={"inputs": [[0, 1]]}).status_code == 200
        for path in ("new", "known/versions/2"):
            answer = client.post(f"/v1/models/{path}/predict", json={"inputs": [[0, 1]]})
            check(answer, ProblemKind.MODEL_CHECKING, reason="being checked")
            assert answer.headers["Retry-After"] == "1"
        assert client.get("/readyz").json().items() >= {"served": 1, "refused": 0, "checking": 1}.items()
        go_on.set()
        eventually(lambda: client.get("/v1/models/known").json()["version"] == "2")
        eventually(lambda: client.get("/readyz").json()["served"] == 2)


def test_a_start_with_unknown_files_is_ready_once_they_are_decided(tmp_path, monkeypatch):
    go_on = threading.Event()
    decided: Future = Future()
    monkeypatch.setattr(Checks, "submit", lambda self, file: decided)
    put(tmp_path / "models" / "m.onnx", two_moons())
    with running(tmp_path / "models", approved=False) as client:
        body = check(client.get("/readyz"), ProblemKind.NOT_READY)
        assert "being checked: 1" in body["detail"]
        go_on.set()
        monkeypatch.undo()
        decided.set_exception(OSError("it is tried again"))
        eventually(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/readyz").json()["served"] == 1


def test_several_workers_check_a_file_once(tmp_path):
    put(tmp_path / "models" / "m.onnx", two_moons())
    put(tmp_path / "models" / "bad.onnx", b"garbage")
    arguments = ["--models", tmp_path / "models", "--port", 0, "--workers", 2, "--poll-seconds", 0.1]
    with lipserve(*arguments, approved=False) as process:
        url = url_of(process)
        for _ in range(12):  # of both
            body = httpx.get(url + "/readyz").json()
            assert (body["served"], body["refused"], body["checking"]) == (1, 1, 0)
            assert httpx.post(f"{url}/v1/models/m/predict", json={"inputs": [[0, 1]]}).status_code == 200
