"""How log lines look: JSON for machines, plain for people; each with its request's id."""

from __future__ import annotations

import logging
import time
import traceback

import msgspec

from serving_app.core.request_record import current_id

__all__ = ["JSONFormatter", "PlainFormatter", "Unexpected"]


class JSONFormatter(logging.Formatter):
    """One JSON object a line. Tracebacks are text without local variables, however large."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": _instant(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        more = getattr(record, "recserve", None)
        if isinstance(more, dict):
            line.update(more)
        elif request := current_id():
            line["request_id"] = request
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode()


class PlainFormatter(logging.Formatter):
    """A line as people read it; fields after the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = super().format(record)
        more = getattr(record, "recserve", None)
        if isinstance(more, dict):
            shown = {k: v for k, v in more.items() if k not in {"method", "path", "status"}}
            return line + "".join(f" {name}={value}" for name, value in shown.items())
        request = current_id()
        return f"{line} request_id={request}" if request else line


class Unexpected(logging.Filter):
    """Drops what Django logs of answers that say 'not now', or 'not here'.

    While a model is away there are thousands, each of which has its line in the access log; and a
    client that asks for what the server does not do is no fault of the server's.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is of an error that nobody foresaw."""
        return getattr(record, "status_code", None) not in {501, 503, 504}


def _instant(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created % 1 * 1000):03d}Z"
