"""Events out of a CSV file: checked as a whole, then recorded part by part, resumably."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from serving_app.activity import prune, record_events
from serving_app.activity_models import EventImport
from serving_app.core.activity import NewEvent
from serving_app.demo.interactions import rows_of

__all__ = ["EventFile", "ImportedElsewhere", "import_events", "look_at"]

_COLUMNS = ("user", "item", "rating", "timestamp")
_PART = 2000
"""Rows recorded in one transaction, at least; one that more follow of the same visit is longer."""
_LATEST = 253_402_300_000.0
"""Unix seconds, just before the year 10000."""
_DAY = 86_400.0


class ImportedElsewhere(Exception):
    """Two processes import one file; the one that raises it has recorded nothing twice."""


@dataclass(frozen=True, slots=True)
class EventFile:
    """A file that was read once, and is sound."""

    path: Path
    sha256: str
    rows: int
    first: float
    """The earliest time in it, in Unix seconds."""
    last: float


def look_at(path: Path) -> EventFile:
    """Return what is in a CSV file with the columns user, item, rating and timestamp.

    Plain, ``.xz`` or ``.gz``; ``timestamp`` is in Unix seconds; further columns are ignored.

    Raises:
        ValueError: The file cannot be read, or a value is rubbish; the message names the place.
    """
    rows, first, last = 0, float("inf"), float("-inf")
    for rows, event in enumerate(_events(path, "purchase", ""), 1):  # noqa: B007  (the last stays)
        first, last = min(first, event.at), max(last, event.at)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return EventFile(path, digest, rows, first, last)


def _events(path: Path, kind: str, model: str) -> Iterator[NewEvent]:
    for line, (user, item, value, at) in rows_of(path, _COLUMNS):
        for name, text in (("user", user), ("item", item)):
            if not 0 < len(text) <= 256 or not text.isprintable():
                raise ValueError(
                    f"{path}, line {line}, column {name}: {text[:50]!r} is not an id of 1 to 256 "
                    "printable characters."
                )
        seconds = _number(path, line, "timestamp", at)
        if not 0 <= seconds < _LATEST:
            raise ValueError(f"{path}, line {line}, column timestamp: {at!r} is no Unix time.")
        rating = _number(path, line, "rating", value)
        yield NewEvent(user, item, kind, model, seconds, rating)


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("inf")
    if not abs(number) < 1e300:
        raise ValueError(f"{path}, line {line}, column {column}: {text[:50]!r} is not a number.")
    return number


def import_events(
    file: EventFile,
    row: EventImport,
    *,
    days: float,
    progress: Callable[[int], None],
) -> None:
    """Record the events of a file, from where an import of it stands.

    A part and how far it goes are written together: an import that ends anywhere, in whatever way,
    has recorded each row once or not yet, and goes on there.

    Args:
        file: The file.
        row: How far it was imported.
        days: Events older than that are left out.
        progress: Called with the rows done.

    Raises:
        DatabaseError: The database does not take a part.
        ImportedElsewhere: Another process has imported a part meanwhile.
    """
    progress(row.done)
    rest = islice(_events(file.path, row.kind, row.model), row.done, None)
    for part in _parts(rest):
        oldest = timezone.now().timestamp() - days * _DAY
        kept = [
            NewEvent(e.user, e.item, e.kind, e.model, e.at + row.shift, e.value)
            for e in part
            if e.at + row.shift >= oldest
        ]
        with transaction.atomic():
            done, skipped = row.done + len(part), row.skipped + len(part) - len(kept)
            mine = EventImport.objects.filter(pk=row.pk, done=row.done)
            if not mine.update(done=done, skipped=skipped):
                raise ImportedElsewhere(f"Another process is importing {row.name}.")
            record_events(kept)
        row.done, row.skipped = done, skipped
        progress(row.done)
    row.finished = timezone.now()
    row.save(update_fields=["finished"])
    prune()


def _parts(events: Iterator[NewEvent]) -> Iterator[list[NewEvent]]:
    """Yield events in parts. Lines of one visit that follow each other stay together."""
    part: list[NewEvent] = []
    for event in events:
        if len(part) >= _PART and (event.user, event.at) != (part[-1].user, part[-1].at):
            yield part
            part = []
        part.append(event)
    if part:
        yield part
