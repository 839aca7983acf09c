"""The models that are served now, as the folder changes while they are.

Everything that reads or writes the folder runs in one thread, one after the other, and ends by
putting a new registry in the place of the old. Whoever holds the old one goes on with it; what only it
held is freed with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import LipcertError, ModelError
from service.load_requests import LoadRequest, LoadRequests
from service.loading import load_labels, load_samples, load_settings, load_version
from service.mirror import Mirror
from service.model_folder import (
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
from service.model_settings import SettingsFile
from service.registry import Model, Registry, Versions
from service.samples import Samples

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


class Models:
    """The models of one folder, read when this is made.

    Args:
        folder: may be missing.
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
        *,
        threads: int = 1,
        poll_seconds: float = 1.0,
        mirror: Mirror | None = None,
        requests: LoadRequests | None = None,
    ) -> None:
        self.mirror = mirror
        if mirror is not None:
            mirror.look()
        self.folder, self._threads, self._poll_seconds = folder, threads, poll_seconds
        self._held: dict[Slot, _Held] = {}
        self._waiting: dict[Slot, Signature | None] = {}
        self._requests = requests or LoadRequests()
        self._followed: Mapping[str, LoadRequest] = {}
        self._unloaded: frozenset[str] = frozenset()
        self._thread = ThreadPoolExecutor(1, "models")
        self._watching: asyncio.Task[None] | None = None
        self.current = Registry({})
        self._refresh(lambda _: True)

    def start(self) -> None:
        """Begins to watch the folder."""
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
        for slot in self._refresh(lambda slot: slot.name == name):
            held = self._held.get(slot)
            if held is None:
                log.info("model %r: %s removed", slot.name, slot)
            elif held.reason is None:
                log.info("model %r: %s read", slot.name, slot)
            else:
                then = "; what was read before goes on being served" if held.content is not None else ""
                log.warning("model %r: %s refused: %s%s", slot.name, slot, held.reason, then)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                if self.mirror is not None:
                    await self._do(self.mirror.look)
                await self._do(self.look)
            except Exception:  # whatever it is, the next look may be better
                log.exception("the models folder could not be looked at")

    async def _do(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _change(self, name: str, change: Callable[[], T]) -> T:
        try:
            return change()
        finally:
            self.look(name)

    def _load(self, name: str) -> None:
        if name in self.current.models:  # else every name that anybody asks for would be kept
            self._requests.add(name, None)
        self.look(name)

    def _unload(self, name: str) -> None:
        self._requests.add(name, fingerprint(scan(self.folder), name))
        self.look(name)

    def _follow(self) -> Mapping[str, LoadRequest]:
        """Return the last load or unload of each model; what a load asks to be tried again is forgotten."""
        requests = self._requests.read()
        again = {name for name, r in requests.items() if r != self._followed.get(name) and not r.unloaded}
        for slot, held in self._held.items():
            if slot.name in again and held.reason is not None:  # tried again, though it is the same file
                self._held[slot] = replace(held, signature=())
        self._followed = requests
        return requests

    def _refresh(self, settled: Callable[[Slot], bool]) -> list[Slot]:
        """Takes up what has changed in the folder; returns where that was.

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
        taken = [
            slot
            for slot in sorted(changes)
            if slot.name not in held_up and self._take(slot, found.get(slot), slot in ready)
        ]
        self._waiting = {slot: now for slot, now in changes.items() if slot not in taken}
        empty = None if found or self._unloaded else "the models folder holds no *.onnx file"
        if taken or turned or empty != self.current.fault:
            self._publish(empty)
        return taken

    def _take(self, slot: Slot, found: Found | None, ready: bool) -> bool:
        """Takes up what has changed in one slot; False where it is better to wait."""
        if found is None:
            if ready:
                del self._held[slot]
            return ready
        before = self._held[slot].content if slot in self._held else None
        try:
            held = _Held(found.signature, self._read(slot, found))
            if not ready and found.changed():
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
        return load_version(slot, found, self.folder, known, self._threads)

    def _publish(self, fault: str | None) -> None:
        """Puts a registry of what is held in the place of the present one."""
        names = sorted({slot.name for slot in self._held} | self._unloaded)
        self.current = Registry({name: self._versions(name) for name in names}, fault)

    def _versions(self, name: str) -> Versions:
        if name in self._unloaded:
            return Versions(name, {}, fault=UNLOADED)
        parts = {slot.part: held for slot, held in self._held.items() if slot.name == name}
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
        return Versions(name, served, refused=refused, pinned=pinned, samples=shown, fault=fault)

    def _model(self, name: str, version: str, predictor: CertifiedPredictor, settings: SettingsFile) -> Model:
        mine = settings.of(predictor.default_norm)
        before = self.current.models.get(name)
        model = before.served.get(version) if before else None
        if model is not None and model.predictor.file is predictor.file and model.settings == mine:
            return model
        predictor = predictor.executing(mine.dtype)
        predictor.prepare(mine.policy.norm)
        return Model(name, version, predictor, predictor.file.graph.multiplications, mine)
