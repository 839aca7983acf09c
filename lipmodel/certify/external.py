"""Weights that an ONNX file keeps in files beside it (``NAME.onnx.data``): read, from its own folder only."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto

from lipmodel.errors import FileFormatError

HOW_TO_SAVE_ONE_FILE = (
    "save a single file: onnx.save_model(onnx.load('model.onnx'), 'single.onnx', save_as_external_data=False)"
)


MAX_BYTES = 2**31 - 1
"""Of a file beside the model, and of all that is read of them: a protobuf cannot be larger."""


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's numbers are in another file."""
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def embed_external_data(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Puts the numbers of external initialisers into the model itself.

    Args:
        model: changed in place.
        folder: where the model's file lies; nothing outside of it is read, and no link is followed.

    Returns:
        The digest of each file read, with its name, in a fixed order, for the model's own digest.

    Raises:
        FileFormatError: a location outside the folder, a missing file, a place beyond its end.
    """
    contents: dict[str, bytes] = {}
    embedded = 0
    for tensor in filter(is_external, model.graph.initializer):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in contents:
            contents[location] = _read(folder, location, tensor.name)
        content = contents[location]
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(len(content) - offset)))
        except ValueError as error:
            raise FileFormatError(f"initializer '{tensor.name}' has a malformed place: {error}") from error
        if not 0 <= offset <= offset + length <= len(content):
            raise FileFormatError(
                f"initializer '{tensor.name}' lies at bytes {offset} to {offset + length} of '{location}', "
                f"which has {len(content)}"
            )
        embedded += length
        if embedded > MAX_BYTES:
            raise FileFormatError(
                f"its initializers keep {embedded} bytes in other files; at most {MAX_BYTES} are accepted"
            )
        tensor.raw_data = content[offset : offset + length]
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
    return [f"{location}:{hashlib.sha256(contents[location]).hexdigest()}" for location in sorted(contents)]


def _read(folder: Path, location: str, tensor: str) -> bytes:
    parts = PurePosixPath(location).parts
    path = folder.joinpath(*parts)
    if not parts or "\\" in location or "\0" in location or path.is_absolute() != folder.is_absolute():
        raise FileFormatError(f"initializer '{tensor}' names no file: {location[:80]!r}")
    if PurePosixPath(location).is_absolute() or ".." in parts:
        raise FileFormatError(
            f"initializer '{tensor}' keeps its data in {location[:80]!r}, outside the model's own folder; "
            f"{HOW_TO_SAVE_ONE_FILE}"
        )
    try:
        if path.resolve(strict=True) != folder.resolve(strict=True).joinpath(*parts):
            raise FileFormatError(f"initializer '{tensor}' keeps its data behind a link: {location[:80]!r}")
        if not path.is_file():
            raise FileFormatError(f"initializer '{tensor}': {location[:80]!r} is no regular file")
        if path.stat().st_size > MAX_BYTES:
            raise FileFormatError(
                f"initializer '{tensor}': {location[:80]!r} has {path.stat().st_size} bytes; at most "
                f"{MAX_BYTES} are accepted"
            )
        return path.read_bytes()
    except OSError as error:
        raise FileFormatError(
            f"initializer '{tensor}' keeps its data in {location[:80]!r}, which cannot be read "
            f"({error.strerror or error}); put that file beside the model, or {HOW_TO_SAVE_ONE_FILE}"
        ) from error
