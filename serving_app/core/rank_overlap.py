"""How alike two rankings are."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["overlap", "rank_biased_overlap"]

PERSISTENCE = 0.9
"""How likely a reader goes on to the next item; of the weight, 86 % lies on the first 10."""


def overlap(one: Sequence[str], other: Sequence[str], depth: int) -> float:
    """Return the part of the first ``depth`` items that both have, 0 to 1."""
    depth = min(depth, max(len(one), len(other)))
    if not depth:
        return 1.0
    return len(set(one[:depth]) & set(other[:depth])) / depth


def rank_biased_overlap(one: Sequence[str], other: Sequence[str], depth: int) -> float:
    """Return the extrapolated rank-biased overlap of the first ``depth`` items, 0 to 1.

    W. Webber, A. Moffat, J. Zobel, *A similarity measure for indefinite rankings* (TOIS 28, 2010),
    equation 30 (RBO_EXT for rankings of equal length), with p = `PERSISTENCE`. The longer ranking
    is cut to the length of the shorter, where they differ.
    """
    depth = min(depth, len(one), len(other))
    if not depth:
        return 1.0 if len(one) == len(other) else 0.0
    seen_one: set[str] = set()
    seen_other: set[str] = set()
    shared = 0
    total = 0.0
    for at in range(depth):
        a, b = one[at], other[at]
        shared += (a == b) + (a != b and a in seen_other) + (a != b and b in seen_one)
        seen_one.add(a)
        seen_other.add(b)
        total += PERSISTENCE ** (at + 1) * shared / (at + 1)
    ahead = shared / depth * PERSISTENCE**depth
    return ahead + (1 - PERSISTENCE) / PERSISTENCE * total
