"""Administration of models while they are served: uploads, removals and labels."""

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
from service.models.writer import exclusive, put_labels, put_version, remove_model, remove_version, staging
from service.problems import Problem, ProblemKind

MAX_UPLOADS = 8
"""Uploads at a time; each may take as much disk as the largest model file."""
RETRY_SECONDS = 5


class ModelAdmin:
    """Changes to the models folder on behalf of callers."""

    def __init__(self, models: Models, checks: Checks) -> None:
        self._models, self._checks = models, checks
        self._uploads = 0

    async def add(self, name: str, content: AsyncIterable[bytes], *, force: bool) -> tuple[Model, bool]:
        """Serve an uploaded file as the next version of a model, unless it equals the default version's.

        An isolated process with limits of time and memory reads, runs and bounds the file first.

        Args:
            name: of the model.
            content: of the file.
            force: make it the default even if clients of the present default would break.

        Returns:
            The version, and whether it is new.

        Raises:
            ModelError: the file is refused, or its check exceeded a limit.
            Problem: 429 at the limit of concurrent uploads, 409 where clients would break.
            OSError: the folder cannot be written.
        """
        if self._uploads >= MAX_UPLOADS:
            detail = f"concurrency limit of uploads reached ({MAX_UPLOADS} in progress); try again later"
            raise Problem(ProblemKind.QUEUE_FULL, detail, headers={"Retry-After": str(RETRY_SECONDS)})
        self._uploads += 1
        stack = ExitStack()
        try:
            staged = await asyncio.to_thread(stack.enter_context, staging(self._models.folder))
            await _receive(content, staged / MODEL_FILE)
            file = await asyncio.to_thread(self._checks.look_up, staged / MODEL_FILE)
            latest = self._models.current.defaults.get(name)
            if latest is not None and latest.predictor.file.sha256 == file.digest:
                return latest, False
            await self._check(file)
            version = await self._models.change(name, partial(self._put, name, staged, force))
        finally:
            self._uploads -= 1
            await asyncio.to_thread(stack.close)
        return self._models.current.find(name, version), True

    async def remove(self, name: str, version: str | None = None) -> None:
        """Remove a model and all its files, or one version; requests in progress are still answered.

        Raises:
            Problem: 404 where there is no such model or version, 409 where the version has a label.
            OSError: the folder cannot be written.
        """
        await self._exclusively(name, partial(self._remove, name, version))

    async def label(self, name: str, label: str, version: str | None) -> None:
        """Assign a label to a version, given by number or label; None removes the label.

        Raises:
            Problem: 404 where there is no such model, version or label, 409 where the version is refused.
            OSError: the folder cannot be written.
        """
        await self._exclusively(name, partial(self._label, name, label, version))

    async def _exclusively(self, name: str, change: Callable[[], None]) -> None:
        """Make a change that depends on the folder's state, which other servers may have changed."""

        def locked() -> None:
            with exclusive(self._models.folder):
                self._models.poll(name)
                change()

        await self._models.change(name, locked)

    def _remove(self, name: str, version: str | None) -> None:
        versions = self._models.current.versions(name)
        if version is None:
            remove_model(self._models.folder, name)
            return
        if version not in versions.served.keys() | versions.refused.keys():
            raise Problem(ProblemKind.UNKNOWN_VERSION, f"model '{name}' has no version '{version[:64]}'")
        if labels := [f"'{label}'" for label, pinned in versions.pinned.items() if pinned == version]:
            labelled = f"version {version} of model '{name}' has the label {', '.join(labels)}"
            raise Problem(ProblemKind.VERSION_LABELLED, f"{labelled}; move or remove the label first")
        remove_version(self._models.folder, name, version)

    def _label(self, name: str, label: str, version: str | None) -> None:
        registry = self._models.current
        pinned = dict(registry.versions(name).pinned)
        if version is not None:
            pinned[label] = registry.find(name, version).version
        elif pinned.pop(label, None) is None:
            detail = f"model '{name}' has no label '{label[:64]}'"
            raise Problem(ProblemKind.UNKNOWN_VERSION, detail)
        put_labels(self._models.folder, name, pinned)

    async def _check(self, file: File) -> None:
        verdict = file.verdict
        try:
            if verdict is None or verdict.ran_out:  # the limits may be larger now
                verdict = await asyncio.wrap_future(self._checks.submit(file))
        except OSError as error:
            detail = f"the process that checks files could not be run: {error.strerror or error}"
            raise Problem(ProblemKind.INTERNAL, detail) from error
        locations = (await asyncio.to_thread(self._checks.look_up, file.path)).locations
        if locations:
            found = f"it keeps external data in {locations[0][:80]!r}, and an upload is one file"
            raise ModelError(f"{found}; {HOW_TO_SAVE_ONE_FILE}")
        if verdict.reason is not None:
            raise ModelError(verdict.reason)

    def _put(self, name: str, staged: Path, force: bool) -> str:
        """Add a version to the folder; remove it again where it would break clients and is not forced."""
        version = put_version(self._models.folder, name, staged, force=force)
        self._models.poll(name)
        versions = self._models.current.versions(name)
        if version in versions.held_back and LATEST not in versions.pinned:
            remove_version(self._models.folder, name, version)
            detail = f"{versions.held_back[version]}; upload it under another name, or with ?force=true"
            raise Problem(ProblemKind.INCOMPATIBLE_VERSION, detail)
        return version


async def _receive(content: AsyncIterable[bytes], path: Path) -> None:
    """Write a file as its content arrives."""
    with path.open("xb") as file:
        async for chunk in content:
            await asyncio.to_thread(file.write, chunk)
