"""Small ONNX models written in code, and a server that really runs, with a real client for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from lipmodel.certify.claims import Claims
from lipmodel.norms import Norm
from service.app import Server, create_app, listen
from service.settings import Settings
from tests.networks import groupsort_net, to_file

Serve = Callable[..., httpx.Client]


CLAIMS = Claims(norm=Norm.TWO, lipschitz=1.01, classes=("lower", "upper"), input_box=(-2.0, 3.0))


def two_moons(claims: Claims = CLAIMS) -> bytes:
    """Two inputs, two named classes, one score."""
    return to_file(groupsort_net((2, 16, 16), 1), claims)


def digits() -> bytes:
    """Sixteen inputs, four classes that have no names."""
    return to_file(groupsort_net((16, 32), 4, seed=1))


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[httpx.Client]:
    """A client of a server on a free port, in a thread."""
    configured = Settings(models=folder, port=0, **settings)
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


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with 'two-moons' and 'digits'; for tests that change nothing."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "two-moons.onnx").write_bytes(two_moons())
    (folder / "digits.onnx").write_bytes(digits())
    with running(folder, max_rows=100, max_body_bytes=100_000, max_audit_samples=1000) as shared:
        yield shared
