"""What the service writes to its standard error: lines of text, or of JSON, with the id of the request.

Nothing of an input is ever logged: no body, no query, and of a fault that nobody foresaw its type and
place alone, since its message may quote what was sent.
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
"""Of the request that is being answered; None outside of any."""


def set_up(form: str) -> None:
    """Sends the log of the whole process to standard error, in that form: "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("service").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # its warnings quote what was sent


def printable(text: str) -> str:
    """Return the text with escapes in place of line ends, terminal controls and lone surrogates.

    Names of files may hold any of these, and would write lines of their own into the log.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def told_apart(error: BaseException) -> str:
    """Type and place of a fault, without its message."""
    frames = traceback.format_tb(error.__traceback__)
    return "".join([*frames, type(error).__name__])


def _record(record: logging.LogRecord) -> dict[str, Any]:
    """What a line holds: time, level, logger, message; request_id and a fault's place where there are any."""
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
    """One JSON object a line, whatever a message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, in ASCII."""
        return json.dumps(_record(record), default=str)


class TextLines(logging.Formatter):
    """The same for people; further lines, which are indented, are of a fault."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        fields = _record(record)
        exception = fields.pop("exception", "")
        head = " ".join(str(fields.pop(name)) for name in ("time", "level", "logger", "message"))
        line = " ".join([head, *(f"{name}={json.dumps(value)}" for name, value in fields.items())])
        return "\n  ".join(map(printable, [line, *exception.splitlines()]))
