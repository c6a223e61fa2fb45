"""The access log: one structured line for a request, for every door.

Where a server runs, lines are made and written on a thread of their own (`defer`): a line costs
more than a hit does.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from django.conf import settings

from plugins import UserId
from serving_app.core.http_counts import HttpCounts
from serving_app.core.request_record import RequestRecord
from serving_app.log_conf import log_settings
from serving_app.log_writer import LogWriter, write_lines

__all__ = [
    "HTTP",
    "defer",
    "dropped",
    "finished",
    "is_logged",
    "observe",
    "user_hash",
    "write_at_once",
]

logger = logging.getLogger("recserve.access")

HTTP = HttpCounts()
"""The requests of this process."""


class _Line(NamedTuple):
    """A line to be."""

    record: RequestRecord
    seconds: float
    """How long the request took."""
    created: float
    """When it was finished, in Unix seconds."""
    user_id: UserId | None
    """Whose hash is to be in it."""


_observer: Callable[[RequestRecord], None] | None = None
_writer: LogWriter[_Line] | None = None
_dropped = 0
"""By writers before this one."""
_QUIET = ("/api/v1/health", "/metrics", "/static/")
"""Paths that something asks every few seconds: their successes are not worth a line."""


def is_logged() -> bool:
    """Return whether anyone is told of single requests: the log, or a trace."""
    return _observer is not None or logger.isEnabledFor(logging.INFO)


def user_hash(user_id: UserId) -> str:
    """Return what stands for a user in logs: the same user gives the same, and nothing leads back.

    Keyed by ``SECRET_KEY``: without it, not even trying every user says who it is.
    """
    return hashlib.blake2b(
        repr(user_id).encode("utf-8", "surrogatepass"), key=_key(settings.SECRET_KEY), digest_size=8
    ).hexdigest()


@functools.lru_cache(maxsize=4)
def _key(secret: str) -> bytes:
    return hashlib.blake2b(secret.encode(), digest_size=32, person=b"recserve-users").digest()


def observe(observer: Callable[[RequestRecord], None] | None) -> None:
    """Let someone hear of every request that is finished; None: nobody does."""
    global _observer  # noqa: PLW0603  (one per process)
    _observer = observer


def defer() -> None:
    """Let lines be written on a thread from now on, until `write_at_once`."""
    global _writer  # noqa: PLW0603  (one per process)
    if _writer is None:
        _writer = LogWriter(_write)


def write_at_once() -> None:
    """Write the lines that wait, and from now on each before `finished` returns."""
    global _writer, _dropped  # noqa: PLW0603  (one per process)
    writer, _writer = _writer, None
    if writer is not None:
        writer.close()
        _dropped += writer.dropped


def dropped() -> int:
    """Return how many lines were dropped, as whatever takes the log was too slow."""
    return _dropped + (0 if _writer is None else _writer.dropped)


def _forked() -> None:
    """Leave the lines to the parent process, which has the thread that writes them."""
    global _writer  # noqa: PLW0603  (one per process)
    _writer = None


atexit.register(write_at_once)
os.register_at_fork(after_in_child=_forked)


def finished(record: RequestRecord, *, user_id: UserId | None = None) -> None:
    """Take note of a request that was answered, or given up. Any thread calls it; raises nothing.

    Args:
        record: The request; ``status`` 0 says that no answer began. It is not changed any more.
        user_id: Whose hash the line is to have; None: the record has it.
    """
    seconds = time.perf_counter() - record.started
    HTTP.count(record.method, record.route, record.status, seconds)
    if _observer is not None:
        if user_id is not None:
            record.user = user_hash(user_id)
        _observer(record)
    if not logger.isEnabledFor(logging.INFO):
        return
    if 0 < record.status < 400:
        if record.path.startswith(_QUIET):
            return
        part = log_settings().access
        if part < 1 and random.random() >= part:  # noqa: S311  (it samples, and guards no secret)
            return
    line = _Line(record, seconds, time.time(), user_id)
    if _writer is None:
        logger.handle(_log_record(line))
    else:
        _writer.put(line)


def _write(lines: Sequence[_Line]) -> None:
    write_lines(logger, [_log_record(line) for line in lines])


def _log_record(line: _Line) -> logging.LogRecord:
    record = line.record
    if line.user_id is not None:
        record.user = user_hash(line.user_id)
    made = logger.makeRecord(
        logger.name,
        logging.INFO,
        *(__file__, 0, "%s %s %d", (record.method, record.path, record.status), None),
        extra={"recserve": fields_of(record, line.seconds)},
    )
    made.created, made.msecs = line.created, line.created % 1 * 1000
    return made


def fields_of(record: RequestRecord, seconds: float) -> dict[str, object]:
    """Return what the log says of a request, without what is not known."""
    known = {
        "request_id": record.id,
        "method": record.method,
        "path": record.path,
        "route": record.route,
        "status": record.status,
        "latency_ms": round(seconds * 1000, 3),
        "caller": record.caller,
        "user": record.user,
        "model": record.model,
        "version": record.version,
        "source": record.source,
        "code": record.code,
    }
    return {name: value for name, value in known.items() if value not in {"", None}}
