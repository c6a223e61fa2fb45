"""Where an entry is: what each level knows of it. Who looks here is not counted as a hit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cache_app.core.levels import Level, Levels
from plugins.errors import LevelUnavailable

__all__ = ["Residence", "keys_in_memory", "residences"]


@dataclass(frozen=True, slots=True)
class Residence:
    """What one level knows of an entry. Instants are wall-clock seconds."""

    level: str
    created: float
    fresh_until: float
    """From when on it is stale."""
    expires: float
    """From when on it is no longer served."""
    size: int | None
    """Bytes: in memory as it would be encoded, below as it is kept; None: not known."""
    hits: int | None = None
    """In memory, since its value was last renewed, and half of those before; None: not counted."""
    last_used: float | None = None
    tier: str | None = None


def residences(levels: Levels, key: str) -> tuple[list[Residence], list[str]]:
    """Return what each level that has a key knows of it, fastest first, and who did not answer."""
    found: list[Residence] = []
    away: list[str] = []
    for _, level in (*levels.quick, *levels.slow):
        try:
            residence = _in_level(level, key)
        except LevelUnavailable:
            away.append(level.name)
            continue
        if residence is not None:
            found.append(residence)
    return found, away


def _in_level(level: Level, key: str) -> Residence | None:
    describe = getattr(level, "describe", None)  # of a level in memory
    if describe is not None:
        details = describe(key)
        return details and Residence(
            level.name,
            details.created,
            details.fresh_until,
            details.expires,
            details.size,
            details.uses,
            details.last_used if details.uses else None,
            details.tier,
        )
    inspect = getattr(level, "inspect", None)  # of a level that keeps bytes
    stored, size = (None, None) if inspect is None else inspect(key) or (None, None)
    if stored is None:
        return None
    fresh_until = min(stored.fresh_until, stored.expires)
    return Residence(level.name, stored.created, fresh_until, stored.expires, size)


def keys_in_memory(levels: Levels, predicate: Callable[[str], bool]) -> list[str]:
    """Return the keys in this process's memory for which a predicate holds; O(entries)."""
    keys: list[str] = []
    for _, level in levels.quick:
        listed = getattr(level, "resident_keys", None)  # of a level in memory
        if listed is not None:
            keys += [key for key in listed() if predicate(key)]
    return keys
