"""Changes of models that are asked for while they are served: uploads, removals, labels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from lipmodel.errors import ModelError
from lipmodel.network.reader.external_data import HOW_TO_SAVE_ONE_FILE
from service.models.checks import Checks, File
from service.models.layout import MODEL_FILE
from service.models.registry import LATEST, Model
from service.models.watcher import Models
from service.models.writer import alone, put_labels, put_version, remove_model, remove_version, staging
from service.problems import Problem, ProblemKind

MAX_UPLOADS = 8
"""At a time; each may hold as much of the disk as one file may have."""
RETRY_SECONDS = 5


class Changes:
    """Changes models.

    Args:
        models: that are changed.
        checks: what has uploads checked before they are served.
    """

    def __init__(self, models: Models, checks: Checks) -> None:
        self._models, self._checks = models, checks
        self._uploads = 0

    async def add(self, name: str, content: AsyncIterable[bytes], *, force: bool) -> tuple[Model, bool]:
        """Serves a file as the next version of a model; one that is the latest already changes nothing.

        The file is read, run and bounded by a process with limits first: what would bring that down
        does not come near this one.

        Args:
            name: of the model.
            content: of the file.
            force: whether it may become the default though clients of the present one would break.

        Returns:
            The version, and whether it is new.

        Raises:
            ModelError: the file is refused, or was more than the process could bear.
            Problem: 429 where too many uploads are under way, 409 where clients would break.
            OSError: the folder cannot be written.
        """
        if self._uploads >= MAX_UPLOADS:
            detail = f"{self._uploads} uploads are under way; at most {MAX_UPLOADS} at a time are accepted"
            raise Problem(ProblemKind.QUEUE_FULL, detail, headers={"Retry-After": str(RETRY_SECONDS)})
        self._uploads += 1
        stack = ExitStack()
        try:
            staged = await asyncio.to_thread(stack.enter_context, staging(self._models.folder))
            await _receive(content, staged / MODEL_FILE)
            file = await asyncio.to_thread(self._checks.look_up, staged / MODEL_FILE)
            latest = self._models.current.served.get(name)
            if latest is not None and latest.predictor.file.sha256 == file.digest:
                return latest, False
            await self._check(file)
            version = await self._models.change(name, partial(self._put, name, staged, force))
        finally:
            self._uploads -= 1
            await asyncio.to_thread(stack.close)
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
            labelled = f"version {version} of model '{name}' has the label {', '.join(labels)}"
            raise Problem(ProblemKind.VERSION_LABELLED, f"{labelled}; move or remove that first")
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

    async def _check(self, file: File) -> None:
        verdict = file.verdict
        try:
            if verdict is None or verdict.ran_out:  # there may be more time or memory now
                verdict = await asyncio.wrap_future(self._checks.submit(file))
        except OSError as error:
            detail = f"no process could be run to check the file: {error.strerror or error}"
            raise Problem(ProblemKind.INTERNAL, detail) from error
        locations = (await asyncio.to_thread(self._checks.look_up, file.path)).locations
        if locations:
            raise ModelError(
                f"it keeps external data in {locations[0][:80]!r}, and an upload is one file; "
                f"{HOW_TO_SAVE_ONE_FILE}"
            )
        if verdict.reason is not None:
            raise ModelError(verdict.reason)

    def _put(self, name: str, staged: Path, force: bool) -> str:
        """Puts a version into the folder, and takes it out again where it would break clients unasked."""
        version = put_version(self._models.folder, name, staged, force=force)
        self._models.look(name)
        versions = self._models.current.versions(name)
        if version in versions.held_back and LATEST not in versions.pinned:
            remove_version(self._models.folder, name, version)
            detail = f"{versions.held_back[version]}; send it under another name, or with ?force=true"
            raise Problem(ProblemKind.INCOMPATIBLE_VERSION, detail)
        return version


async def _receive(content: AsyncIterable[bytes], path: Path) -> None:
    """Writes the file as it comes."""
    with path.open("xb") as file:
        async for chunk in content:
            await asyncio.to_thread(file.write, chunk)
