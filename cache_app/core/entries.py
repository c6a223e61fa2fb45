"""What L1 keeps of a key, in as few bytes as it can."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from cache_app.core.tiers import Tier
from plugins.contracts import EvictionPolicy
from plugins.errors import PluginError

__all__ = ["GHOST", "EntryDetails", "Life", "entry_class", "life_of", "rounded"]

GHOST = float("-inf")
"""The ``expires`` of what is not resident: a ghost, or an entry that left."""

_STEPS = 64.0
"""Parts of a second to which `Life` is rounded, so that entries share it."""


class Life(NamedTuple):
    """What entries have in common that were stored alike, in seconds. They share one object."""

    ttl: float
    """How long the value is fresh from its creation on; infinite: its creation is not kept."""
    stale: float
    """How long it is kept after that."""
    tier: Tier
    """The entry's tier when it was last looked at."""


@functools.lru_cache(maxsize=4096)
def life_of(ttl: float, stale: float, tier: Tier) -> Life:
    """Return the shared `Life` of these values."""
    return Life(ttl, stale, tier)


def rounded(seconds: float) -> float:
    """Return a duration in whole 64ths of a second."""
    return round(seconds * _STEPS) / _STEPS if math.isfinite(seconds) else seconds


class _Marks:
    """Which entry is marked at the moment, under L1's lock: no entry spends bytes on it."""

    __slots__ = ("kept", "returning")

    def __init__(self) -> None:
        self.returning: Any = None
        self.kept: Any = None


class _Entry:
    """What L1 itself keeps of an entry.

    ``get`` hands it out, and another thread may change it meanwhile, in this order: ``value``,
    ``life``, ``expires``. So whoever has it reads them in the opposite order: the value is then
    as new as its instants, or newer; it is None once the entry has left.
    """

    __slots__ = ("expires", "key", "life", "used", "uses", "value")
    weight = 1

    key: str
    value: Any
    expires: float
    life: Life
    used: float
    uses: int
    _marks: _Marks

    def __init__(self, key: str) -> None:
        self.key = key
        self.uses = 0

    @property
    def instants(self) -> tuple[float, float, float]:
        """Return when the value was created, until when it is fresh, and when it expires."""
        expires, life = self.expires, self.life
        fresh_until = expires - life.stale
        return fresh_until - life.ttl, fresh_until, expires

    @property
    def created(self) -> float:
        """Return when the value was computed, to a 64th of a second."""
        return self.instants[0]

    @property
    def fresh_until(self) -> float:
        """Return from when on the value is stale, to a 64th of a second."""
        return self.instants[1]

    @property
    def was_ghost(self) -> bool:
        """Return whether the entry comes back as a ghost at the moment."""
        return self._marks.returning is self

    @property
    def keep_ghost(self) -> bool:
        """Return whether the victim of the moment is to be kept as a ghost."""
        return self._marks.kept is self

    @keep_ghost.setter
    def keep_ghost(self, keep: bool) -> None:
        self._marks.kept = self if keep else None


@dataclass(frozen=True, slots=True)
class EntryDetails:
    """All that L1 knows of an entry, at one moment. Instants are wall-clock seconds."""

    key: str
    value: Any
    created: float
    """When the value was computed, to a 64th of a second."""
    ttl: float
    """Seconds for which it was fresh then."""
    fresh_until: float
    """From when on it is stale."""
    expires: float
    """From when on it is no longer served."""
    uses: int
    """Hits of this entry, halved at each renewal of its value."""
    last_used: float
    """When it was last hit; if never, when it came, to a second."""
    size: int | None
    """What the value takes encoded, in bytes; None: not known."""
    tier: Tier


_OWN = {"key", "value", "expires", "life", "used", "uses", "weight", "was_ghost", "keep_ghost"}


def entry_class(policy: EvictionPolicy, *, weighed: bool) -> tuple[type[Any], _Marks]:
    """Return the class of one level's entries, and where they are marked.

    Args:
        policy: Whose slots they have too.
        weighed: Whether each has a weight of its own; else all weigh 1.

    Raises:
        PluginError: The policy declares slots that are L1's.
    """
    if taken := set(policy.entry_slots) & _OWN:
        raise PluginError(
            f"{type(policy).__name__} declares entry_slots that L1 owns: "
            f"{', '.join(sorted(taken))}."
        )
    slots = list(dict.fromkeys(policy.entry_slots))
    if policy.hit_mode in {"flag", "count", "stamp"} and "ref" not in slots:
        slots.append("ref")
    if weighed:
        slots.append("weight")
    marks = _Marks()
    return type("Entry", (_Entry,), {"__slots__": tuple(slots), "_marks": marks}), marks
