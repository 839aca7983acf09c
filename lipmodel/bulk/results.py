"""Read and write the folder of results: one file per partition, complete or absent.

The metadata of each file name the rows and the settings that its results belong to, so the remaining work
follows from the files themselves; there is no separate record that could disagree.
"""

from __future__ import annotations

import importlib.util
import json
import posixpath
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from lipmodel.bulk.partitions import MAX_OPEN_FILES, Partition, open_store, store_errors
from lipmodel.errors import DataError, MissingExtraError

MEMBER = b"lipcert"


@dataclass(frozen=True)
class ResultsKey:
    """The model and settings that results belong to.

    Attributes:
        sha256: digest of the model file.
        norm: norm of the radii.
        tighten: whether the radii are tightened.
    """

    sha256: str
    norm: str
    tighten: bool


class Results:
    """A folder of results, local or in an object store.

    Args:
        url: path or URL of the folder.
        key: the model and settings of the results.

    Raises:
        MissingExtraError: fsspec or pyarrow is not installed.
    """

    def __init__(self, url: str, key: ResultsKey) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise MissingExtraError("results as parquet", "tables")
        self._url, self._key = url, key
        self._store, self._folder = open_store(url)

    def missing(self, partitions: list[Partition]) -> list[Partition]:
        """Return the partitions without results, or whose file has been rewritten since.

        Raises:
            DataError: the folder contains other files, or cannot be read.
        """
        by_path = {self._path(partition): partition for partition in partitions}
        found = set(self._paths())
        for path in sorted(found):
            if path not in by_path and not _is_temporary(path):
                raise DataError(
                    f"{self._url} contains {posixpath.relpath(path, self._folder)}, which is not a result of "
                    "these inputs; use another folder or remove the file"
                )
        present = [path for path in by_path if path in found]
        with ThreadPoolExecutor(MAX_OPEN_FILES) as threads:
            complete = threads.map(lambda path: self._is_complete(path, by_path[path]), present)
        done = {path for path, whole in zip(present, complete, strict=True) if whole}
        return [partition for path, partition in by_path.items() if path not in done]

    def write(self, partition: Partition, tables: Iterator[Any]) -> None:
        """Write the results of a partition to a temporary file, and rename it once complete.

        Raises:
            DataError: the folder cannot be written.
        """
        import pyarrow.parquet as pq

        path = self._path(partition)
        folder, name = posixpath.split(path)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
        metadata = json.dumps(asdict(self._key) | asdict(partition), sort_keys=True)
        first = next(tables)
        schema = first.schema.with_metadata({MEMBER: metadata})
        with store_errors(self._url):
            self._store.makedirs(folder, exist_ok=True)
        try:
            with self._store.open(temporary, "wb") as file, pq.ParquetWriter(file, schema) as writer:
                writer.write_table(first.replace_schema_metadata(schema.metadata))
                for table in tables:
                    writer.write_table(table.replace_schema_metadata(schema.metadata))
            self._store.mv(temporary, path)
        except BaseException as error:
            if self._store.exists(temporary):
                self._store.rm(temporary)
            if isinstance(error, OSError):
                raise DataError(f"{self._url} cannot be written: {error}") from error
            raise

    def sweep(self) -> None:
        """Remove the temporary files of killed writers; call only when all results are complete."""
        with store_errors(self._url):
            for path in filter(_is_temporary, self._paths()):
                self._store.rm(path)

    def _path(self, partition: Partition) -> str:
        return f"{self._folder.rstrip('/')}/{partition.name}"

    def _paths(self) -> list[str]:
        with store_errors(self._url):
            self._store.invalidate_cache()
            return list(self._store.find(self._folder))

    def _is_complete(self, path: str, partition: Partition) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with store_errors(self._url), self._store.open(path, "rb") as file:
                found = pq.ParquetFile(file)
                metadata = json.loads(found.schema_arrow.metadata[MEMBER])
                rows = found.metadata.num_rows
        except (DataError, pa.ArrowException, KeyError, TypeError, ValueError):  # the writer lost power
            return False
        if {name: metadata.get(name) for name in asdict(self._key)} != asdict(self._key):
            raise DataError(
                f"{self._url} contains results of another model, norm or tier ({posixpath.basename(path)}); "
                "use another folder"
            )
        return rows == partition.rows and all(
            metadata.get(name) == value for name, value in asdict(partition).items()
        )


def _is_temporary(path: str) -> bool:
    return posixpath.basename(path).startswith(".")
