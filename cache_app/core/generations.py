"""What has been invalidated: a number that is part of every key, so that old entries are not found.

Each invalidation of a *scope* (a user, a model, everything, …) gets the next *epoch*. The
generation of a key is the highest epoch among its scopes: an invalidation changes the key, and
what was stored under the old one is never looked up again. So an invalidation is O(1) however much
it covers, and a computation that began before it stores its result where nobody looks.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence

from plugins.contracts import UserId
from plugins.errors import LevelUnavailable

__all__ = ["EVERYTHING", "Generations", "scope", "scopes_of"]

EVERYTHING = "all"
"""The scope of every key."""

_MOST = 50_000
"""Scopes remembered, beyond which all are read anew: those that no longer matter are gone then."""


def scope(
    *,
    user_id: UserId | None = None,
    model_name: str | None = None,
    version: int | None = None,
) -> str:
    """Return the scope of all that is given together; of nothing given: everything.

    A user is one, whether it is given as a number or as its text.

    Raises:
        ValueError: A version is given without its model, or with a user.
    """
    if version is not None:
        if model_name is None or user_id is not None:
            raise ValueError("A version is invalidated with its model, and for every user.")
        return f"v:{version}:{model_name}"
    if user_id is not None:
        return (
            f"u:{user_id}" if model_name is None else f"mu:{len(model_name)}:{model_name}:{user_id}"
        )
    return EVERYTHING if model_name is None else f"m:{model_name}"


def scopes_of(*, user_id: UserId, model_name: str, version: int) -> tuple[str, ...]:
    """Return the scopes that a key belongs to."""
    return (
        EVERYTHING,
        scope(user_id=user_id),
        scope(model_name=model_name),
        scope(model_name=model_name, version=version),
        scope(user_id=user_id, model_name=model_name),
    )


class Generations:
    """The epochs that this process knows. Any thread calls it.

    Args:
        load: Returns the invalidations after an epoch, as pairs of epoch and scope, oldest first.
            It raises `LevelUnavailable` if they cannot be read.
        hint: Returns what changes when there may be new ones; called at each request.
    """

    def __init__(
        self,
        load: Callable[[int], Sequence[tuple[int, str]]],
        *,
        hint: Callable[[], Hashable],
    ) -> None:
        self._load = load
        self._hint = hint
        self._lock = threading.Lock()
        self._epochs: dict[str, int] = {}
        self._latest = 0
        self._seen: Hashable = None
        self._doubt = ""
        self._doubts = itertools.count(1)

    def of(self, scopes: Iterable[str]) -> str:
        """Return the generation of a key with these scopes, as of now.

        While the invalidations cannot be read, it is one that nothing was ever stored under: what
        cannot be known to be valid is not served.
        """
        if self._hint() != self._seen:
            self.refresh()
        if self._doubt:
            return self._doubt
        epochs = self._epochs
        return str(max(epochs.get(each, 0) for each in scopes))

    def refresh(self) -> None:
        """Read what is new, whatever the hint says."""
        with self._lock:
            hint = self._hint()  # before reading: what comes meanwhile is read once more
            try:
                if len(self._epochs) > _MOST:
                    self._adopt({}, self._load(0))
                else:
                    self._adopt(self._epochs, self._load(self._latest))
            except LevelUnavailable:
                self._doubt = f"doubt-{os.getpid()}-{next(self._doubts)}"
                self._seen = None  # the next request tries again
                return
            self._doubt = ""
            self._seen = hint

    def _adopt(self, known: dict[str, int], news: Sequence[tuple[int, str]]) -> None:
        # A new dict, as another thread may be reading the old one.
        self._epochs = {**known, **{each: epoch for epoch, each in news}}
        self._latest = max([self._latest, *(epoch for epoch, _ in news)])
