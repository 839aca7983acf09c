"""Watcher of the models folder, which replaces the registry of served models as files change.

One thread runs everything that reads or writes the folder, one call after the other, and ends each by
publishing a new registry. Requests that hold the former registry finish with it; then its models are freed.

The server does not read a file with a new digest: an isolated process checks it first, while the known models
are served (:mod:`service.models.checks`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import LipcertError, ModelError
from service.models.assembly import Content, Part, assemble
from service.models.checks import Checks, File
from service.models.layout import LABELS, SETTINGS, Fingerprint, Found, Slot, files_digest, printable, scan
from service.models.load_requests import LoadRequest, LoadRequests
from service.models.object_store import Mirror
from service.models.reader import UncheckedError, load_part, load_version
from service.models.registry import Model, Registry
from service.models.verdicts import Verdict

MAX_READ_SECONDS = 2.0
"""Longest that one poll reads files, small ones first, before other calls; the next poll continues."""
SETTLE_SECONDS = 20.0
"""Time after which the service is ready even if files are still being checked."""
MIN_WAIT_SECONDS = 0.1
"""Least time between two polls."""

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class _Pending:
    """A file that waits for its verdict.

    Attributes:
        fingerprint: of the slot's files.
        digest: of the file.
        settled: whether the file is known to be complete.
        check: of the file; None where another process of the service checks it.
    """

    fingerprint: Fingerprint
    digest: str
    settled: bool
    check: Future[Verdict] | None


class Models:
    """The models of one folder; the constructor reads the files that have verdicts.

    Args:
        folder: the models folder; it may be missing.
        checks: verdicts on files.
        requests: loads and unloads, shared by the service's processes.
        checks_here: submit new files for checks; else another process of the service does, and this one waits
            for its verdicts.
        threads: that onnxruntime uses within one operator.
        poll_seconds: interval between polls of the folder.
        mirror: an object store that the folder mirrors, polled first.

    Attributes:
        mirror: the object store, or None.
        current: the current registry. Read it once in a request.
    """

    def __init__(
        self,
        folder: Path,
        checks: Checks,
        requests: LoadRequests,
        *,
        checks_here: bool = True,
        threads: int = 1,
        poll_seconds: float = 1.0,
        mirror: Mirror | None = None,
    ) -> None:
        self.mirror = mirror
        if mirror is not None:
            mirror.poll()
        self.folder, self._threads, self._poll_seconds = folder, threads, poll_seconds
        self._checks, self._checks_here = checks, checks_here
        self._parts: dict[Slot, Part] = {}
        self._pending: dict[Slot, _Pending] = {}
        self._waiting: dict[Slot, Fingerprint | None] = {}
        self._requests = requests
        self._followed: Mapping[str, LoadRequest] = {}
        self._unloaded: frozenset[str] = frozenset()
        self._thread = ThreadPoolExecutor(1, "models")
        self._watching: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._verdict_came = asyncio.Event()
        self._cut_short = False
        self._settled, self._settle_by = False, time.monotonic() + SETTLE_SECONDS
        self.current = Registry({})
        self._refresh(lambda _: True)

    @property
    def settled(self) -> bool:
        """True once every file present at the start is served or refused, or its check takes long."""
        return self._settled or (not self._cut_short and time.monotonic() > self._settle_by)

    def start(self) -> None:
        """Start to poll the folder."""
        self._loop = asyncio.get_running_loop()
        self._verdict_came.set()  # a verdict may have come before
        self._watching = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Stop polling."""
        if self._watching is not None:
            self._watching.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def load(self, name: str) -> Model:
        """Read the files of a model now, and serve it if it was unloaded; other processes follow soon.

        Raises:
            Problem: 404 where there is no such model, 409 where it is refused.
            StorageError: the request cannot be stored.
        """
        await self._do(self._load, name)
        checks = [p.check for slot, p in tuple(self._pending.items()) if slot.name == name and p.check]
        if checks:
            await asyncio.wait([asyncio.wrap_future(check) for check in checks])
            await self._do(self.poll, name)
        return self.current.find(name)

    async def unload(self, name: str) -> None:
        """Stop serving a model until it is loaded or its files change; other processes follow soon.

        Raises:
            Problem: 404 where there is no such model.
            StorageError: the request cannot be stored.
        """
        self.current.versions(name)
        await self._do(self._unload, name)

    async def change(self, name: str, change: Callable[[], T]) -> T:
        """Run a change of a model's files, then reload the model at once."""
        return await self._do(self._change, name, change)

    def poll(self, name: str | None = None) -> None:
        """Reload the slots that have changed: those of the named model at once, others once they settle."""
        self._log(self._refresh(lambda slot: slot.name == name))

    def _reload_checked(self) -> None:
        """Reload the slots whose verdicts have come."""
        done = {slot: p for slot, p in self._pending.items() if p.check and p.check.done()}
        # A file whose check failed is submitted again by the next poll, not at once in an endless loop.
        over = {slot: p.settled for slot, p in done.items() if p.check and p.check.exception() is None}
        if over:
            self._log(self._refresh(lambda slot: over.get(slot, False), over))

    def _log(self, reloaded: Collection[Slot]) -> None:
        for slot in reloaded:
            part = self._parts.get(slot)
            if part is None:
                log.info("model %r: %s removed", slot.name, slot)
            elif part.reason is None:
                log.info("model %r: %s read", slot.name, slot)
            else:
                then = "; its former content stays in use" if part.content is not None else ""
                log.warning("model %r: %s refused: %s%s", slot.name, slot, part.reason, then)

    async def _watch(self) -> None:
        next_poll = self._next_poll()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(next_poll - time.monotonic()):
                    await self._verdict_came.wait()
            self._verdict_came.clear()
            try:
                await self._do(self._reload_checked)
                if time.monotonic() >= next_poll:
                    if self.mirror is not None:
                        await self._do(self.mirror.poll)
                    await self._do(self.poll)
                    await self._do(self._checks.write_verdicts)
                    next_poll = self._next_poll()
            except Exception:  # of any kind: the next poll may succeed
                log.exception("the models folder could not be polled")
                next_poll = time.monotonic() + self._poll_seconds
            await asyncio.sleep(min(self._poll_seconds, MIN_WAIT_SECONDS))

    def _next_poll(self) -> float:
        return time.monotonic() + (0.0 if self._cut_short else self._poll_seconds)

    async def _do(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _change(self, name: str, change: Callable[[], T]) -> T:
        try:
            return change()
        finally:
            self.poll(name)

    def _load(self, name: str) -> None:
        if name in self.current.models:  # else the file of requests would grow with every requested name
            self._forget_refusals(name)
            self._requests.add(name, None)
        self.poll(name)

    def _unload(self, name: str) -> None:
        self._requests.add(name, files_digest(scan(self.folder), name))
        self.poll(name)

    def _forget_refusals(self, name: str) -> None:
        """Delete the verdicts by which versions of a model are refused, so that they are checked again."""
        found = scan(self.folder)
        for slot, part in self._parts.items():
            if slot.name == name and slot.part.isdecimal() and part.reason is not None and slot in found:
                with suppress(ModelError):  # a file that cannot be read has no verdict
                    self._checks.forget(found[slot].place(self.folder))

    def _follow(self) -> Mapping[str, LoadRequest]:
        """Return the last request of each model; mark refused files of newly loaded models to be reread."""
        requests = self._requests.read()
        again = {name for name, r in requests.items() if r != self._followed.get(name) and not r.unloaded}
        for slot, part in self._parts.items():
            if slot.name in again and part.reason is not None:
                self._parts[slot] = replace(part, fingerprint=())
        self._followed = requests
        return requests

    def _refresh(self, settled: Callable[[Slot], bool], among: Collection[Slot] | None = None) -> list[Slot]:
        """Reload the slots whose files have changed, all or those ``among`` a few, and return them.

        A file that has changed may be half written. A model is reloaded at once if its file is valid, and the
        same after as before it was read; everything else once its files have not changed from one poll to the
        next, or where they are known to be complete (``settled``).
        """
        requests = self._follow()  # before the scan: files that come later are not yet those unloaded
        try:
            found = scan(self.folder)
        except OSError as error:
            fault = f"the models folder cannot be read: {error.strerror or error}"
            if fault != self.current.fault:
                log.warning("%s", fault)
                self._publish(fault)
            self._settled = self._settled or not self._pending
            return []
        unloaded = frozenset(
            name for name, r in requests.items() if r.unloaded and r.unloaded == files_digest(found, name)
        )
        turned, self._unloaded = unloaded != self._unloaded, unloaded
        found = {slot: f for slot, f in found.items() if slot.name not in unloaded}
        self._parts = {slot: part for slot, part in self._parts.items() if slot.name not in unloaded}
        changes: dict[Slot, Fingerprint | None] = {}
        for slot in found.keys() | self._parts.keys():
            now = found[slot].fingerprint if slot in found else None
            if slot not in self._parts or now != self._parts[slot].fingerprint:
                changes[slot] = now
        ready = {s for s, now in changes.items() if settled(s) or self._waiting.get(s, ()) == now}
        # Half-written settings or labels may still be valid, so their whole model waits.
        held_up = {s.name for s in changes.keys() - ready if s.part in (SETTINGS, LABELS)}
        before = self._pending
        self._pending = {s: p for s, p in before.items() if changes.get(s) == p.fingerprint}
        end = time.monotonic() + MAX_READ_SECONDS
        reloaded: list[Slot] = []
        left = sorted(changes, key=lambda slot: (found[slot].size if slot in found else 0, slot))
        while left and time.monotonic() < end:
            slot = left.pop(0)
            if slot.name in held_up or (among is not None and slot not in among):
                continue
            if self._reload(slot, found.get(slot), slot in ready):
                reloaded.append(slot)
        if among is None:
            self._cut_short = bool(left)
            self._waiting = {slot: now for slot, now in changes.items() if slot not in {*reloaded, *left}}
        empty = None if found or self._unloaded else "the models folder holds no *.onnx file"
        if reloaded or turned or before.keys() != self._pending.keys() or empty != self.current.fault:
            self._publish(empty)
        self._settled = self._settled or not (self._cut_short or self._pending)
        return reloaded

    def _reload(self, slot: Slot, found: Found | None, ready: bool) -> bool:
        """Read or remove one slot; return False where that has to wait."""
        if found is None:
            if ready:
                del self._parts[slot]
            return ready
        before = self._parts[slot].content if slot in self._parts else None
        if slot in self._pending and not self._over(self._pending[slot]):
            return False
        self._pending.pop(slot, None)
        try:
            part = Part(found.fingerprint, self._read(slot, found))
            if not ready and found.changed():
                return False
        except UncheckedError as error:
            self._pending[slot] = self._check(error.file, found.fingerprint, ready)
            return False
        except LipcertError as error:
            part = Part(found.fingerprint, before, printable(str(error)))
        except Exception as error:  # one file must not keep the others from being served
            log.exception("refused %s", slot.name)
            reason = f"it cannot be read: {type(error).__name__} (see the service's log)"
            part = Part(found.fingerprint, before, reason)
        if part.reason is not None and not ready:
            return False
        self._parts[slot] = part
        return True

    def _read(self, slot: Slot, found: Found) -> Content:
        if not slot.part.isdecimal():
            return load_part(slot, found, self.folder)
        contents = [part.content for part in self._parts.values()]
        known = {c.file.sha256: c for c in contents if isinstance(c, CertifiedPredictor)}
        return load_version(slot, found, self.folder, known, self._threads, self._checks)

    def _check(self, file: File, fingerprint: Fingerprint, settled: bool) -> _Pending:
        """Submit a file for a check, or wait for that of another process."""
        check = self._checks.submit(file) if self._checks_here else None
        if check is not None:
            check.add_done_callback(self._wake)
        return _Pending(fingerprint, file.digest, settled, check)

    def _over(self, pending: _Pending) -> bool:
        check = pending.check
        return self._checks.decided(pending.digest) if check is None else check.done()

    def _wake(self, _: object) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._verdict_came.set)

    def _publish(self, fault: str | None) -> None:
        """Replace the current registry by one of the present parts."""
        self.current = assemble(self._parts, self._pending, self._unloaded, self.current, fault)
