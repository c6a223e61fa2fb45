"""Implicit-feedback matrix factorisation by alternating least squares.

Source: Y. Hu, Y. Koren, C. Volinsky, "Collaborative Filtering for Implicit Feedback Datasets",
ICDM 2008. Minimises ``sum c_ui (p_ui - x_u · y_i)² + λ (sum |x_u|² + sum |y_i|²)`` over all pairs,
where ``p_ui`` is 1 for a pair that occurs and ``c_ui = 1 + α w_ui``.

Deviations: the weight ``w_ui`` is the caller's (the paper's choices are the raw count and
``log(1 + r/ε)``); the normal equations of many rows are solved at once, which changes nothing
but rounding; arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_BATCH_CELLS = 32_768
"""Padded (row, column) cells that one solve gathers: 8 MB of factors at d = 64."""


def factorise(
    user_index: NDArray[np.int64],
    item_index: NDArray[np.int64],
    weight: NDArray[np.floating],
    n_users: int,
    n_items: int,
    *,
    factors: int = 64,
    regularisation: float = 10.0,
    alpha: float = 10.0,
    iterations: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return user factors ``(n_users, factors)`` and item factors ``(n_items, factors)``, float32.

    A user or item without a pair has zero factors. The same seed gives the same factors.

    Args:
        user_index: ``(pairs,)`` user of each pair; a pair that occurs again adds its weight.
        item_index: ``(pairs,)`` item of each pair.
        weight: ``(pairs,)`` strength of each pair, at least zero.
        n_users: Number of users.
        n_items: Number of items.
        factors: Dimensions d of the factors.
        regularisation: λ of the paper.
        alpha: α of the paper: confidence that a pair's unit of weight adds.
        iterations: Sweeps over users and items.
        seed: Of the item factors to start from.
        progress: Called after each sweep with the sweeps done and the sweeps in all.
    """
    cells, inverse = np.unique(user_index * n_items + item_index, return_inverse=True)
    extra = (alpha * np.bincount(inverse, weights=weight)).astype(np.float32)
    users, items = np.divmod(cells, n_items)
    of_users = _Rows(users, items, extra, n_users)
    of_items = _Rows(items, users, extra, n_items)

    rng = np.random.default_rng(seed)
    item_factors = (rng.standard_normal((n_items, factors)) * 0.01).astype(np.float32)
    user_factors = np.zeros((n_users, factors), dtype=np.float32)
    for sweep in range(iterations):
        user_factors = of_users.solve(item_factors, regularisation)
        item_factors = of_items.solve(user_factors, regularisation)
        if progress is not None:
            progress(sweep + 1, iterations)
    return user_factors, item_factors


class _Rows:
    """One side's pairs, batched so that the rows of a batch are about equally long.

    Args:
        row: ``(pairs,)`` the side to solve for.
        column: ``(pairs,)`` the other side.
        extra: ``(pairs,)`` confidence beyond 1: c - 1.
        n_rows: Number of rows.
    """

    def __init__(
        self,
        row: NDArray[np.int64],
        column: NDArray[np.int64],
        extra: NDArray[np.float32],
        n_rows: int,
    ) -> None:
        self._n_rows = n_rows
        order = np.argsort(row, kind="stable")
        column, extra = column[order], extra[order]
        length = np.bincount(row, minlength=n_rows)
        start = np.cumsum(length) - length
        by_length = np.argsort(length, kind="stable")
        by_length = by_length[length[by_length] > 0]
        self._batches: list[
            tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]
        ] = []
        at = 0
        while at < len(by_length):
            # Rows get longer, so that the last row of the batch decides the padding.
            widths = length[by_length[at:]]
            cells = widths * np.arange(1, len(widths) + 1)
            end = at + max(1, int(np.searchsorted(cells, _BATCH_CELLS, side="right")))
            rows = by_length[at:end]
            places = np.arange(length[rows[-1]])
            real = places < length[rows][:, None]
            source = np.where(real, start[rows][:, None] + places, 0)
            # A padded place has no confidence and no preference, so it adds nothing.
            confidence = np.where(real, extra[source], np.float32(0))
            target = np.where(real, 1 + extra[source], np.float32(0))
            self._batches.append((rows, column[source], confidence, target))
            at = end

    def solve(self, other: NDArray[np.float32], regularisation: float) -> NDArray[np.float32]:
        """Return the factors ``(n_rows, d)`` that are best while the other side's are fixed."""
        d = other.shape[1]
        solved = np.zeros((self._n_rows, d), dtype=np.float32)
        # The trick of the paper: YᵀCY = YᵀY + Yᵀ(C - I)Y, of which the second has few terms.
        shared = other.T @ other + regularisation * np.eye(d, dtype=np.float32)
        for rows, columns, confidence, target in self._batches:
            gathered = other[columns]
            left = gathered.transpose(0, 2, 1) @ (gathered * confidence[:, :, None]) + shared
            right = (target[:, None, :] @ gathered).transpose(0, 2, 1)
            solved[rows] = np.linalg.solve(left, right)[:, :, 0]
        return solved
