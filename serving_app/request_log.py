"""The access log: one structured line for a request, for every door."""

from __future__ import annotations

import functools
import hashlib
import logging
import random
import time
from collections.abc import Callable

from django.conf import settings

from plugins import UserId
from serving_app.core.http_counts import HttpCounts
from serving_app.core.request_record import RequestRecord
from serving_app.log_conf import log_settings

__all__ = ["HTTP", "finished", "is_logged", "observe", "user_hash"]

logger = logging.getLogger("recserve.access")

HTTP = HttpCounts()
"""The requests of this process."""
_observer: Callable[[RequestRecord], None] | None = None
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


def finished(record: RequestRecord) -> None:
    """Take note of a request that was answered, or given up. Any thread calls it; raises nothing.

    Args:
        record: The request; ``status`` 0 says that no answer began.
    """
    seconds = time.perf_counter() - record.started
    HTTP.count(record.method, record.route, record.status, seconds)
    if _observer is not None:
        _observer(record)
    if not logger.isEnabledFor(logging.INFO):
        return
    if 0 < record.status < 400:
        if record.path.startswith(_QUIET):
            return
        part = log_settings().access
        if part < 1 and random.random() >= part:  # noqa: S311  (it samples, and guards no secret)
            return
    logger.info(
        "%s %s %d", record.method, record.path, record.status, extra={"recserve": fields_of(record)}
    )


def fields_of(record: RequestRecord) -> dict[str, object]:
    """Return what the log says of a request, without what is not known."""
    known = {
        "request_id": record.id,
        "method": record.method,
        "path": record.path,
        "route": record.route,
        "status": record.status,
        "latency_ms": round((time.perf_counter() - record.started) * 1000, 3),
        "caller": record.caller,
        "user": record.user,
        "model": record.model,
        "version": record.version,
        "source": record.source,
        "code": record.code,
    }
    return {name: value for name, value in known.items() if value not in {"", None}}
