"""``lipserve`` on a free port, as a tree of processes, and the loops of clients that load it."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.request import urlopen

import httpx

from benchmarks.processes import Tree, free_port

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "models"
COMMAND = [sys.executable, "-m", "service"]
START_SECONDS = 120.0


class Lipserve(Tree):
    """A ``lipserve`` that was started; its log lies beside the models folder.

    A wrapper is a command that takes that of ``lipserve`` as its last arguments, and runs it.
    """

    def __init__(
        self,
        models: Path,
        *flags: object,
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.models, self.port = models, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = map(str, ("--models", models, "--port", self.port, *flags))
        log = models.with_name(f"log{self.port}")
        super().__init__([*wrapper, *COMMAND, *arguments], log, environment)

    def wait_ready(self) -> None:
        """Wait until all workers are ready and every model is checked.

        Raises:
            RuntimeError: the server ended, or is not ready within ``START_SECONDS``.
        """
        end = time.monotonic() + START_SECONDS
        while "ready at" not in self.log.read_text(errors="replace") or self._checking():
            if not self.running or time.monotonic() > end:
                raise RuntimeError(f"lipserve is not ready: {self.last_line()}")
            time.sleep(0.05)

    def _checking(self) -> bool:
        with urlopen(f"{self.url}/v1/models") as answer:
            return b'"checking"' in answer.read()


@contextmanager
def served(models: Mapping[str, bytes], *flags: object) -> Iterator[Lipserve]:
    """Serve ONNX files, by model name, from a new folder; yield the server once it is ready."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models"
        path.mkdir()
        for name, content in models.items():
            (path / f"{name}.onnx").write_bytes(content)
        with Lipserve(path, *flags) as server:
            server.wait_ready()
            yield server


@asynccontextmanager
async def clients(
    url: str, ask: Callable[[httpx.AsyncClient], Awaitable[None]], count: int = 1
) -> AsyncIterator[httpx.AsyncClient]:
    """Call ``ask`` again and again, ``count`` calls at a time, while the block runs.

    Errors that ``ask`` raises are raised at the end of the block.
    """
    running = True
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:

        async def keep_asking() -> None:
            while running:
                await ask(client)

        tasks = [asyncio.create_task(keep_asking()) for _ in range(count)]
        yield client
        running = False
        await asyncio.gather(*tasks)


def raw_request(path: str, body: bytes, headers: Mapping[str, str], method: str = "POST") -> bytes:
    """Return a request of HTTP/1.1 as its bytes."""
    given = {"Host": "localhost", **headers, "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
