"""LFU in constant time."""

from __future__ import annotations

from typing import Any, ClassVar, final

from plugins.contracts import Entry, HitMode, InsertOrigin, RemoveCause
from plugins.eviction.base import BaseEvictionPolicy
from plugins.eviction.linked import LINKS, LinkedList


@final
class _Bucket:
    """All entries that were used equally often."""

    __slots__ = (*LINKS, "count", "entries")

    def __init__(self, count: int) -> None:
        self.count = count
        self.entries = LinkedList()  # most recently used in front


class LFU(BaseEvictionPolicy):
    """Evicts the entry that was used least often; among equals the one unused for longest.

    Shah, Mitra, Matani: An O(1) algorithm for implementing the LFU cache eviction scheme, 2010.
    Deviations: ties, which the paper leaves open, are broken by recency. L1 inserts before it
    evicts, so a newcomer is passed over while another entry is resident; else no new entry
    could stay once all others were used twice. An overwritten entry keeps its count, and a model
    roll-out halves all counts, so that the keys it retires do not lock out the new ones.
    """

    hit_mode: ClassVar[HitMode] = "call"
    entry_slots: ClassVar[tuple[str, ...]] = ("bucket", *LINKS)

    def __init__(self) -> None:
        self._buckets = LinkedList()  # lowest count in front
        self._newcomer: Entry | None = None
        self._overwritten: Entry | None = None

    def on_insert(self, entry: Entry, now: float, origin: InsertOrigin) -> None:
        """Link the entry as used once; an overwritten one stays where it is."""
        self._newcomer = entry
        if entry is self._overwritten:
            self._overwritten = None
            return
        first = self._buckets.root.next
        if first is self._buckets.root or first.count != 1:
            first = _Bucket(1)
            self._buckets.push(first)
        self._link(entry, first)

    def on_hit(self, entry: Entry, now: float) -> None:
        """Move the entry to the bucket of the next count."""
        bucket = entry.bucket  # type: ignore[attr-defined]  # the slot is declared above
        following = bucket.next
        if following is self._buckets.root or following.count != bucket.count + 1:
            following = _Bucket(bucket.count + 1)
            self._buckets.insert_after(bucket, following)
        self._unlink(entry)
        self._link(entry, following)

    def evict(self, now: float) -> Entry:
        """Return the least recently used entry of the lowest count."""
        bucket = self._buckets.root.next
        if bucket.entries.root.prev is self._newcomer and len(self._buckets) > 1:
            bucket = bucket.next
        victim: Entry = bucket.entries.root.prev
        self._unlink(victim)
        return victim

    def on_remove(self, entry: Entry, cause: RemoveCause) -> None:
        """Unlink the entry, unless it comes back at once with a new value."""
        if cause == "replaced":
            self._overwritten = entry
            entry.bucket.entries.move_to_front(entry)  # type: ignore[attr-defined]
            return
        self._unlink(entry)

    def on_generation(self, namespace: str, old: int, new: int) -> None:
        """Halve every count, in O(entries)."""
        old_buckets, self._buckets = self._buckets, LinkedList()
        last: _Bucket | None = None
        for bucket in old_buckets:
            count = max(1, bucket.count // 2)
            if last is None or last.count != count:
                merged = _Bucket(count)
                self._buckets.insert_after(self._buckets.root.prev, merged)
                last = merged
            for entry in reversed(list(bucket.entries)):
                bucket.entries.unlink(entry)
                self._link(entry, last)

    def _link(self, entry: Any, bucket: _Bucket) -> None:
        bucket.entries.push(entry)
        entry.bucket = bucket

    def _unlink(self, entry: Any) -> None:
        bucket = entry.bucket
        bucket.entries.unlink(entry)
        entry.bucket = None
        if not bucket.entries:
            self._buckets.unlink(bucket)

    def check(self) -> None:
        """Verify the buckets, their order and what they hold."""
        self._buckets.check()
        previous = 0
        for bucket in self._buckets:
            assert bucket.count > previous, "the buckets are out of order"
            previous = bucket.count
            assert bucket.entries, "a bucket is empty"
            bucket.entries.check()
            assert all(entry.bucket is bucket for entry in bucket.entries), "a bucket is wrong"
