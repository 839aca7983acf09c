"""Reading of weights that an ONNX file keeps in other files of its folder (``NAME.onnx.data``)."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto

from lipmodel.errors import FileFormatError

HOW_TO_SAVE_ONE_FILE = (
    "save a single file: onnx.save_model(onnx.load('model.onnx'), 'single.onnx', save_as_external_data=False)"
)


MAX_BYTES = 2**31 - 1
"""Maximum size of all weight files of a model together: a protobuf cannot be larger."""
MAX_NAMES = 2**16
"""Maximum characters of the names of all weight files of a model together."""


def is_external(tensor: onnx.TensorProto) -> bool:
    """Return whether the numbers of a tensor are in another file."""
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def external_locations(model: onnx.ModelProto) -> list[str]:
    """Return the names of the weight files of a model, as the model gives them.

    Raises:
        FileFormatError: the names are too many, or too long.
    """
    locations = {_location(tensor) for tensor in model.graph.initializer if is_external(tensor)}
    if (length := sum(map(len, locations))) > MAX_NAMES:
        raise FileFormatError(
            f"the names of its {len(locations)} weight files have {length} characters; at most {MAX_NAMES} "
            f"are accepted; {HOW_TO_SAVE_ONE_FILE}"
        )
    return sorted(locations)


def digest_of(path: Path, locations: Iterable[str] = (), *, max_bytes: int) -> str:
    """Return the digest of a model's file and weight files, equal to ``OnnxFile.sha256``.

    Nothing is parsed, and little is kept in memory. A weight file that is missing or refused, or exceeds the
    limit together with those before it, counts as unreadable, so that the digest changes once it is mended.

    Raises:
        FileFormatError: the model's own file is too large, or is not a regular file.
        OSError: the model's own file cannot be read.
    """
    with _open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise FileFormatError(f"the file has {size} bytes; at most {max_bytes} are accepted")
        digest = hashlib.file_digest(file, "sha256")
    left = max_bytes
    for location in sorted(locations):
        try:
            with _open_regular(_place(path.parent, location)) as file:
                left -= os.fstat(file.fileno()).st_size
                found = hashlib.file_digest(file, "sha256").hexdigest() if left >= 0 else "unreadable"
        except (FileFormatError, OSError):
            found = "unreadable"
        digest.update(_line(location, found))
    return digest.hexdigest()


def embed_external_data(model: onnx.ModelProto, folder: Path) -> list[bytes]:
    """Copy the numbers of external initialisers into a model.

    Args:
        model: model, changed in place.
        folder: folder of the model's file; no file outside of it is read, and no link is followed.

    Returns:
        Name and digest of each file read, one line each in a fixed order, for the model's own digest.

    Raises:
        FileFormatError: a location outside the folder, a missing file, an offset beyond its end.
    """
    external_locations(model)  # raises where there are too many
    contents: dict[str, bytes] = {}
    left, embedded = MAX_BYTES, 0
    for tensor in filter(is_external, model.graph.initializer):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = _location(tensor)
        if location not in contents:
            contents[location] = _read(folder, location, tensor.name, left)
            left -= len(contents[location])
        content = contents[location]
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(len(content) - offset)))
        except ValueError as error:
            raise FileFormatError(
                f"initializer '{tensor.name}' has a malformed offset or length: {error}"
            ) from error
        if not 0 <= offset <= offset + length <= len(content):
            raise FileFormatError(
                f"initializer '{tensor.name}' has bytes {offset} to {offset + length} of '{location}', which "
                f"has only {len(content)}"
            )
        embedded += length
        if embedded > MAX_BYTES:
            raise FileFormatError(
                f"the initializers have {embedded} bytes in other files; at most {MAX_BYTES} are accepted"
            )
        tensor.raw_data = content[offset : offset + length]
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
    return [_line(location, hashlib.sha256(contents[location]).hexdigest()) for location in sorted(contents)]


def _location(tensor: onnx.TensorProto) -> str:
    return str({entry.key: entry.value for entry in tensor.external_data}.get("location", ""))


def _line(location: str, sha256: str) -> bytes:
    return f"{location}:{sha256}".encode()


def _read(folder: Path, location: str, tensor: str, left: int) -> bytes:
    try:
        place = _place(folder, location, tensor)
        if (size := place.stat().st_size) > left:
            raise FileFormatError(
                f"initializer '{tensor}': {location[:80]!r} has {size} bytes; at most {MAX_BYTES} are "
                "accepted in all weight files together"
            )
        return place.read_bytes()
    except OSError as error:
        raise FileFormatError(
            f"initializer '{tensor}' has its data in {location[:80]!r}, which cannot be read "
            f"({error.strerror or error}); put that file beside the model, or {HOW_TO_SAVE_ONE_FILE}"
        ) from error


def _open_regular(path: Path) -> BufferedReader:
    """Open a regular file; a pipe or device that has replaced it could block, or have no end.

    Raises:
        FileFormatError: it is not a regular file.
        OSError: it cannot be opened.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise FileFormatError("it is not a regular file")


def _place(folder: Path, location: str, tensor: str = "") -> Path:
    """Return the path of a weight file of a tensor.

    Raises:
        FileFormatError: it is not a regular file in the folder itself.
        OSError: it cannot be found.
    """
    parts = PurePosixPath(location).parts
    path = folder.joinpath(*parts)
    if not parts or "\\" in location or "\0" in location or path.is_absolute() != folder.is_absolute():
        raise FileFormatError(f"initializer '{tensor}' has a malformed file name: {location[:80]!r}")
    if PurePosixPath(location).is_absolute() or ".." in parts:
        raise FileFormatError(
            f"initializer '{tensor}' has its data in {location[:80]!r}, outside the model's folder; "
            f"{HOW_TO_SAVE_ONE_FILE}"
        )
    # Not Path.resolve, whose RuntimeError for links in a circle is no OSError.
    if Path(os.path.realpath(path, strict=True)) != folder.resolve().joinpath(*parts):
        raise FileFormatError(
            f"initializer '{tensor}' has its data behind a symbolic link, {location[:80]!r}; replace the "
            "link by the file"
        )
    if not path.is_file():
        raise FileFormatError(f"initializer '{tensor}': {location[:80]!r} is not a regular file")
    return path
