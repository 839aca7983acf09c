"""Changes of models that are asked for while they are served: uploads, removals, labels."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterable, Callable
from functools import partial
from pathlib import Path

from lipmodel.errors import ModelError
from service.errors import Problem, ProblemKind
from service.folder_changes import alone, put_labels, put_version, remove_model, remove_version, stage
from service.model_folder import MODEL_FILE
from service.models import Models
from service.process import TASK_FILE, Worker
from service.registry import Model


class Changes:
    """Changes models; checks one upload at a time, however many arrive.

    Args:
        models: that are changed.
        seconds: that checking an upload may take.
        most_bytes: of address space that this may use.
    """

    def __init__(self, models: Models, *, seconds: float, most_bytes: int) -> None:
        self._models, self._seconds, self._most_bytes = models, seconds, most_bytes
        self._turn = asyncio.Lock()

    async def add(self, name: str, content: AsyncIterable[bytes]) -> tuple[Model, bool]:
        """Serves a file as the next version of a model; one that is the latest already changes nothing.

        The file is read, run and bounded by a process with limits first: what would bring that down
        does not come near this one.

        Returns:
            The version, and whether it is new.

        Raises:
            ModelError: the file is refused, or was more than the process could bear.
            OSError: the folder cannot be written.
        """
        folder = self._models.folder
        staged = await asyncio.to_thread(stage, folder)
        try:
            sha256 = await _receive(content, staged / MODEL_FILE)
            latest = self._models.current.served.get(name)
            if latest is not None and latest.predictor.file.sha256 == sha256:
                return latest, False
            async with self._turn:
                await self._check(staged, sha256)
            version = await self._models.change(name, partial(put_version, folder, name, staged))
        finally:
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)
        return self._models.current.find(name, version), True

    async def remove(self, name: str, version: str | None = None) -> None:
        """Removes a model with all that belongs to it, or one version.

        Requests that have begun are still answered.

        Raises:
            Problem: 404 where there is none, 409 where the version has a label.
            OSError: the folder cannot be written.
        """
        await self._models.change(name, partial(self._alone, name, partial(self._remove, name, version)))

    async def label(self, name: str, label: str, version: str | None) -> None:
        """Gives a label to a version, or takes it away.

        Raises:
            Problem: 404 where there is no such model, version or label, 409 where it is refused.
            OSError: the folder cannot be written.
        """
        await self._models.change(
            name, partial(self._alone, name, partial(self._label, name, label, version))
        )

    def _alone(self, name: str, change: Callable[[], None]) -> None:
        """Runs a change that depends on what there is, which other servers of the folder may have changed."""
        with alone(self._models.folder):
            self._models.look(name)
            change()

    def _remove(self, name: str, version: str | None) -> None:
        versions = self._models.current.versions(name)
        if version is None:
            remove_model(self._models.folder, name)
            return
        if version not in versions.served.keys() | versions.refused.keys():
            raise Problem(ProblemKind.UNKNOWN_VERSION, f"model '{name}' has no version '{version[:64]}'")
        if labels := [f"'{label}'" for label, pinned in versions.pinned.items() if pinned == version]:
            detail = f"version {version} of model '{name}' has the label {', '.join(labels)}"
            raise Problem(ProblemKind.VERSION_LABELLED, detail)
        remove_version(self._models.folder, name, version)

    def _label(self, name: str, label: str, version: str | None) -> None:
        registry = self._models.current
        pinned = dict(registry.versions(name).pinned)
        if version is not None:
            pinned[label] = registry.find(name, version).version
        elif pinned.pop(label, None) is None:
            detail = f"model '{name}' has no label '{label[:64]}' that could be taken away"
            raise Problem(ProblemKind.UNKNOWN_VERSION, detail)
        put_labels(self._models.folder, name, pinned)

    async def _check(self, folder: Path, sha256: str) -> None:
        task = folder / TASK_FILE
        task.write_text(json.dumps({"kind": "check", "sha256": sha256, "options": {}}), "ascii")
        worker = Worker(folder, seconds=self._seconds, most_bytes=self._most_bytes)
        try:
            outcome = await worker.run(_go_on)
        except OSError as error:
            detail = f"no process could be run to check the file: {error.strerror or error}"
            raise Problem(ProblemKind.INTERNAL, detail) from error
        task.unlink()
        if outcome.problem is not None:
            raise ModelError(json.loads(outcome.problem)["detail"])


async def _receive(content: AsyncIterable[bytes], path: Path) -> str:
    """Writes the file as it comes; returns its digest."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        async for chunk in content:
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    return digest.hexdigest()


async def _go_on(_: float | None) -> bool:
    return True
