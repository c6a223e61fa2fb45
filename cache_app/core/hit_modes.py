"""L1's look-up, made for how its policy hears of hits."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

from cache_app.core.entries import GHOST
from plugins.contracts import EvictionPolicy
from plugins.errors import PluginError

__all__ = ["HitPath", "make_get"]

_Get: TypeAlias = Callable[[str], Any]

_BUFFER = 64
"""How many hits are told at once to a policy of hit mode ``buffer``."""


class HitPath(NamedTuple):
    """A look-up, and what goes with it."""

    get: _Get
    misses: Callable[[], int]
    """Returns how many look-ups found nothing."""
    drain: Callable[[], None]
    """Tells the policy of what waits in the buffer; called under the lock."""
    stamp: Callable[[], int] | None
    """Returns the next stamp, for an insertion; None: the mode has none."""
    mute: Callable[[], None]
    """Lets the policy hear of no hit any more (``call``); called under the lock."""


def make_get(
    policy: EvictionPolicy,
    entries: dict[str, Any],
    clock: Callable[[], float],
    lock: Lock,
    expire: Callable[[Any], None],
    *,
    failed: Callable[[Exception], object] | None = None,
) -> HitPath:
    """Return the look-up for the policy's hit mode.

    Closures, as a method would look everything up on ``self`` at each hit. A miss is an
    exception: that costs more than ``dict.get`` would, but a hit costs less, and after a miss
    comes a model. There is no counter of hits: each entry counts its own. These counts are exact
    under the GIL; a flag or a step of ``ref`` may be lost between threads.

    Args:
        policy: Who hears of hits.
        entries: Residents and ghosts.
        clock: Wall-clock seconds.
        lock: L1's.
        expire: Drops an expired entry; called under the lock.
        failed: Told of what the policy raises at a hit; None: who asks hears of it.

    Raises:
        PluginError: There is no such hit mode.
    """
    misses = 0

    def missed(entry: Any = None) -> None:
        nonlocal misses
        misses += 1
        if entry is not None and entry.expires != GHOST:
            with lock:
                expire(entry)

    def count_misses() -> int:
        return misses

    def no_drain() -> None:
        return

    drain, stamp, mute = no_drain, None, no_drain
    get: _Get
    match policy.hit_mode:
        case "none":
            get = _get_none(entries, clock, missed)
        case "flag":
            get = _get_flag(entries, clock, missed)
        case "stamp":
            get, stamp = _get_stamp(entries, clock, missed)
        case "count":
            get = _get_count(entries, clock, missed, policy.count_cap)
        case "buffer":
            get, drain = _get_buffer(entries, clock, missed, policy, lock)
        case "call":
            get, mute = _get_call(entries, clock, missed, policy, lock, failed=failed)
        case unknown:
            raise PluginError(
                f"{type(policy).__name__} declares hit_mode {unknown!r}; "
                f"there are none, flag, stamp, count, buffer, call."
            )
    return HitPath(get, count_misses, drain, stamp, mute)


def _get_none(entries: dict[str, Any], clock: Callable[[], float], missed: Any) -> _Get:
    def get(key: str) -> Any:
        try:
            entry = entries[key]
        except KeyError:
            return missed()
        now = clock()
        if entry.expires <= now:
            return missed(entry)
        entry.used = now
        entry.uses += 1
        return entry

    return get


def _get_flag(entries: dict[str, Any], clock: Callable[[], float], missed: Any) -> _Get:
    def get(key: str) -> Any:
        try:
            entry = entries[key]
        except KeyError:
            return missed()
        now = clock()
        if entry.expires <= now:
            return missed(entry)
        entry.ref = 1
        entry.used = now
        entry.uses += 1
        return entry

    return get


def _get_stamp(
    entries: dict[str, Any], clock: Callable[[], float], missed: Any
) -> tuple[_Get, Callable[[], int]]:
    last = 0

    def get(key: str) -> Any:
        nonlocal last
        try:
            entry = entries[key]
        except KeyError:
            return missed()
        now = clock()
        if entry.expires <= now:
            return missed(entry)
        last += 1
        entry.ref = last
        entry.used = now
        entry.uses += 1
        return entry

    def stamp() -> int:
        nonlocal last
        last += 1
        return last

    return get, stamp


def _get_count(entries: dict[str, Any], clock: Callable[[], float], missed: Any, cap: int) -> _Get:
    def get(key: str) -> Any:
        try:
            entry = entries[key]
        except KeyError:
            return missed()
        now = clock()
        if entry.expires <= now:
            return missed(entry)
        if entry.ref < cap:
            entry.ref += 1
        entry.used = now
        entry.uses += 1
        return entry

    return get


def _get_buffer(
    entries: dict[str, Any],
    clock: Callable[[], float],
    missed: Any,
    policy: EvictionPolicy,
    lock: Lock,
) -> tuple[_Get, Callable[[], None]]:
    buffer: list[Any] = []

    def drain() -> None:
        nonlocal buffer
        batch, buffer = buffer, []
        if batch:
            policy.on_hits(batch, clock())

    def get(key: str) -> Any:
        try:
            entry = entries[key]
        except KeyError:
            return missed()
        now = clock()
        if entry.expires <= now:
            return missed(entry)
        entry.used = now
        entry.uses += 1
        buffer.append(entry)
        if len(buffer) >= _BUFFER:
            with lock:
                drain()
        return entry

    return get, drain


def _ignore(_entry: Any, _now: float) -> None:
    return


def _get_call(
    entries: dict[str, Any],
    clock: Callable[[], float],
    missed: Any,
    policy: EvictionPolicy,
    lock: Lock,
    *,
    failed: Callable[[Exception], object] | None,
) -> tuple[_Get, Callable[[], None]]:
    on_hit: Callable[[Any, float], None] = policy.on_hit

    def mute() -> None:
        nonlocal on_hit
        on_hit = _ignore

    def get(key: str) -> Any:
        with lock:
            entry = entries.get(key)
            now = clock()
            if entry is not None and entry.expires > now:
                try:
                    on_hit(entry, now)
                except Exception as error:
                    if failed is None:
                        raise
                    failed(error)
                entry.used = now
                entry.uses += 1
                return entry
        return missed(entry)

    return get, mute
