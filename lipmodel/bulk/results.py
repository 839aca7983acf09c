"""Files of results: which there are, and how one comes to be, whole or not at all.

Each says in its metadata what it was made from, so whether work is left is a look at what is there: no file
besides keeps account of it, which could say something else.
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

from lipmodel.bulk.partitions import LOOKERS, Partition
from lipmodel.bulk.stores import open_store, reached
from lipmodel.errors import DataError, MissingExtraError

MEMBER = b"lipcert"


@dataclass(frozen=True)
class Terms:
    """What was asked of the rows.

    Attributes:
        sha256: digest of the model's file.
        norm: of the radii.
        tighten: whether they are those of the slower tier.
    """

    sha256: str
    norm: str
    tighten: bool


class Results:
    """The folder that results are kept in, here or in an object store.

    Args:
        url: of the folder.
        terms: see there.

    Raises:
        MissingExtraError: fsspec or pyarrow is not installed.
    """

    def __init__(self, url: str, terms: Terms) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise MissingExtraError("results as parquet", "tables")
        self._url, self._terms = url, terms
        self._store, self._folder = open_store(url)

    def missing(self, partitions: list[Partition]) -> list[Partition]:
        """Those that have no results yet, or of which the file was written again since.

        Raises:
            DataError: the folder holds something that is not among these results, or cannot be read.
        """
        by_path = {self._path(partition): partition for partition in partitions}
        found = set(self._found())
        for path in sorted(found):
            if path not in by_path and not _is_temporary(path):
                raise DataError(
                    f"{self._url} holds {posixpath.relpath(path, self._folder)}, which is none of the "
                    "results that belong there; give another folder, or take it away"
                )
        there = [path for path in by_path if path in found]
        with ThreadPoolExecutor(LOOKERS) as threads:
            stands = threads.map(lambda path: self._stands(path, by_path[path]), there)
        done = {path for path, whole in zip(there, stands, strict=True) if whole}
        return [partition for path, partition in by_path.items() if path not in done]

    def write(self, partition: Partition, tables: Iterator[Any]) -> None:
        """Writes the results of a partition, and only once they are whole gives them their name.

        Raises:
            DataError: they cannot be written.
        """
        import pyarrow.parquet as pq

        path = self._path(partition)
        folder, name = posixpath.split(path)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
        told = json.dumps(asdict(self._terms) | asdict(partition), sort_keys=True)
        first = next(tables)
        schema = first.schema.with_metadata({MEMBER: told})
        with reached(self._url):
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
        """Removes what writers that were killed left; for when all results are there."""
        with reached(self._url):
            for path in filter(_is_temporary, self._found()):
                self._store.rm(path)

    def _path(self, partition: Partition) -> str:
        return f"{self._folder.rstrip('/')}/{partition.name}"

    def _found(self) -> list[str]:
        with reached(self._url):
            self._store.invalidate_cache()
            return list(self._store.find(self._folder))

    def _stands(self, path: str, partition: Partition) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with reached(self._url), self._store.open(path, "rb") as file:
                found = pq.ParquetFile(file)
                told = json.loads(found.schema_arrow.metadata[MEMBER])
                rows = found.metadata.num_rows
        except (DataError, pa.ArrowException, KeyError, TypeError, ValueError):  # a writer lost its power
            return False
        if {name: told.get(name) for name in asdict(self._terms)} != asdict(self._terms):
            raise DataError(
                f"{self._url} holds results of another model, norm or tier ({posixpath.basename(path)}); "
                "give another folder"
            )
        return rows == partition.rows and all(
            told.get(name) == value for name, value in asdict(partition).items()
        )


def _is_temporary(path: str) -> bool:
    return posixpath.basename(path).startswith(".")
