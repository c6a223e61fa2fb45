"""A count-min sketch: how often keys were asked for lately, in a few bytes a key."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["FrequencySketch", "Spots"]

Spots: TypeAlias = int
"""A key's digest of 64 bits, of which each row of a sketch takes a part."""

_MOST = 15
_HALVES = bytes(count // 2 for count in range(256))
_PER_KEY = 4
"""Counters a row has per key, so that two keys seldom share all four."""


class FrequencySketch:
    """Counts up to 15 in four rows, and halves all counts as Caffeine's does.

    Cormode, Muthukrishnan: An improved data stream summary, 2005, with conservative update
    (only the lowest of a key's counters grows), and the aging of Einziger, Friedman, Manes:
    TinyLFU, ACM TOS 2017: after ten times as many uses as it has keys, all counters are halved,
    which is one pass over the bytes.
    """

    __slots__ = ("_counts", "_mask", "_uses", "_width", "keys")

    def __init__(self, keys: int = 16) -> None:
        self.keys = 0
        """How many keys it is made for."""
        self.grow(keys)

    def grow(self, keys: int) -> None:
        """Make room for twice as many keys until there is enough; what was counted is lost."""
        if keys <= self.keys:
            return
        self.keys = 1 << (keys - 1).bit_length()
        self._width = _PER_KEY * self.keys
        self._mask = self._width - 1
        self._counts = bytearray(4 * self._width)
        self._uses = 0

    def _places(self, spots: Spots) -> tuple[int, int, int, int]:
        # Four steps of one stride, as Kirsch and Mitzenmacher: Less hashing, same performance.
        width, mask = self._width, self._mask
        stride = (spots >> 32) | 1
        return (
            spots & mask,
            width + ((spots + stride) & mask),
            2 * width + ((spots + 2 * stride) & mask),
            3 * width + ((spots + 3 * stride) & mask),
        )

    def add(self, spots: Spots) -> bool:
        """Count one use; return whether all counts were halved after it."""
        counts = self._counts
        a, b, c, d = self._places(spots)
        lowest = min(counts[a], counts[b], counts[c], counts[d])
        if lowest < _MOST:
            for place in (a, b, c, d):
                if counts[place] == lowest:
                    counts[place] += 1
        self._uses += 1
        if self._uses < 10 * self.keys:
            return False
        self.halve()
        return True

    def frequency(self, spots: Spots) -> int:
        """Return how often a key was used lately, or more; at most 15."""
        counts = self._counts
        a, b, c, d = self._places(spots)
        return min(counts[a], counts[b], counts[c], counts[d])

    def halve(self) -> None:
        """Halve every count."""
        self._counts = self._counts.translate(_HALVES)
        self._uses //= 2

    def check(self) -> None:
        """Verify the size and the counts.

        Raises:
            AssertionError: One is out of range.
        """
        assert len(self._counts) == 4 * self._width, "the sketch has a wrong size"
        assert max(self._counts) <= _MOST, "a count is too high"
        assert self._uses < 10 * self.keys, "the sketch did not age"
