"""Small ONNX models written in code, and a server that really runs, with a real client for it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar
from unittest.mock import patch

import httpx
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from lipmodel.network.execution import Execution
from lipmodel.network.metadata import Claims
from lipmodel.network.reader.external_data import digest_of, external_locations
from lipmodel.norms import Norm
from service.app import create_app
from service.cli.main import main
from service.http.server import Server, listen
from service.jobs.state_folder import StateFolder
from service.models.checks import Checks, File
from service.models.load_requests import LoadRequests
from service.models.verdicts import Verdict, Verdicts
from service.models.watcher import Models
from service.settings import Settings
from tests.networks import float32, groupsort_net, to_file

T = TypeVar("T")
Serve = Callable[..., httpx.Client]


CLAIMS = Claims(norm=Norm.TWO, lipschitz=1.01, classes=("lower", "upper"), input_box=(-2.0, 3.0))


def two_moons(claims: Claims = CLAIMS) -> bytes:
    """Two inputs, two named classes, one score: positive for half of the inputs, whatever the seed."""
    *body, last = (graph := groupsort_net((2, 16, 16), 1)).ops
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-2.0, 3.0, 51)]), axis=-1).reshape(-1, 2)
    middle = np.median(Execution(graph, np.float64).scores(grid))
    last = replace(last, bias=float32(last.bias - middle))
    return to_file(replace(graph, ops=(*body, last)), claims)


def digits() -> bytes:
    """Sixteen inputs, four classes that have no names."""
    return to_file(groupsort_net((16, 32), 4, seed=1))


def state_beside(folder: Path) -> Path:
    """A new state folder: servers of one models folder may run at the same time, those of one state not."""
    return Path(tempfile.mkdtemp(prefix="state", dir=folder.parent))


class Approved(Checks):
    """Accepts every file without a check: errors are raised where the file is read."""

    def __init__(self) -> None:
        pass

    def look_up(self, path: Path) -> File:
        return File(path, digest_of(path, locations_of(path), max_bytes=2**31), Verdict())

    def write_verdicts(self) -> None:
        pass

    def forget(self, path: Path) -> None:
        pass


def locations_of(path: Path) -> tuple[str, ...]:
    try:
        return tuple(external_locations(onnx.load(path, load_external_data=False)))
    except Exception:
        return ()


def models_of(folder: Path, requests: LoadRequests | None = None, **options: Any) -> Models:
    """The models of a folder, every file approved of."""
    return Models(folder, Approved(), requests or LoadRequests(folder / ".loads.json"), **options)


def approve(settings: Settings) -> None:
    """Puts verdicts on the files that there are into a service's state, as if it had run before."""
    files = [path for path in settings.models.glob("**/*.onnx") if path.is_file()]
    if files:
        StateFolder(settings.state_folder).close()
        verdicts = Verdicts(settings.database_url)
        for path in files:
            if locations := locations_of(path):
                verdicts.put(digest_of(path, max_bytes=2**31), Verdict(locations=locations))
            verdicts.put(digest_of(path, locations, max_bytes=2**31), Verdict())
        verdicts.close()


@contextmanager
def running(folder: Path, *, approved: bool = True, **settings: object) -> Iterator[httpx.Client]:
    """A client of a server on a free port, in a thread; by default the files there have been checked."""
    configured = Settings(
        **{"models": folder, "port": 0, "state": state_beside(folder), "drain_seconds": 0} | settings
    )
    if approved:
        approve(configured)
    with listen(configured.host, configured.port) as sock:
        server = Server(create_app(configured), configured)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        url = "http://{}:{}".format(*sock.getsockname())
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """``serve({"name": content, …}, **settings)`` → a client of a server with those models."""
    with ExitStack() as stack:

        def start(files: Mapping[str, bytes], **settings: object) -> httpx.Client:
            folder = tmp_path / "models"
            folder.mkdir(exist_ok=True)
            for name, content in files.items():
                (folder / f"{name}.onnx").write_bytes(content)
            return stack.enter_context(running(folder, **settings))

        yield start


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with 'two-moons'."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "two-moons.onnx").write_bytes(two_moons())
    return folder


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with 'two-moons' and 'digits'; for tests that change nothing."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "two-moons.onnx").write_bytes(two_moons())
    (folder / "digits.onnx").write_bytes(digits())
    settings = {"max_rows": 100, "max_body_bytes": 100_000, "max_audit_samples": 1000}
    with running(folder, tighten_seconds=60, **settings) as shared:
        yield shared


COMMAND = [sys.executable, "-m", "service"]


def command(*arguments: object, **environment: str) -> Result:
    """Runs the command in this process, which it leaves as it was; for what ends before anything is served."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    with patch("service.telemetry.logs.set_up"):
        result = CliRunner().invoke(main, [*map(str, arguments)], env=environment)
    for number, handler in handlers:
        signal.signal(number, handler)
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


@contextmanager
def lipserve(
    *arguments: object, approved: bool = True, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """The command, as a process of its own; by default the files there have been checked."""
    if approved:
        given = [*map(str, arguments)]
        names = [name for name in ("models", "state", "database") if f"--{name}" in given]
        approve(Settings(**{name: given[given.index(f"--{name}") + 1] for name in names}))
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: subprocess.Popen[str]) -> str:
    """Waits until the process answers."""
    line = process.stdout.readline()
    found = re.search(r"ready at (http://\S+) ", line)
    assert found, line + process.stderr.read()
    return found[1]


def workers(state: Path) -> list[int]:
    """Process ids of the workers of the server that keeps its state there."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = process.read_bytes()
            if b"service.sandbox.worker\0" in command and bytes(state) in command:
                found.append(int(process.parent.name))
    return found


def eventually(look: Callable[[], T], seconds: float = 60) -> T:
    """Call ``look`` until its result is true, and return that."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return seen


def connected(place: httpx.Client | str, **options: int) -> socket.socket:
    """A new connection to a client's server, or to a URL, with those options of a socket."""
    url = httpx.URL(place) if isinstance(place, str) else place.base_url
    connection = socket.socket()
    connection.settimeout(20)
    for option, value in options.items():
        connection.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
    connection.connect((url.host, url.port))
    return connection


def rest(connection: socket.socket) -> bytes:
    """What comes until the end, whichever it is."""
    answer = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            answer += part
    return answer


PREDICT = "/v1/models/two-moons/predict"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(
    body: bytes = b'{"inputs": [[0.5, 0.25]]}',
    path: str = PREDICT,
    *lines: str,
    version: str = "1.1",
    length: int | None = -1,
) -> bytes:
    """A request as bytes; its length is that of the body unless another, or none, is to be stated."""
    head = [f"POST {path} HTTP/{version}", "Host: localhost", "Content-Type: application/json", *lines]
    if length is not None:
        head.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join([*head, "", ""]).encode() + body


def in_flight(client: httpx.Client) -> float:
    """How many requests are being answered, but for the one that asks."""
    text = httpx.get(f"{client.base_url}/metrics").text
    return float(re.search(r"^lipserve_in_flight_requests (\S+)", text, re.MULTILINE)[1]) - 1


def queued(client: httpx.Client, path: str, /, **body: object) -> str:
    """The place of a job that is not waited for."""
    return client.post(path, json=body, headers={"Prefer": "wait=0"}).headers["location"]


def stopped_worker(state: Path) -> int:
    """The next worker, stopped where it is: its job takes as long as a test wants."""
    pid = eventually(lambda: workers(state))[0]
    os.kill(pid, signal.SIGSTOP)
    return pid


class PostgreSQL:
    """A server of its own, from the distribution's binaries; ``url`` lacks the database's name."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'lipcert[postgres]'")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [shutil.which("initdb")]
        if found[-1] is None:
            pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
        self._binaries = Path(found[-1]).parent
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql"))
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:  # the server refuses to run as root
            entry = pwd.getpwnam("nobody")
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.url = f"postgresql+psycopg://jobs@/{{name}}?host={self._folder}"

    def __enter__(self) -> Self:
        self._run("initdb", "-U", "jobs", "-A", "trust", "-N")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.CalledProcessError):  # it is stopped already
            self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        options = f"-F -c listen_addresses='' -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "-w", "-l", self._folder / "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: object) -> None:
        command = [self._binaries / program, "-D", self._folder / "data", *arguments]
        # To a file: the server would hold a pipe open.
        with (self._folder / "out").open("ab") as out:
            subprocess.run(
                command, cwd=self._folder, check=True, stdout=out, stderr=out, timeout=60, **self._user
            )


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a server that lives as long as the tests."""
    with PostgreSQL() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    return new_database(request.getfixturevalue("postgresql"))


def new_database(server: str) -> str:
    """URL of an empty database of that server."""
    import psycopg

    name = f"test{time.time_ns()}"
    with psycopg.connect(
        server.format(name="postgres").replace("+psycopg", ""), autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.format(name=name)
