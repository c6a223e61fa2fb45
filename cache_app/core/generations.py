"""What has been invalidated: a number that is part of every key, so that old entries are not found.

Each invalidation of a *scope* (a user, a model, everything, …) gets the next *epoch*. The
generation of a key is the highest epoch among its scopes: an invalidation changes the key, and
what was stored under the old one is never looked up again. So an invalidation is O(1) however much
it covers, and a computation that began before it stores its result where nobody looks.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence

from cache_app.core.keys import check_name, entry_of
from plugins.contracts import UserId
from plugins.errors import LevelUnavailable

__all__ = ["EVERYTHING", "Generations", "own_scopes", "scope", "scopes_of", "shared_scopes"]

EVERYTHING = "all"
"""The scope of every key."""

_MOST = 50_000
"""Scopes remembered, beyond which all are read anew: those that no longer matter are gone then."""


def scope(
    *,
    user_id: UserId | None = None,
    model_name: str | None = None,
    version: int | None = None,
    tag: str | None = None,
    segment: str | None = None,
    key: str | None = None,
) -> str:
    """Return the scope of all that is given together; of nothing given: everything.

    A user is one, whether it is given as a number or as its text.

    Raises:
        ValueError: What is given does not go together, or is no tag, segment or key.
    """
    alone = {"tag": tag, "segment": segment, "key": key}
    named = [name for name, value in alone.items() if value is not None]
    if named:
        if len(named) > 1 or (user_id, model_name, version) != (None, None, None):
            raise ValueError(f"A {named[0]} is invalidated alone, with nothing else.")
        if key is not None:
            return _entry_scope(entry_of(key))
        (name,) = named
        check_name(alone[name], f"A {name}")
        return f"t:{tag}" if segment is None else f"s:{segment}"
    if version is not None:
        if model_name is None or user_id is not None:
            raise ValueError("A version is invalidated with its model, and for every user.")
        return f"v:{version}:{model_name}"
    if user_id is not None:
        return (
            f"u:{user_id}" if model_name is None else f"mu:{len(model_name)}:{model_name}:{user_id}"
        )
    return EVERYTHING if model_name is None else f"m:{model_name}"


def scopes_of(
    *,
    user_id: UserId,
    model_name: str,
    version: int,
    segment: str = "all",
    tags: Iterable[str] = (),
) -> tuple[str, ...]:
    """Return the scopes that a key belongs to, but for its own (see `Generations.of`)."""
    return (
        *shared_scopes(model_name, version, segment),
        *own_scopes(user_id, model_name),
        *(f"t:{tag}" for tag in tags),
    )


def own_scopes(user_id: UserId, model_name: str) -> tuple[str, str]:
    """Return the scopes that a user's keys alone belong to."""
    return f"u:{user_id}", f"mu:{len(model_name)}:{model_name}:{user_id}"


@functools.lru_cache(maxsize=1024)
def shared_scopes(model_name: str, version: int, segment: str) -> tuple[str, ...]:
    """Return the scopes that keys of many users have in common."""
    return (
        EVERYTHING,
        scope(model_name=model_name),
        scope(model_name=model_name, version=version),
        scope(segment=segment),
    )


def _entry_scope(entry: str) -> str:
    # Keys may be longer than a row of the database has room for.
    return "k:" + hashlib.blake2b(entry.encode(), digest_size=16).hexdigest()


class Generations:
    """The epochs that this process knows. Any thread calls it.

    Args:
        load: Returns the invalidations after an epoch, as pairs of epoch and scope, oldest first.
            It raises `LevelUnavailable` if they cannot be read.
        hint: Returns what changes when there may be new ones; called at each request.
        waits: Whether ``hint`` itself may wait, for a database.
    """

    def __init__(
        self,
        load: Callable[[int], Sequence[tuple[int, str]]],
        *,
        hint: Callable[[], Hashable],
        waits: bool = False,
    ) -> None:
        self._waits = waits
        self._load = load
        self._hint = hint
        self._lock = threading.Lock()
        self._epochs: dict[str, int] = {}
        self._single_keys = False
        self._read_anew_at = _MOST
        self._latest = 0
        self._seen: Hashable = None
        self._doubt = ""
        self._doubts = itertools.count(1)

    def of(self, scopes: Iterable[str], entry: str = "") -> str:
        """Return the generation of a key with these scopes, as of now.

        Args:
            scopes: What `scopes_of` returned.
            entry: The key without its generation, whose own scope counts, too.

        While the invalidations cannot be read, it is one that nothing was ever stored under: what
        cannot be known to be valid is not served.
        """
        if self._hint() != self._seen:
            self.refresh()
        return self._doubt or self._known(scopes, entry)

    def of_at_once(self, scopes: Iterable[str], entry: str = "") -> str | None:
        """Return what `of` does, or None if that would wait: an event loop asks.

        The hint is read once: it may move at any moment, and reading what is new waits.
        """
        if self._waits or self._doubt or self._hint() != self._seen:
            return None
        return self._known(scopes, entry)

    def _known(self, scopes: Iterable[str], entry: str) -> str:
        epochs = self._epochs
        latest = 0
        for each in scopes:
            if each in epochs and epochs[each] > latest:
                latest = epochs[each]
        if self._single_keys and entry:
            latest = max(latest, epochs.get(_entry_scope(entry), 0))
        return str(latest)

    def epoch_of(self, scope: str) -> int:
        """Return a scope's latest epoch, as far as this process knows; 0: none."""
        return self._epochs.get(scope, 0)

    def refresh(self) -> None:
        """Read what is new, whatever the hint says."""
        with self._lock:
            hint = self._hint()  # before reading: what comes meanwhile is read once more
            try:
                if len(self._epochs) > self._read_anew_at:
                    self._adopt({}, self._load(0))
                    # If most still matter, the next time is far: a look stays cheap on average.
                    self._read_anew_at = max(_MOST, 2 * len(self._epochs))
                else:
                    self._adopt(self._epochs, self._load(self._latest))
            except LevelUnavailable:
                self._doubt = f"doubt-{os.getpid()}-{next(self._doubts)}"
                self._seen = None  # the next request tries again
                return
            self._doubt = ""
            self._seen = hint

    def _adopt(self, known: dict[str, int], news: Sequence[tuple[int, str]]) -> None:
        # Other threads may be reading what is known: entries are added, and never taken out. Who
        # sees some of the news sees the first of them, which is what held a moment ago.
        for epoch, each in news:
            known[each] = epoch
            if each.startswith("k:"):
                self._single_keys = True
        self._epochs = known
        self._latest = max([self._latest, *(epoch for epoch, _ in news)])
