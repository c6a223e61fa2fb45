"""What a simple eviction policy need not write itself."""
# ruff: noqa: B027  (what is empty here is optional, unlike what is abstract)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from plugins.contracts import Entry, HitMode, InsertOrigin, PolicyHost, RemoveCause

__all__ = ["BaseEvictionPolicy"]


class BaseEvictionPolicy(ABC):
    """A policy that hears of every hit and does nothing until a subclass says what.

    What the contract leaves to the order of calls: an overwritten entry is
    ``on_remove(entry, "replaced")`` followed at once by ``on_insert`` of the same entry, and
    `evict` is called after `on_insert` of the newcomer that needs the room. ``key``, ``expires``
    and ``weight`` are set before `on_insert`; a policy's own slots are unset until it sets them.
    """

    hit_mode: ClassVar[HitMode] = "call"
    entry_slots: ClassVar[tuple[str, ...]] = ()
    count_cap: ClassVar[int] = 3
    host: PolicyHost

    def attach(self, host: PolicyHost) -> None:
        """Remember the host."""
        self.host = host

    @abstractmethod
    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Link a new entry."""

    def on_hit(self, entry: Entry, now: float) -> None:
        """Learn nothing from a hit."""

    def on_hits(self, entries: Iterable[Entry], now: float) -> None:
        """Learn nothing from hits."""

    @abstractmethod
    def evict(self, now: float) -> Entry:
        """Choose a resident, unlink it, and return it."""

    @abstractmethod
    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Unlink an entry that leaves."""

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Age nothing."""

    def check(self) -> None:
        """Verify nothing."""
