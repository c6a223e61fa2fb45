"""Policies and filters that may raise what they like: nobody who asks the cache hears of it.

Only what L1 calls at a store or a removal goes through a guard. A hit does not: its look-up has a
try of its own, which costs nothing as long as nothing is raised (`cache_app.core.hit_modes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from plugins.contracts import (
    AdmissionFilter,
    Candidate,
    Entry,
    EvictionPolicy,
    InsertOrigin,
    PolicyHost,
    RemoveCause,
)

__all__ = ["Failed", "PolicyGuard", "guarded_filter"]

Failed = Callable[[Exception], object]
"""Told of what a plugin raised. Called under L1's lock: it counts, and calls nothing of L1."""


def guarded_filter(made: AdmissionFilter, failed: Failed) -> AdmissionFilter:
    """Return a filter that tells of what the given one raises, and admits then."""
    # What a class says of itself by the contract, this one says of what it guards.
    return cast("AdmissionFilter", _GuardedFilter(made, failed))


class PolicyGuard:
    """An eviction policy that is believed until it has failed once, and never asked again then.

    Whatever it raised in the middle of, it may have left its lists in a state in which the next
    step would not end. So L1 keeps what it has until it gets another policy, or a new one of the
    same kind: `MemoryLevel.replace_policy`.

    Args:
        policy: The policy.
        failed: Told of its failure.
    """

    def __init__(self, policy: EvictionPolicy, failed: Failed) -> None:
        self._policy, self._failed = policy, failed
        self.broken = False
        self.mute: Callable[[], None] = _nothing
        """Keeps L1's look-up from telling the policy of hits."""
        self.hit_mode = policy.hit_mode
        self.entry_slots, self.count_cap = policy.entry_slots, policy.count_cap
        self.attach, self.check = policy.attach, policy.check
        self.on_hit = policy.on_hit  # guarded where it is called

    def as_policy(self) -> EvictionPolicy:
        """Return it as what it stands for: a class has by the contract what this one's has not."""
        return cast("EvictionPolicy", self)

    def fail(self, error: Exception) -> None:
        """Take note that the policy has failed."""
        if not self.broken:
            self.broken = True
            self.mute()
            self._failed(error)

    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Let the policy link an entry."""
        if not self.broken:
            try:
                self._policy.on_insert(entry, now, origin)
            except Exception as error:  # noqa: BLE001  (a plugin's; it is told)
                self.fail(error)

    def on_hits(self, entries: Iterable[Entry], now: float) -> None:
        """Let the policy hear of hits."""
        if not self.broken:
            try:
                self._policy.on_hits(entries, now)
            except Exception as error:  # noqa: BLE001
                self.fail(error)

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Let the policy unlink an entry."""
        if not self.broken:
            try:
                self._policy.on_remove(entry, cause)
            except Exception as error:  # noqa: BLE001
                self.fail(error)

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Let the policy age what it learned."""
        if not self.broken:
            try:
                self._policy.on_generation(namespace, old, new)
            except Exception as error:  # noqa: BLE001
                self.fail(error)

    def evict(self, now: float) -> Entry:
        """Return the policy's victim.

        Raises:
            Exception: The policy's; or LookupError: it has failed before.
        """
        if self.broken:
            raise LookupError("the policy has failed before")
        return self._policy.evict(now)


def _nothing() -> None:
    return


class _GuardedFilter:
    """An admission filter that admits whenever it raises."""

    def __init__(self, made: AdmissionFilter, failed: Failed) -> None:
        self._filter, self._failed = made, failed
        self.needs_size = made.needs_size
        self.check = made.check

    def attach(self, host: PolicyHost) -> None:
        """Let the filter know L1."""
        self._filter.attach(host)

    def admit(self, candidate: Candidate, now: float) -> bool:
        """Ask the filter."""
        try:
            return self._filter.admit(candidate, now)
        except Exception as error:  # noqa: BLE001
            self._failed(error)
            return True

    def prefers(self, candidate: Candidate, victim: Any, now: float) -> bool:
        """Ask the filter."""
        try:
            return self._filter.prefers(candidate, victim, now)
        except Exception as error:  # noqa: BLE001
            self._failed(error)
            return True

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Let the filter age what it learned."""
        try:
            self._filter.on_generation(namespace, old, new)
        except Exception as error:  # noqa: BLE001
            self._failed(error)
