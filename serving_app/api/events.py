"""JSON body → events."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from plugins import InvalidInput, UserId
from serving_app.core.activity import EVENT_KINDS, NewEvent

__all__ = ["FIELDS", "event_of", "listed_events", "user_of"]

FIELDS = ("user_id", "item_id", "kind", "model_name", "at", "value", "event_id")
"""The fields of an event."""
AHEAD = 300.0
"""Seconds by which the clock of who tells may be ahead."""
_MAX_ID, _MAX_EVENT_ID, _MAX_MODEL = 256, 128, 100
_DAY = 86_400.0


def listed_events(body: Any, most: int) -> list[Any]:
    """Return the values that stand for events in a body.

    Raises:
        InvalidInput: The body lists none, or more than may be.
    """
    if not isinstance(body, Mapping) or not isinstance(body.get("events"), list):
        raise InvalidInput("events must be a list of events.", field="events")
    unknown = sorted(map(str, body.keys() - {"events"}))
    if unknown:
        raise InvalidInput(
            f"Unknown field {unknown[0][:50]!r}. The only field is events.", field=unknown[0][:50]
        )
    events: list[Any] = body["events"]
    if not 1 <= len(events) <= most:
        raise InvalidInput(
            f"events must hold 1 to {most} events; it holds {len(events)}.", field="events"
        )
    return events


def event_of(value: Any, *, now: float, days: float) -> NewEvent:
    """Return the event that a JSON value describes.

    Args:
        value: The JSON value.
        now: Unix seconds.
        days: For how long events are kept.

    Raises:
        InvalidInput: It describes none; the message names the field and what it must be.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput("An event must be a JSON object.", field="")
    for name in value:
        if name not in FIELDS:
            close = difflib.get_close_matches(str(name), FIELDS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InvalidInput(
                f"Unknown field {str(name)[:50]!r}.{hint} The fields are {', '.join(FIELDS)}.",
                field=str(name)[:50],
            )
    for name in ("user_id", "item_id", "kind"):
        if name not in value:
            raise InvalidInput(f"{name} is missing.", field=name)
    kind = value["kind"]
    if kind not in EVENT_KINDS:
        raise InvalidInput(f"kind must be one of {', '.join(EVENT_KINDS)}.", field="kind")
    return NewEvent(
        user=user_of(value["user_id"], "user_id"),
        item=str(user_of(value["item_id"], "item_id")),
        kind=kind,
        model=_text(value.get("model_name", "default"), "model_name", _MAX_MODEL),
        at=_at(value.get("at"), now, days),
        value=_number(value.get("value"), kind),
        id=None
        if value.get("event_id") is None
        else _text(value["event_id"], "event_id", _MAX_EVENT_ID),
    )


def user_of(value: Any, field: str) -> UserId:
    """Return an id: of a user, or of an item.

    Raises:
        InvalidInput: It is none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 10**100:
            raise InvalidInput(f"{field} must have 100 digits at most.", field=field)
        return value
    if not isinstance(value, str):
        raise InvalidInput(f"{field} must be a string or a whole number.", field=field)
    return _text(value, field, _MAX_ID)


def _text(value: Any, field: str, most: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise InvalidInput(
            f"{field} must be a string of 1 to {most} printable characters.", field=field
        )
    return value


def _at(value: Any, now: float, days: float) -> float:
    if value is None:
        return now
    seconds = math.nan
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is not None and moment.tzinfo is not None:
            seconds = moment.timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e11:
        seconds = float(value)
    if math.isnan(seconds):
        raise InvalidInput(
            "at must be a time with its zone, as in 2026-11-24T09:30:00Z, or Unix seconds.",
            field="at",
        )
    if seconds > now + AHEAD:
        raise InvalidInput(f"at is {seconds - now:.0f} s in the future.", field="at")
    if seconds < now - days * _DAY:
        raise InvalidInput(f"at is too long ago: events are kept for {days:g} days.", field="at")
    return seconds


def _number(value: Any, kind: str) -> float | None:
    if value is None:
        if kind == "rating":
            raise InvalidInput("value is missing: a rating needs one.", field="value")
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise InvalidInput("value must be a number.", field="value")
    return float(value)
