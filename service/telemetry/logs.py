"""The log on standard error: lines of text or JSON, with the id of the request.

Inputs are never logged: no body, no query, and only the type and traceback of an unexpected exception, since
its message may quote an input.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

REQUEST_ID: ContextVar[bytes | None] = ContextVar("request_id", default=None)
"""Id of the current request; None outside a request."""


def set_up(form: str) -> None:
    """Send the log of the whole process to standard error, in the form "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("service").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # its warnings quote the request


def printable(text: str) -> str:
    """Return the text with escapes in place of line ends, terminal controls and lone surrogates.

    File names may contain such characters, and would add lines of their own to the log.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def traceback_without_message(error: BaseException) -> str:
    """Return the traceback and type of an exception, without its message."""
    frames = traceback.format_tb(error.__traceback__)
    return "".join([*frames, type(error).__name__])


def _record(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a line: time, level, logger, message, and request_id and exception if any."""
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    if request_id := REQUEST_ID.get():
        fields["request_id"] = request_id.decode()
    fields |= getattr(record, "fields", {})
    if record.exc_info:
        fields["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return fields


class JsonLines(logging.Formatter):
    """Formatter of one JSON object per line, whatever the message contains."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON, in ASCII."""
        return json.dumps(_record(record), default=str)


class TextLines(logging.Formatter):
    """Formatter of text lines; the indented lines of an exception follow."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        fields = _record(record)
        exception = fields.pop("exception", "")
        head = " ".join(str(fields.pop(name)) for name in ("time", "level", "logger", "message"))
        line = " ".join([head, *(f"{name}={json.dumps(value)}" for name, value in fields.items())])
        return "\n  ".join(map(printable, [line, *exception.splitlines()]))
