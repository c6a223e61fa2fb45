"""A level in Redis, which all hosts share: L2 in one Redis, L3 behind Sentinels or in a cluster."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from redis.exceptions import ResponseError

from cache_app.core.breaker import PartlyUnavailable
from cache_app.core.codec import Codec
from cache_app.core.levels import LevelStats, Stored
from cache_app.core.steps import Steps, run
from cache_app.redis_servers import Server, Servers
from plugins.contracts import InsertOrigin
from plugins.errors import LevelUnavailable

__all__ = ["RedisLevel"]

_log = logging.getLogger(__name__)

_PREFIX = b"rs:"
"""Before every key: what a level may remove. Others may use the same Redis."""
_SCAN = 512
"""Keys that one step of a removal looks at, about; Redis serves others between the steps."""
_SAMPLED = 16 * 1024 * 1024
"""Bytes that a sample takes at most, about."""
_STEPS, _TOGETHER = 64, 32
"""Of a sample: steps of the scan on one server at most, and values asked for in one go."""
_LATEST = 1 << 53
"""Milliseconds; Redis refuses an expiry that does not fit its integers."""


class RedisLevel:
    """A level in Redis. Any thread calls it, several at once.

    A value expires at the instant at which it always did, by Redis's own clock: copying it upwards
    or storing it again gives it no more time. Statistics are this process's, but for what the
    servers hold.

    Put it behind a `cache_app.core.breaker.GuardedLevel`: alone, it waits for the time-out of its
    servers at every call while they are down.

    Args:
        name: ``l2`` or ``l3``.
        servers: Where the keys are.
        codec: Writes and reads the values.
        clock: Wall-clock seconds, as ``time.time``.
    """

    waits = True
    """An event loop does not look here itself, but takes the steps of `getting` and `putting`."""

    def __init__(
        self,
        name: str,
        servers: Servers,
        codec: Codec,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.codec = codec
        self._servers = servers
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def get(self, key: str, /) -> Stored | None:
        """Return what is stored, or None for a miss; never what has expired.

        What cannot be read is a miss, and removed.

        Raises:
            LevelUnavailable: Redis does not answer.
        """
        return run(self.getting(key))

    def getting(self, key: str) -> Steps[Stored | None]:
        """Do what `get` does, in steps."""
        text = _text(key)
        at = _PREFIX + text
        try:
            data = yield from self._servers.getting(at)
        except ResponseError:  # a value of another type, which nothing of ours stored
            data = b""
        if data is None:
            self._count("misses")
            return None
        stored = self.codec.decode(data if isinstance(data, bytes) else b"", text)
        if stored is None:
            self._count("misses")
            with contextlib.suppress(LevelUnavailable):
                yield from self._servers.asking(at, "UNLINK", at)
        elif stored.expires <= self._clock():  # Redis's clock is behind ours
            self._count("misses")
        else:
            self._count("hits")
            return stored
        return None

    def put(self, key: str, stored: Stored, origin: InsertOrigin = "miss") -> None:
        """Store, or overwrite.

        A value that has expired already, or is too long, is refused; what it should have replaced
        is dropped all the same.

        Raises:
            LevelUnavailable: Redis does not answer, or is full.
        """
        run(self.putting(key, stored, origin))

    def putting(self, key: str, stored: Stored, origin: InsertOrigin) -> Steps[None]:
        """Do what `put` does, in steps."""
        text = _text(key)
        at = _PREFIX + text
        data = self._envelope(text, stored) if stored.expires > self._clock() else None
        if data is None:
            self._count("rejected")
            yield from self._servers.asking(at, "UNLINK", at)
            return
        expires = min(math.ceil(stored.expires * 1000), _LATEST)
        yield from self._servers.asking(at, "SET", at, data, "PXAT", expires)
        self._count("insertions")

    def _envelope(self, text: bytes, stored: Stored) -> bytes | None:
        """Return what is kept under a key; None if the value cannot be written."""
        try:
            return self.codec.encode(stored, text)
        except ValueError:  # too long
            return None
        except TypeError as error:
            _log.warning("%s cannot write a value: %s", self.name, error)
            return None

    def remove(self, key: str) -> bool:
        """Forget a key; return whether it was there.

        Raises:
            LevelUnavailable: Redis does not answer.
        """
        return run(self.removing(key))

    def removing(self, key: str) -> Steps[bool]:
        """Do what `remove` does, in steps."""
        at = _PREFIX + _text(key)
        removed = bool((yield from self._servers.asking(at, "UNLINK", at)))
        self._count("removals", int(removed))
        return removed

    def remove_where(self, predicate: Callable[[str], bool]) -> int:
        """Forget every key for which the predicate holds; return how many there were.

        O(keys in the servers, whoever's), in steps: others read and write in between. A key that
        is stored meanwhile may stay, and so may one whose slot moves to another node.

        Raises:
            LevelUnavailable: A server does not answer. What the others have is removed all the
                same.
        """
        removed = 0
        counted: set[int] = set()
        """Of keys with copies, the hashes of those that were removed."""
        failure: LevelUnavailable | None = None
        for server in self._servers.masters():
            try:
                for keys in _scan(server):
                    chosen = [at for at in keys if _holds(predicate, at)]
                    if chosen:  # one by one: the keys of a cluster's node have several slots
                        gone = server.ask_all([("UNLINK", at) for at in chosen])
                        if self._servers.copies == 1:
                            removed += _sum(gone)
                        else:
                            counted |= {hash(at) for at, n in zip(chosen, gone, strict=True) if n}
            except LevelUnavailable as error:
                failure = error
        removed += len(counted)
        self._count("removals", removed)
        if failure is not None:
            raise failure
        return removed

    def clear(self) -> int:
        """Forget every key of the level; return how many there were. As slow as `remove_where`.

        Raises:
            LevelUnavailable: A server does not answer. What the others have is removed all the
                same.
        """
        return self.remove_where(lambda _: True)

    def inspect(self, key: str) -> tuple[Stored, int] | None:
        """Return what `get` would, and the bytes that it takes; no hit or miss is counted.

        Raises:
            LevelUnavailable: Redis does not answer.
        """
        text = _text(key)
        try:
            data = run(self._servers.getting(_PREFIX + text))
        except ResponseError:  # a value of another type, which nothing of ours stored
            return None
        if not isinstance(data, bytes):
            return None
        stored = self.codec.decode(data, text)
        if stored is None or stored.expires <= self._clock():
            return None
        return stored, len(data)

    def sample(self, n: int) -> list[tuple[bytes, bytes]]:
        """Return some entries' envelopes, each with the key that it is bound to.

        They are those that a scan of some steps meets first, which is by their hashes. Nothing is
        counted.

        Raises:
            LevelUnavailable: A server does not answer.
        """
        taken: list[tuple[bytes, bytes]] = []
        room = _SAMPLED
        for server in self._servers.masters():
            for keys in itertools.islice(_scan(server), _STEPS):
                for start in range(0, len(keys), _TOGETHER):
                    if len(taken) >= n or room <= 0:
                        return taken[:n]
                    for at, data in _values(server, keys[start : start + _TOGETHER]):
                        taken.append((data, at[len(_PREFIX) :]))
                        room -= len(data)
        return taken[:n]

    def stats(self) -> LevelStats:
        """Return this process's counts, and what the servers hold.

        ``entries``, ``weight`` and ``capacity`` (bytes) are the servers', with what others keep in
        them; a key with copies is one entry, on average. What they evict or let expire is not
        counted here. Of several servers, those that are away are counted and left out.

        Raises:
            LevelUnavailable: The only server does not answer, or it is not known which there are.
        """
        entries = weight = capacity = away = 0
        masters = self._servers.masters()
        for server in masters:
            try:
                size, memory = server.ask_all([("DBSIZE",), ("INFO", "memory")])
                entries += _sum([size])
                weight += _sum([memory.get("used_memory")])
                capacity += _sum([memory.get("maxmemory")])
            except PartlyUnavailable:
                away += 1
        with self._lock:
            counts: dict[str, Any] = dict(self._counts)
        return LevelStats(
            **counts,
            entries=round(entries / self._servers.copies),
            weight=weight,
            capacity=capacity,
            nodes=len(masters),
            nodes_away=away,
        )

    def close(self) -> None:
        """Close the idle connections; the next use opens new ones."""
        self._servers.close()

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self._counts[what] += number


def _text(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _sum(numbers: list[Any]) -> int:
    """Return the sum of what should be numbers.

    Raises:
        LevelUnavailable: It is not: no Redis answered.
    """
    if not all(isinstance(number, int) for number in numbers):
        raise LevelUnavailable(f"Redis answered nonsense: {numbers!r:.100}")
    return sum(numbers)


def _holds(predicate: Callable[[str], bool], at: bytes) -> bool:
    """Return whether the predicate holds for a key; a key that is no text is rubbish, and goes."""
    try:
        key = at[len(_PREFIX) :].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return True
    return predicate(key)


def _values(server: Server, keys: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return keys with their values, but for what is gone; nothing if a value is no text.

    Raises:
        LevelUnavailable: The server does not answer.
    """
    try:
        values = server.ask_all([("GET", at) for at in keys])
    except ResponseError:  # of another type, which nothing of ours stored
        return []
    pairs = zip(keys, values, strict=False)
    return [(at, data) for at, data in pairs if isinstance(data, bytes)]


def _scan(server: Server) -> Iterator[list[bytes]]:
    """Yield the level's keys on a server, in steps; a key may come twice.

    Raises:
        LevelUnavailable: The server does not answer, or is no Redis.
    """
    cursor = 0
    while True:
        cursor, keys = server.ask("SCAN", cursor, "MATCH", _PREFIX + b"*", "COUNT", _SCAN)
        if not isinstance(keys, list) or not all(isinstance(at, bytes) for at in keys):
            raise LevelUnavailable(f"Redis answered nonsense: {keys!r:.100}")
        yield keys
        if not cursor:
            return
