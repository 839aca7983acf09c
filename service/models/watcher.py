"""The models that are served now, as the folder changes while they are.

Everything that reads or writes the folder runs in one thread, one after the other, and ends by
putting a new registry in the place of the old. Whoever holds the old one goes on with it; what only it
held is freed with it.

A file whose digest was never seen is not read here: an isolated process checks it first, while what is known
is served (:mod:`service.models.checks`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import LipcertError, ModelError
from service.models.checks import Checks, File
from service.models.layout import (
    FORCE_FILE,
    LABELS,
    SAMPLES,
    SETTINGS,
    Found,
    Signature,
    Slot,
    fingerprint,
    printable,
    scan,
)
from service.models.load_requests import LoadRequest, LoadRequests
from service.models.object_store import Mirror
from service.models.reader import UncheckedError, load_labels, load_samples, load_settings, load_version
from service.models.registry import Model, Registry, Versions
from service.models.samples import Samples
from service.models.settings import SettingsFile
from service.models.verdicts import Verdict

LOOK_SECONDS = 2.0
"""One look reads files for no longer, small ones first; the next look goes on, and others have their turn."""
SETTLE_SECONDS = 20.0
"""After so long the service is ready, whatever files are still to be checked."""
TAKE_UP_SECONDS = 0.1
"""Least time between looks."""
UNLOADED = "it was unloaded; loading it, or changing its files, serves it again"

log = logging.getLogger(__name__)
T = TypeVar("T")
Content = CertifiedPredictor | SettingsFile | Mapping[str, str] | Samples


@dataclass(frozen=True)
class _Held:
    """What was read from a slot.

    Attributes:
        signature: of the files that were read last.
        content: the last that was good, or None.
        reason: why the last was not, or None.
    """

    signature: Signature
    content: Content | None
    reason: str | None = None

    @property
    def forced(self) -> bool:
        """Whether the file is there that makes a version the default."""
        return any(Path(stamp[0]).name == FORCE_FILE for stamp in self.signature)


@dataclass(frozen=True)
class _Pending:
    """A file that waits for its verdict.

    Attributes:
        signature: of the slot's files.
        digest: of the file.
        settled: whether the file is known not to be half written.
        check: of the file; None where another process of the service checks it.
    """

    signature: Signature
    digest: str
    settled: bool
    check: Future[Verdict] | None


class Models:
    """The models of one folder: those with a verdict are read when this is made.

    Args:
        folder: may be missing.
        checks: what has the files checked that were never seen.
        checks_here: whether this process does so; else another one does, and its verdicts are waited for.
        threads: that onnxruntime uses within one operator.
        poll_seconds: between looks at the folder.
        mirror: what keeps it like another, and is looked at first.
        requests: loads and unloads, which the service's processes share.

    Attributes:
        mirror: the same.
        current: what is served now. To be read once in a request.
    """

    def __init__(
        self,
        folder: Path,
        checks: Checks,
        *,
        checks_here: bool = True,
        threads: int = 1,
        poll_seconds: float = 1.0,
        mirror: Mirror | None = None,
        requests: LoadRequests | None = None,
    ) -> None:
        self.mirror = mirror
        if mirror is not None:
            mirror.look()
        self.folder, self._threads, self._poll_seconds = folder, threads, poll_seconds
        self._checks, self._checks_here = checks, checks_here
        self._held: dict[Slot, _Held] = {}
        self._pending: dict[Slot, _Pending] = {}
        self._waiting: dict[Slot, Signature | None] = {}
        self._requests = requests or LoadRequests()
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
        """Whether every model present at the start is served or refused, or takes long to check."""
        return self._settled or (not self._cut_short and time.monotonic() > self._settle_by)

    def start(self) -> None:
        """Begins to watch the folder."""
        self._loop = asyncio.get_running_loop()
        self._verdict_came.set()  # one may have come before
        self._watching = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Ends that."""
        if self._watching is not None:
            self._watching.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def load(self, name: str) -> Model:
        """Reads the files of a model now, and serves it if it was unloaded; other processes soon do as well.

        Raises:
            Problem: 404 where there is none of that name, 409 where it is refused.
            StorageError: the request cannot be kept.
        """
        await self._do(self._load, name)
        checks = [p.check for slot, p in tuple(self._pending.items()) if slot.name == name and p.check]
        if checks:
            await asyncio.wait([asyncio.wrap_future(check) for check in checks])
            await self._do(self.look, name)
        return self.current.find(name)

    async def unload(self, name: str) -> None:
        """Stops serving a model until it is loaded or its files change; other processes soon do as well.

        Raises:
            Problem: 404 where there is none of that name.
            StorageError: the request cannot be kept.
        """
        self.current.versions(name)
        await self._do(self._unload, name)

    async def change(self, name: str, change: Callable[[], T]) -> T:
        """Runs what changes the files of a model, and takes up at once what came of it."""
        return await self._do(self._change, name, change)

    def look(self, name: str | None = None) -> None:
        """Takes up what has changed in the folder; of the model named at once, of others as they settle."""
        self._log(self._refresh(lambda slot: slot.name == name))

    def _take_up_checked(self) -> None:
        """Takes up the files whose verdicts have come."""
        done = {slot: p for slot, p in self._pending.items() if p.check and p.check.done()}
        # What could not be checked is checked again by the next look, and not at once, again and again.
        over = {slot: p.settled for slot, p in done.items() if p.check and p.check.exception() is None}
        if over:
            self._log(self._refresh(lambda slot: over.get(slot, False), over))

    def _log(self, taken: Collection[Slot]) -> None:
        for slot in taken:
            held = self._held.get(slot)
            if held is None:
                log.info("model %r: %s removed", slot.name, slot)
            elif held.reason is None:
                log.info("model %r: %s read", slot.name, slot)
            else:
                then = "; what was read before goes on being served" if held.content is not None else ""
                log.warning("model %r: %s refused: %s%s", slot.name, slot, held.reason, then)

    async def _watch(self) -> None:
        next_look = self._next_look()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(next_look - time.monotonic()):
                    await self._verdict_came.wait()
            self._verdict_came.clear()
            try:
                await self._do(self._take_up_checked)
                if time.monotonic() >= next_look:
                    if self.mirror is not None:
                        await self._do(self.mirror.look)
                    await self._do(self.look)
                    await self._do(self._checks.write_verdicts)
                    next_look = self._next_look()
            except Exception:  # whatever it is, the next look may be better
                log.exception("the models folder could not be looked at")
                next_look = time.monotonic() + self._poll_seconds
            await asyncio.sleep(min(self._poll_seconds, TAKE_UP_SECONDS))

    def _next_look(self) -> float:
        return time.monotonic() + (0.0 if self._cut_short else self._poll_seconds)

    async def _do(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _change(self, name: str, change: Callable[[], T]) -> T:
        try:
            return change()
        finally:
            self.look(name)

    def _load(self, name: str) -> None:
        if name in self.current.models:  # else every name in a request would be kept
            self._forget_refusals(name)
            self._requests.add(name, None)
        self.look(name)

    def _unload(self, name: str) -> None:
        self._requests.add(name, fingerprint(scan(self.folder), name))
        self.look(name)

    def _forget_refusals(self, name: str) -> None:
        """Deletes the verdicts that keep versions of a model from being served: they are checked again."""
        found = scan(self.folder)
        for slot, held in self._held.items():
            if slot.name == name and slot.part.isdecimal() and held.reason is not None and slot in found:
                with suppress(ModelError):  # what has no place has no verdict
                    self._checks.forget(found[slot].place(self.folder))

    def _follow(self) -> Mapping[str, LoadRequest]:
        """Return the last load or unload of each model; have refused files of loaded ones read again."""
        requests = self._requests.read()
        again = {name for name, r in requests.items() if r != self._followed.get(name) and not r.unloaded}
        for slot, held in self._held.items():
            if slot.name in again and held.reason is not None:  # tried again, though it is the same file
                self._held[slot] = replace(held, signature=())
        self._followed = requests
        return requests

    def _refresh(self, settled: Callable[[Slot], bool], among: Collection[Slot] | None = None) -> list[Slot]:
        """Takes up what has changed in the folder, or in some slots of it; returns where that was.

        A file that has changed may be half written. A model is taken up at once where it loads and the
        file is the same after as before; everything else only once it has stayed the same from one look
        to the next, or is said to be settled.
        """
        requests = self._follow()  # before the scan: a fingerprint of later files is not yet that of these
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
            name for name, r in requests.items() if r.unloaded and r.unloaded == fingerprint(found, name)
        )
        turned, self._unloaded = unloaded != self._unloaded, unloaded
        found = {slot: f for slot, f in found.items() if slot.name not in unloaded}
        self._held = {slot: held for slot, held in self._held.items() if slot.name not in unloaded}
        changes: dict[Slot, Signature | None] = {}
        for slot in found.keys() | self._held.keys():
            now = found[slot].signature if slot in found else None
            if slot not in self._held or now != self._held[slot].signature:
                changes[slot] = now
        ready = {
            slot
            for slot, now in changes.items()
            if settled(slot) or (slot in self._waiting and self._waiting[slot] == now)
        }
        # Settings and labels that may be half written could still be understood, so their whole model waits.
        held_up = {s.name for s in changes.keys() - ready if s.part in (SETTINGS, LABELS)}
        before = self._pending
        self._pending = {s: p for s, p in before.items() if changes.get(s) == p.signature}
        end = time.monotonic() + LOOK_SECONDS
        taken, left = [], sorted(changes, key=lambda slot: (found[slot].size if slot in found else 0, slot))
        while left and time.monotonic() < end:
            slot = left.pop(0)
            if slot.name in held_up or (among is not None and slot not in among):
                continue
            if self._take(slot, found.get(slot), slot in ready):
                taken.append(slot)
        if among is None:
            self._cut_short = bool(left)
            self._waiting = {slot: now for slot, now in changes.items() if slot not in {*taken, *left}}
        empty = None if found or self._unloaded else "the models folder holds no *.onnx file"
        if taken or turned or before.keys() != self._pending.keys() or empty != self.current.fault:
            self._publish(empty)
        self._settled = self._settled or not (self._cut_short or self._pending)
        return taken

    def _take(self, slot: Slot, found: Found | None, ready: bool) -> bool:
        """Takes up what has changed in one slot; False where it is better to wait."""
        if found is None:
            if ready:
                del self._held[slot]
            return ready
        before = self._held[slot].content if slot in self._held else None
        if slot in self._pending and not self._over(self._pending[slot]):
            return False
        self._pending.pop(slot, None)
        try:
            held = _Held(found.signature, self._read(slot, found))
            if not ready and found.changed():
                return False
        except UncheckedError as error:
            self._pending[slot] = self._check(error.file, found.signature, ready)
            return False
        except LipcertError as error:
            held = _Held(found.signature, before, printable(str(error)))
        except Exception as error:  # one file must not keep the others from being served
            log.exception("refused %s", slot.name)
            reason = f"it cannot be read; {type(error).__name__} was raised, the log has more"
            held = _Held(found.signature, before, reason)
        if held.reason is not None and not ready:
            return False
        self._held[slot] = held
        return True

    def _read(self, slot: Slot, found: Found) -> Content:
        if slot.part == SETTINGS:
            return load_settings(found, self.folder)
        if slot.part == LABELS:
            return load_labels(found, self.folder)
        if slot.part == SAMPLES:
            return load_samples(found, self.folder)
        contents = [held.content for held in self._held.values()]
        known = {c.file.sha256: c for c in contents if isinstance(c, CertifiedPredictor)}
        return load_version(slot, found, self.folder, known, self._threads, self._checks)

    def _check(self, file: File, signature: Signature, settled: bool) -> _Pending:
        """Has a file checked, here or elsewhere."""
        check = self._checks.submit(file) if self._checks_here else None
        if check is not None:
            check.add_done_callback(self._wake)
        return _Pending(signature, file.digest, settled, check)

    def _over(self, pending: _Pending) -> bool:
        check = pending.check
        return self._checks.decided(pending.digest) if check is None else check.done()

    def _wake(self, _: object) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._verdict_came.set)

    def _publish(self, fault: str | None) -> None:
        """Puts a registry of what is held in the place of the present one."""
        parts: defaultdict[str, dict[str, _Held]] = defaultdict(dict)
        checking: defaultdict[str, set[str]] = defaultdict(set)
        for slot, held in self._held.items():
            parts[slot.name][slot.part] = held
        for slot in self._pending:
            checking[slot.name].add(slot.part)
        names = sorted(parts.keys() | checking.keys() | self._unloaded)
        versions = {name: self._versions(name, parts[name], frozenset(checking[name])) for name in names}
        self.current = Registry(versions, fault)

    def _versions(self, name: str, parts: dict[str, _Held], checking: frozenset[str]) -> Versions:
        if name in self._unloaded:
            return Versions(name, {}, fault=UNLOADED)
        settings = parts.pop(SETTINGS, _Held((), SettingsFile()))
        labels = parts.pop(LABELS, _Held((), {}))
        samples = parts.pop(SAMPLES, _Held((), None))
        versions = {v: parts[v] for v in sorted(parts, key=int)}
        served: dict[str, Model] = {}
        refused = {v: held.reason for v, held in versions.items() if held.reason is not None}
        pinned: Mapping[str, str] = {}
        # Where one of these never was good, nothing is served: not without its policy, nor a wrong version.
        if isinstance(settings.content, SettingsFile) and isinstance(labels.content, Mapping):
            pinned = labels.content
            for version, held in versions.items():
                if isinstance(held.content, CertifiedPredictor):
                    try:
                        served[version] = self._model(name, version, held.content, settings.content)
                    except ModelError as error:
                        refused[version] = str(error)
        fault = "; ".join(filter(None, [settings.reason, labels.reason, samples.reason])) or None
        shown = samples.content if isinstance(samples.content, Samples) else None
        return Versions(
            name,
            served,
            refused=refused,
            checking=checking,
            pinned=pinned,
            forced=frozenset(version for version, held in versions.items() if held.forced),
            samples=shown,
            fault=fault,
        )

    def _model(self, name: str, version: str, predictor: CertifiedPredictor, settings: SettingsFile) -> Model:
        mine = settings.of(predictor.default_norm)
        before = self.current.models.get(name)
        model = before.served.get(version) if before else None
        if model is not None and model.predictor.file is predictor.file and model.settings == mine:
            return model
        predictor = predictor.executing(mine.dtype)
        predictor.prepare(mine.policy.norm)
        return Model(name, version, predictor, predictor.file.graph.multiplications, mine)
