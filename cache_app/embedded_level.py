"""L2 without a server: one LMDB file that the worker processes of a host share.

What one worker computed, all find, a restarted one too. A look-up is one read transaction and takes
no lock; a store is one write transaction, which an event loop shares among all that it stores in
one pass. Two tables are kept in step: *values* by key, and *order* by expiry and key. The first of
the order are the expired, then those that will expire soonest, so one bounded walk from its start
serves both the sweep and the eviction: entries leave in the order of their expiry, which under one
TTL is first in, first out. (A hit would have to write to be remembered; L1, above, has the policy.)

**Durability.** Nothing waits for the disk (``MDB_NOSYNC``), and pages reach the file by ``write``,
never through the map (no ``MDB_WRITEMAP``), where a stray pointer in any library of the process
could damage them. So the file is consistent however a process ends, for the kernel has all that was
committed. After a power loss it need not be: LMDB promises that only where the file system keeps
the order of writes. The file is therefore used only under the boot of the system that made it, and
a new one is begun after the next. It is a cache.

**Damage.** The file has its full, sparse, length from the start: a shorter one was truncated, and
would kill whoever touches the missing part of its map (SIGBUS). Such a file, and one that LMDB
refuses, is moved aside. Each envelope is bound to its key by a checksum.

**Waiting.** LMDB's own lock waits for ever, if need be for a writer that was stopped (SIGSTOP). So
a file lock is taken before it, with a time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import lmdb

from cache_app.core.codec import Codec
from cache_app.core.levels import LevelStats, Stored
from cache_app.core.steps import Steps, Then
from cache_app.embedded_access import REMOVE_WAIT, EmbeddedAccess
from cache_app.embedded_file import (
    EmbeddedFile,
    envelope_of,
    key_of,
    place_of,
    record_of,
    text_of,
)
from plugins.contracts import InsertOrigin
from plugins.errors import LevelUnavailable

__all__ = ["LEAST_BYTES", "EmbeddedLevel"]

_log = logging.getLogger(__name__)

_Entry: TypeAlias = tuple[str, Stored]
_Record: TypeAlias = tuple[bytes, float, bytes]
"""Where it is kept, when it expires, and what is kept."""
_SCAN = 512
"""Entries that a removal by predicate looks at in one read transaction."""
_REMOVE = 64
"""Entries that one transaction removes at most: each may copy a page of either table, and all
copies must fit into what `_FULL` leaves of the smallest file."""
LEAST_BYTES = 16 * 1024 * 1024
"""The smallest file in which the copies of a transaction have room."""
_PUT_WAIT = 0.05
"""Seconds to wait for other writers: a value that is not stored costs a computation. One that is
not removed is served wrongly, and waits for `REMOVE_WAIT`."""
_SAMPLED = 16 * 1024 * 1024
"""Bytes that a sample takes at most."""
_TOGETHER = 64
"""Values that one transaction stores at most: it copies two or three pages for each, which must
fit into what `_FULL` leaves, as for `_REMOVE`; and other processes wait meanwhile."""
_TOGETHER_BYTES = 256 * 1024
"""Bytes that they may have together; one alone may have more."""


class _Put(NamedTuple):
    """The question whether a value is stored by now."""

    level: EmbeddedLevel
    entry: _Entry

    def wait(self) -> None:
        """Store it."""
        self.level.put(*self.entry)

    def begin(self, _: Any, then: Then) -> None:
        """Store it with others."""
        self.level.put_together(self.entry, then)


class EmbeddedLevel:
    """A level in one file of this host. Any thread, and any process, uses it, several at once.

    Nothing is opened until the first use, and a forked child opens its own. Statistics are this
    process's, but for what the file holds. One process must not open two levels at one path.

    Args:
        path: The folder of the file; made where it is missing, readable by its owner alone. It
            must be on a disk of this host: LMDB cannot share a file between hosts.
        codec: Writes and reads the values.
        max_bytes: The most that the file takes on the disk; 16 MiB at least.
        clock: Wall-clock seconds, as ``time.time``.
        monotonic: Seconds for time-outs.
    """

    name = "l2"

    def __init__(
        self,
        path: Path,
        codec: Codec,
        *,
        max_bytes: int = 256 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_bytes < LEAST_BYTES:
            raise ValueError(f"The file needs {LEAST_BYTES} bytes at least, not {max_bytes}.")
        self.codec = codec
        # Whole pages, of the largest size that LMDB uses.
        self._max_bytes = max_bytes >> 16 << 16
        self._access = EmbeddedAccess(path, self._max_bytes, monotonic)
        self._clock = clock
        self._hits = self._misses = self._insertions = self._rejected = 0
        self._evictions = self._expirations = self._removals = 0
        self._waiting: tuple[asyncio.AbstractEventLoop, list[tuple[_Entry, Then]]] | None = None

    # --- Looking up ---

    def get(self, key: str, /) -> Stored | None:
        """Return what is stored, or None for a miss; never what has expired.

        Raises:
            LevelUnavailable: The file cannot be used.
        """
        text = text_of(key)
        at = place_of(text)
        file = self._access.file or self._access.open()
        try:
            with file.env.begin(db=file.values) as txn:
                data = txn.get(at)
        except lmdb.ReadersFullError:
            data = self._get_after_clearing_readers(file, at)
        except lmdb.Error as error:
            self._access.fail(file, error)
        if data is None:
            self._misses += 1
            return None
        envelope = envelope_of(data, at, text)
        stored = None if envelope is None else self.codec.decode(envelope, text)
        if stored is None or stored.expires <= self._clock():  # a sweep removes the expired
            self._misses += 1
            if stored is None and envelope is not None:
                with contextlib.suppress(LevelUnavailable):
                    self._remove([at], only=data, wait=_PUT_WAIT)
            return None
        self._hits += 1
        return stored

    def _get_after_clearing_readers(self, file: EmbeddedFile, at: bytes) -> bytes | None:
        """Look up once more, without the slots of readers that died."""
        try:
            file.env.reader_check()
            with file.env.begin(db=file.values) as txn:
                return txn.get(at)
        except lmdb.Error as error:
            self._access.fail(file, error)

    # --- Storing ---

    def put(self, key: str, stored: Stored, origin: InsertOrigin = "miss") -> None:
        """Store, or overwrite; sweep a few expired entries, and make room.

        A value that has expired already, or is too long, is refused; what it should have replaced
        is dropped all the same.

        Raises:
            LevelUnavailable: The file cannot be used, or others write for too long.
        """
        self._store([(key, stored)])

    def putting(self, key: str, stored: Stored, origin: InsertOrigin = "miss") -> Steps[None]:
        """Do what `put` does, in steps: an event loop stores all of one pass together."""
        yield _Put(self, (key, stored))

    def put_together(self, entry: _Entry, then: Then) -> None:
        """Store with all others of this pass of the event loop that runs, whose thread calls it.

        A value alone costs a transaction, two system calls for its lock, and the pages that it
        changes; many together share most of that.
        """
        loop = asyncio.get_running_loop()
        if self._waiting is None or self._waiting[0] is not loop:  # a forked child has its own
            self._waiting = loop, []
        waiting = self._waiting[1]
        if not waiting:
            loop.call_soon(self._store_waiting, waiting)
        waiting.append((entry, then))

    def _store_waiting(self, waiting: list[tuple[_Entry, Then]]) -> None:
        """Store what waits, and tell who waits for it."""
        entries, thens = [entry for entry, _ in waiting], [then for _, then in waiting]
        waiting.clear()
        error: Exception | None = None
        try:
            self._store(entries)
        except Exception as failure:  # noqa: BLE001  (handed on)
            error = failure
        for then in thens:
            try:
                then(None, error)
            except Exception:  # noqa: BLE001  (the others hear of it all the same)
                _log.exception("What waited for a value to be stored failed")

    def _store(self, entries: Sequence[_Entry]) -> None:
        """Do what `put` does, with some values."""
        now = self._clock()
        records: dict[bytes, _Record] = {}
        refused: list[bytes] = []
        for key, stored in entries:
            text = text_of(key)
            at = place_of(text)
            record = self._record(text, stored) if stored.expires > now else None
            if records.pop(at, None) is not None:  # nobody has seen it
                self._insertions += 1
            if record is None:
                refused.append(at)
            else:
                records[at] = (at, stored.expires, record)
        if refused:
            self._rejected += len(refused)
            self._remove(refused, wait=_PUT_WAIT)
        for some in _portions(list(records.values())):
            with self._access.write(_PUT_WAIT) as file:
                if self._has_stored(file, some, now):
                    continue
                # There is no room for all together; alone, some of them may find it.
                for each in some:
                    if len(some) == 1 or not self._has_stored(file, [each], now):
                        self._rejected += 1

    def _has_stored(self, file: EmbeddedFile, records: Sequence[_Record], now: float) -> bool:
        """Store records in one transaction, and return True; False: there is no room for them."""
        for last in (False, True):
            try:
                with file.env.begin(write=True) as txn:
                    expired, evicted = file.sweep(txn, now, len(records))
                    for record in records:
                        file.store(txn, *record)
            except lmdb.MapFullError:
                # The transaction is undone. A reader of old pages may keep them from use.
                if last or not self._make_room(file):
                    break
            else:
                self._insertions += len(records)
                self._expirations += expired
                self._evictions += evicted
                return True
        return False

    def _record(self, text: bytes, stored: Stored) -> bytes | None:
        """Return what is kept under a key; None if the value cannot be written."""
        try:
            return record_of(text, stored.expires, self.codec.encode(stored, text))
        except (ValueError, struct.error):  # too long: the value, or the key
            return None
        except TypeError as error:
            self._access.report("cannot be written", f"L2 cannot write a value: {error}")
            return None

    def _make_room(self, file: EmbeddedFile) -> bool:
        """Evict when even the reserve is used; return whether it could."""
        file.env.reader_check()
        for evict in (file.evict, file.clear):
            try:
                with file.env.begin(write=True) as txn:
                    gone = evict(txn)
            except lmdb.MapFullError:
                continue
            self._evictions += gone
            return True
        return False

    # --- Removing ---

    def remove(self, key: str) -> bool:
        """Forget a key; return whether it was there.

        Raises:
            LevelUnavailable: The file cannot be used, or others write for too long.
        """
        removed = self._remove([place_of(text_of(key))], wait=REMOVE_WAIT)
        self._removals += removed
        return removed > 0

    def _remove(self, keys: list[bytes], *, wait: float, only: bytes | None = None) -> int:
        """Remove entries; with ``only``, just where nothing else was stored meanwhile."""
        removed = 0
        for start in range(0, len(keys), _REMOVE):
            with self._access.write(wait) as file:
                for last in (False, True):
                    try:
                        with file.env.begin(write=True) as txn:
                            gone = sum(
                                file.remove(txn, at, only) for at in keys[start : start + _REMOVE]
                            )
                        break
                    except lmdb.MapFullError:
                        if last or not self._make_room(file):
                            raise
                removed += gone
        return removed

    def remove_where(self, predicate: Callable[[str], bool]) -> int:
        """Forget every key that was stored before the call and for which the predicate holds.

        O(entries), in steps: others read and write in between.

        Raises:
            LevelUnavailable: The file cannot be used, or others write for too long.
        """
        removed = 0
        start: bytes | None = b""
        while start is not None:
            keys, start = self._scan(start)
            chosen = [at for at, text in keys if text is None or predicate(text)]
            if chosen:
                removed += self._remove(chosen, wait=REMOVE_WAIT)
        self._removals += removed
        return removed

    def _scan(self, start: bytes) -> tuple[list[tuple[bytes, str | None]], bytes | None]:
        """Return the next entries' keys, both forms, and where to go on. No text: unreadable."""
        keys: list[tuple[bytes, str | None]] = []
        file = self._access.file or self._access.open()
        try:
            with file.env.begin(db=file.values) as txn, txn.cursor() as cursor:
                if not cursor.set_range(start):
                    return keys, None
                for at, data in cursor:
                    if len(keys) == _SCAN:
                        return keys, at
                    keys.append((at, key_of(at, data)))
        except lmdb.Error as error:
            self._access.fail(file, error)
        return keys, None

    def clear(self) -> int:
        """Forget every key, in one transaction; return how many there were.

        Raises:
            LevelUnavailable: The file cannot be used, or others write for too long.
        """
        with self._access.write(REMOVE_WAIT) as file:
            try:
                with file.env.begin(write=True) as txn:
                    removed = file.clear(txn)
            except lmdb.MapFullError:  # no room for the list of the pages that would be free
                removed = -1
        if removed < 0:
            return self.remove_where(lambda _: True)
        self._removals += removed
        return removed

    # --- Looking at it all ---

    def inspect(self, key: str) -> tuple[Stored, int] | None:
        """Return what `get` would, and the bytes that it takes; no hit or miss is counted.

        Raises:
            LevelUnavailable: The file cannot be used.
        """
        text = text_of(key)
        at = place_of(text)
        file = self._access.file or self._access.open()
        try:
            with file.env.begin(db=file.values) as txn:
                data = txn.get(at)
        except lmdb.Error as error:
            self._access.fail(file, error)
        envelope = None if data is None else envelope_of(data, at, text)
        stored = None if envelope is None else self.codec.decode(envelope, text)
        if data is None or stored is None or stored.expires <= self._clock():
            return None
        return stored, len(data)

    def sample(self, n: int) -> list[tuple[bytes, bytes]]:
        """Return some entries' envelopes, each with the key that it is bound to.

        They are those that expire last: under one TTL, the latest that were stored. Nothing is
        counted.

        Raises:
            LevelUnavailable: The file cannot be used.
        """
        taken: list[tuple[bytes, bytes]] = []
        room = _SAMPLED
        file = self._access.file or self._access.open()
        try:
            with file.env.begin() as txn, txn.cursor(db=file.order) as cursor:
                for place in cursor.iterprev(values=False):
                    if len(taken) >= n or room <= 0:
                        break
                    at = place[8:]
                    data = txn.get(at, db=file.values) or b""
                    key = key_of(at, data)
                    if key is not None:
                        text = text_of(key)
                        taken.append((envelope_of(data, at, text) or b"", text))
                        room -= len(data)
        except lmdb.Error as error:
            self._access.fail(file, error)
        return taken

    def stats(self) -> LevelStats:
        """Return this process's counts, and what the file holds; ``weight`` is in bytes.

        Raises:
            LevelUnavailable: The file cannot be used.
        """
        file = self._access.file or self._access.open()
        try:
            with file.env.begin() as txn:
                entries = txn.stat(file.values)["entries"]
                weight = file.pages(txn) * file.page_size
        except lmdb.Error as error:
            self._access.fail(file, error)
        return LevelStats(
            hits=self._hits,
            misses=self._misses,
            insertions=self._insertions,
            rejected=self._rejected,
            evictions=self._evictions,
            expirations=self._expirations,
            removals=self._removals,
            entries=entries,
            weight=weight,
            capacity=self._max_bytes,
        )

    def close(self) -> None:
        """Close the file; the next use opens it again. No other call may be under way."""
        self._access.close()


def _portions(records: Sequence[_Record]) -> Iterator[Sequence[_Record]]:
    """Yield records in parts that one transaction may store."""
    start = size = 0
    for at, (_, _, record) in enumerate(records):
        if at > start and (at - start == _TOGETHER or size + len(record) > _TOGETHER_BYTES):
            yield records[start:at]
            start, size = at, 0
        size += len(record)
    if records:
        yield records[start:]
