"""Exact top-k of a whole batch, without a loop over its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_first", "top_k", "top_k_of_products"]

_CHUNK = 1 << 20
"""Scores that are looked at together, so that what is made of them stays in the cache."""
_BLOCKS_PER_PLACE = 8
_FEWEST_BLOCKS = 1024
_SMALLEST_BLOCK = 4

_SIGN = np.uint32(1 << 31)
_LOW = np.uint64((1 << 32) - 1)
_HALF = np.uint64(32)
_LAST = np.uint64((1 << 64) - 1)


def top_k(
    scores: NDArray[np.floating], depth: int
) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
    """Return the positions and scores of the ``depth`` best of each row, best first.

    In two stages where rows are long: every score of the answer reaches the ``depth``-th largest
    of the maxima of blocks, which few others do; those that do are sorted. So a row is read three
    times, by instructions that handle many scores at once, and never partitioned.

    Args:
        scores: ``(batch, n)``, finite, n below 2³².
        depth: At most ``n``.

    Returns:
        Two ``(batch, depth)`` arrays. Exact; of equal scores the lower position comes first, so
        that every framework gives the same order.
    """
    batch, n = scores.shape
    rows = max(1, _CHUNK // n)
    if batch <= rows:
        positions = _positions(scores, depth)
    else:
        chunks = [_positions(scores[at : at + rows], depth) for at in range(0, batch, rows)]
        positions = np.concatenate(chunks)
    return positions, np.take_along_axis(scores, positions, axis=1)


def top_k_of_products(
    vectors: NDArray[np.float32], items: NDArray[np.float32], depth: int
) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
    """Return what `top_k` returns of the inner products of vectors and items.

    The products are made for blocks of items, a few MiB at a time, however many there are.

    Args:
        vectors: ``(batch, d)``, finite.
        items: ``(n, d)``, finite.
        depth: At most ``n``.

    Returns:
        Two ``(batch, depth)`` arrays; the scores of a row with a product beyond float32 are NaN.
    """
    batch, n = len(vectors), len(items)
    step = max(_CHUNK // max(1, batch), depth)
    found = []
    wrong = np.zeros(batch, dtype=np.bool_)
    for first in range(0, n, step):
        with np.errstate(over="ignore", invalid="ignore"):
            scores = vectors @ items[first : first + step].T
        finite = np.isfinite(scores).all(axis=1)
        if not finite.all():
            wrong |= ~finite
            scores[~finite] = 0
        positions, best = top_k(scores, min(depth, scores.shape[1]))
        found.append((positions + first, best))
    positions, best = found[0]
    if len(found) > 1:
        # Of equal scores the lower position stands first here, too: blocks are in their order.
        candidates = np.concatenate([positions for positions, _ in found], axis=1)
        places, best = top_k(np.concatenate([best for _, best in found], axis=1), depth)
        positions = np.take_along_axis(candidates, places, axis=1)
    best[wrong] = np.nan
    return positions, best


def best_first(
    positions: NDArray[np.integer[Any]], scores: NDArray[np.floating], depth: int
) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
    """Return the ``depth`` best of pairs that someone else has found, in the order of `top_k`.

    Args:
        positions: ``(batch, m)``.
        scores: ``(batch, m)``, of the positions.
        depth: At most ``m``.
    """
    order = np.lexsort((positions, -scores), axis=1)[:, :depth]
    taken = np.take_along_axis(positions, order, axis=1).astype(np.intp)
    return taken, np.take_along_axis(scores, order, axis=1)


def _positions(scores: NDArray[np.floating], depth: int) -> NDArray[np.intp]:
    """Return the positions of the best of a few rows."""
    batch, n = scores.shape
    reach = scores >= _threshold(scores, depth)[:, None]
    flat = np.flatnonzero(reach)  # row by row, positions rising
    candidates = scores.ravel()[flat]
    if batch == 1:
        columns, counts = flat, np.array([len(flat)])
    else:
        rows = flat // n
        columns = flat - rows * n
        counts = np.bincount(rows, minlength=batch)
    if scores.dtype not in {np.dtype(np.float32), np.dtype(np.float16)}:
        return _sorted_slowly(candidates, columns, counts, depth)
    keys = (_falling(candidates) << _HALF) | columns.astype(np.uint64)
    table = _as_rows(keys, counts, _LAST)
    table.sort(axis=1)
    found: NDArray[np.intp] = (table[:, :depth] & _LOW).astype(np.intp)
    return found


def _threshold(scores: NDArray[np.floating], depth: int) -> NDArray[np.floating]:
    """Return a score of each row that at least ``depth`` of its scores reach, and few others."""
    batch, n = scores.shape
    blocks = max(_BLOCKS_PER_PLACE * depth, _FEWEST_BLOCKS)
    size = n // blocks
    last: NDArray[np.floating]
    if size < _SMALLEST_BLOCK:
        last = np.partition(scores, n - depth, axis=1)[:, n - depth]
        return last
    # Block b has the positions b, b + blocks, b + 2 · blocks, …: maxima of whole rows at a time.
    whole = size * blocks
    maxima = scores[:, :whole].reshape(batch, size, blocks).max(axis=1)
    rest = n - whole
    np.maximum(maxima[:, :rest], scores[:, whole:], out=maxima[:, :rest])
    maxima.partition(blocks - depth, axis=1)
    last = maxima[:, blocks - depth]
    return last


def _falling(scores: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return numbers in whose order the scores fall; those of equal scores are equal."""
    bits = (scores.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32)  # -0 is 0
    return np.where(bits & _SIGN, bits, ~(bits | _SIGN)).astype(np.uint64)


def _as_rows(flat: NDArray[Any], counts: NDArray[np.intp], fill: Any) -> NDArray[Any]:
    """Return ``(batch, most)`` of values that stand row by row, filled up at the end."""
    most = int(counts.max())
    if most * len(counts) == len(flat):
        return flat.reshape(len(counts), most)
    table = np.full((len(counts), most), fill, dtype=flat.dtype)
    table[np.arange(most) < counts[:, None]] = flat
    return table


def _sorted_slowly(
    candidates: NDArray[Any], columns: NDArray[np.intp], counts: NDArray[np.intp], depth: int
) -> NDArray[np.intp]:
    """Return the positions of the best, of scores that do not fit half of a 64-bit number."""
    table = _as_rows(-candidates, counts, np.inf)
    order = np.argsort(table, axis=1, kind="stable")[:, :depth]
    found: NDArray[np.intp] = np.take_along_axis(_as_rows(columns, counts, 0), order, axis=1)
    return found
