"""The file of the embedded L2: its two tables, its records, and what is done to both tables."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import lmdb

__all__ = [
    "EmbeddedFile",
    "boot",
    "envelope_of",
    "is_damage",
    "key_of",
    "place_of",
    "record_of",
    "text_of",
]

_RECORD = struct.Struct(">dH")
"""Before an envelope: its expiry, and the length of the full key that follows (0: it is the key).

Positive doubles, big-endian, sort as bytes as they do as numbers: the order table starts with one.
"""
_LONGEST_KEY = 480
"""LMDB takes 511 bytes, of which the order table needs 8 for the expiry."""
_HASHED = b"\xff"
"""Begins the key of what was hashed; no UTF-8 text begins so."""
_SWEEP = 8
"""Expired entries that go for each that is stored, at most."""
_EVICT = 64
"""Entries that a transaction evicts at most, and removes as expired."""
_FULL = 0.85
"""The share of the pages in use at which entries are evicted. LMDB copies what it changes, and
gives free pages back only when no reader can see them: even a removal needs some."""
_READERS = 1024
"""Read transactions at once, of all processes. A slot takes 64 bytes."""


class EmbeddedFile:
    """The open file: its two tables, and what is done to both, in the caller's transaction."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.env = lmdb.open(
            str(path),
            map_size=max_bytes,
            max_dbs=2,
            max_readers=_READERS,
            max_spare_txns=0,  # a forked child would end them in the parent, too
            mode=0o600,
            sync=False,
            metasync=False,
            writemap=False,
            readahead=False,
            meminit=True,  # pages on disk hold nothing else of the process's memory
        )
        self.env.reader_check()  # slots of processes that were killed
        self.values = self.env.open_db(b"values")
        self.order = self.env.open_db(b"order")
        self.page_size = self.env.stat()["psize"]
        self.number = (path / "data.mdb").stat().st_ino
        self._full = int(max_bytes / self.page_size * _FULL)

    def pages(self, txn: Any) -> int:
        """Return how many pages the tables take."""
        return sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            for stat in (txn.stat(self.values), txn.stat(self.order))
        )

    def store(self, txn: Any, at: bytes, expires: float, record: bytes) -> None:
        """Store a record in the place of any older one."""
        if not txn.put(at, record, db=self.values, overwrite=False):
            self.remove(txn, at)
            txn.put(at, record, db=self.values)
        txn.put(struct.pack(">d", expires) + at, b"", db=self.order)

    def remove(self, txn: Any, at: bytes, only: bytes | None = None) -> bool:
        """Remove a record, only the one given if any; return whether it was there."""
        data = txn.get(at, db=self.values)
        if data is None or (only is not None and data != only):
            return False
        txn.delete(data[:8] + at, db=self.order)
        txn.delete(at, db=self.values)
        return True

    def sweep(self, txn: Any, now: float, stores: int = 1) -> tuple[int, int]:
        """Remove a few expired entries, and evict while too full; return how many of each.

        Args:
            txn: The transaction.
            now: Unix seconds.
            stores: How many entries it is about to store.
        """
        expired = evicted = 0
        most = min(_SWEEP * stores, _EVICT)
        with txn.cursor(db=self.order) as cursor:
            full = self.pages(txn) > self._full
            while cursor.first():
                place: bytes = cursor.key()
                if struct.unpack(">d", place[:8])[0] <= now and expired < most:
                    expired += 1
                elif full and evicted < _EVICT:
                    evicted += 1
                    full = self.pages(txn) > self._full
                else:
                    break
                self._drop(txn, place)
        return expired, evicted

    def evict(self, txn: Any) -> int:
        """Remove the entries that expire soonest; return how many."""
        evicted = 0
        with txn.cursor(db=self.order) as cursor:
            while evicted < _EVICT and cursor.first():
                self._drop(txn, cursor.key())
                evicted += 1
        return evicted

    def _drop(self, txn: Any, place: bytes) -> None:
        """Remove an entry by its place in the order."""
        txn.delete(place, db=self.order)
        data = txn.get(place[8:], db=self.values)
        if data is not None and data[:8] == place[:8]:
            txn.delete(place[8:], db=self.values)

    def clear(self, txn: Any) -> int:
        """Remove everything; return how many entries there were."""
        entries: int = txn.stat(self.values)["entries"]
        txn.drop(self.values, delete=False)
        txn.drop(self.order, delete=False)
        return entries


def text_of(key: str) -> bytes:
    """Return the key as bytes, whatever is in it."""
    return key.encode("utf-8", "surrogatepass")


def place_of(text: bytes) -> bytes:
    """Return the key in the file: the text, or the digest of one that LMDB cannot take."""
    if 0 < len(text) <= _LONGEST_KEY:
        return text
    return _HASHED + hashlib.blake2b(text, digest_size=32).digest()


def record_of(text: bytes, expires: float, envelope: bytes) -> bytes:
    """Return what is kept in the values table.

    Raises:
        struct.error: The key is too long.
    """
    full = text if len(text) > _LONGEST_KEY else b""
    return _RECORD.pack(expires, len(full)) + full + envelope


def envelope_of(data: bytes, at: bytes, text: bytes) -> bytes | None:
    """Return a record's envelope; None if the record is another key's, of the same digest."""
    if len(data) < _RECORD.size:
        return b""
    length = _RECORD.unpack_from(data)[1]
    if at[:1] != _HASHED:
        return b"" if length else data[_RECORD.size :]
    if data[_RECORD.size : _RECORD.size + length] != text:
        return None
    return data[_RECORD.size + length :]


def key_of(at: bytes, data: bytes) -> str | None:
    """Return the full key of a record; None if it cannot be read."""
    try:
        length = _RECORD.unpack_from(data)[1]
        text = data[_RECORD.size : _RECORD.size + length] if at[:1] == _HASHED else at
        return text.decode("utf-8", "surrogatepass")
    except (struct.error, UnicodeDecodeError):
        return None


def is_damage(error: lmdb.Error) -> bool:
    """Return whether a file that gives this error cannot be used any more."""
    return isinstance(
        error,
        lmdb.CorruptedError
        | lmdb.InvalidError
        | lmdb.PageNotFoundError
        | lmdb.PanicError
        | lmdb.VersionMismatchError
        | lmdb.IncompatibleError,
    )


def boot() -> str:
    """Return what names the system's current boot; nothing where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"
