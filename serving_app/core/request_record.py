"""What is known of the request under way: its id, for answers and logs, and what became of it."""

from __future__ import annotations

import os
import random
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

__all__ = ["REQUEST_ID", "RequestRecord", "current", "current_id", "request_id", "under_way"]

REQUEST_ID = "X-Request-ID"
"""The header, both ways."""
_ids = random.Random()  # noqa: S311  (ids tell requests apart, and guard no secret)
os.register_at_fork(after_in_child=_ids.seed)
_ACCEPTED = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z")


@dataclass(slots=True)
class RequestRecord:
    """One request. Whoever learns something of it writes it here; doors write the rest."""

    id: str
    method: str
    path: str
    started: float = field(default_factory=time.perf_counter)
    """By `time.perf_counter`."""
    route: str = ""
    """The path's pattern, such as ``api/v1/models/<str:name>``; empty: no such path."""
    status: int = 0
    caller: str = ""
    """Whose token it is: ``user:7`` or ``token:<prefix>``."""
    user: str = ""
    """Keyed hash of the user that is recommended to; never the user."""
    model: str = ""
    version: int | None = None
    source: str = ""
    """What answered: ``model``, a level of the cache, ``fallback``; ``batch`` for several."""
    code: str = ""
    """The problem's, if it is one."""


under_way: ContextVar[RequestRecord | None] = ContextVar("recserve_request", default=None)
"""The request of this task or thread. A door sets it, and takes it back."""


def current() -> RequestRecord | None:
    """Return the record of the request under way; None: there is none."""
    return under_way.get()


def current_id() -> str:
    """Return the id of the request under way; empty: there is none."""
    record = under_way.get()
    return "" if record is None else record.id


def request_id(given: str | None) -> str:
    """Return the id that a client gave, if it can be taken as it is, or a new one.

    Ids are 1 to 128 letters, digits and ``._:/+=@-``: they go into headers and logs.
    """
    if given and _ACCEPTED.match(given):
        return given
    return f"{_ids.getrandbits(128):032x}"
