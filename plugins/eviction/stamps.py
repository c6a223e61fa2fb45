"""Entries by rank and last use, of which only the lowest is ever sought."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, TypeAlias, final

__all__ = ["StampQueue"]

_GHOST = float("-inf")
_SHIFT = 8
"""Uses, as a power of two, that go into one bucket: it is sorted once, when it is the lowest."""
_SLACK = 64
"""How many dead references are tolerated in any case, so that small caches never rebuild."""

_Key: TypeAlias = tuple[int, int]


def _equal(_: Any) -> int:
    return 0


@final
class StampQueue:
    """A priority queue of entries that L1 stamps at each use (hit mode ``stamp``).

    The lowest entry is that of the lowest rank, and among equals the one whose last use is the
    oldest. Nobody tells the queue of a use: stamps and ranks only grow, so an entry stays where
    it was put until it surfaces, and then goes to where it belongs by now. Each use pays for one
    such move at most; so a step is O(1) amortised, and finding the lowest entry exact, but after
    many uses of many entries one step may move them all.

    A place is one reference in a list. An entry that leaves otherwise leaves its reference
    behind, dead; once more than half are dead, all is rebuilt.

    Args:
        rank: Returns an entry's rank; it never falls, but in `rerank`.
    """

    __slots__ = ("_buckets", "_front", "_front_key", "_keys", "_placed", "_rank", "_size")

    def __init__(self, rank: Callable[[Any], int] = _equal) -> None:
        self._rank = rank
        self._buckets: dict[_Key, list[Any]] = {}
        self._keys: list[_Key] = []  # a heap
        self._front: list[tuple[int, int, Any]] = []  # the lowest bucket, sorted, lowest last
        self._front_key: _Key = (0, 0)
        self._size = self._placed = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        """Yield the entries, in no order."""
        for entry in self._references():
            if entry.expires != _GHOST:
                yield entry

    def _references(self) -> Iterator[Any]:
        for bucket in self._buckets.values():
            yield from bucket
        for _, _, entry in self._front:
            yield entry

    def push(self, entry: Any) -> None:
        """Put an entry in. One that is in already need not be, whatever its use."""
        self._size += 1
        self._place(entry)

    def _place(self, entry: Any) -> None:
        key = (self._rank(entry), entry.ref >> _SHIFT)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = []
            heapq.heappush(self._keys, key)
        bucket.append(entry)
        self._placed += 1

    def forget(self) -> None:
        """Hear that some entry leaves; L1 marks it as gone as soon as the policy returns."""
        self._size -= 1
        if self._placed > 2 * self._size + _SLACK:
            self.rerank()

    def pop(self) -> Any:
        """Take the lowest entry out, and return it. There must be one."""
        while True:
            front, keys = self._front, self._keys
            if not front or (keys and keys[0] < self._front_key):
                self._load()
                continue
            rank, stamp, entry = front.pop()
            self._placed -= 1
            if entry.expires == _GHOST:
                continue
            if entry.ref == stamp and self._rank(entry) == rank:
                self._size -= 1
                return entry
            self._place(entry)

    def put_back(self, entry: Any) -> None:
        """Put the entry that `pop` returned last in again, as the lowest."""
        self._size += 1
        rank, stamp = self._rank(entry), entry.ref
        if (rank, stamp >> _SHIFT) == self._front_key:
            self._front.append((rank, stamp, entry))
            self._placed += 1
        else:
            self._place(entry)  # another thread has used it meanwhile

    def _load(self) -> None:
        """Make the lowest bucket the front one; move on what was used since it was put there."""
        if self._front:
            rest = [entry for _, _, entry in self._front]
            self._front = []
            self._placed -= len(rest)
            for entry in rest:
                self._place(entry)
        key = heapq.heappop(self._keys)
        bucket = self._buckets.pop(key)
        self._placed -= len(bucket)
        rank, turn = key
        front = []
        for entry in bucket:
            if entry.expires == _GHOST:
                continue
            stamp = entry.ref  # once: another thread may use the entry meanwhile
            if stamp >> _SHIFT == turn and self._rank(entry) == rank:
                front.append((rank, stamp, entry))
            else:
                self._place(entry)
        front.sort(key=itemgetter(1), reverse=True)
        self._front, self._front_key = front, key
        self._placed += len(front)

    def rerank(self, change: Callable[[Any], None] | None = None) -> None:
        """Put every entry where it belongs by now; O(entries).

        Args:
            change: Called with each before; it may lower the rank.
        """
        entries = list(self)
        self._buckets, self._keys, self._front, self._placed = {}, [], [], 0
        for entry in entries:
            if change is not None:
                change(entry)
            self._place(entry)

    def check(self) -> None:
        """Verify the places, the counts and the bound.

        Raises:
            AssertionError: Something of it is wrong.
        """
        entries = list(self)
        assert len(entries) == self._size, "the queue lost an entry"
        assert len({id(entry) for entry in entries}) == self._size, "an entry has two places"
        assert self._placed == sum(1 for _ in self._references()), "places are miscounted"
        assert self._placed <= 2 * self._size + _SLACK + 1, "there are too many dead references"
        assert sorted(self._keys) == sorted(self._buckets), "the heap and the buckets differ"
        for key, bucket in self._buckets.items():
            assert bucket, "a bucket is empty"
            for entry in bucket:
                now = (self._rank(entry), entry.ref >> _SHIFT)
                assert entry.expires == _GHOST or now >= key, "an entry is in too high a bucket"
        stamps = [stamp for _, stamp, _ in self._front]
        assert stamps == sorted(stamps, reverse=True), "the front bucket is not sorted"
