"""Training of the demo's two models: a factorisation, and popularity to compare it with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from serving_app.demo.als import factorise
from serving_app.demo.evaluate import hit_rate, leave_last_invoice_out
from serving_app.demo.interactions import Interactions

Progress: TypeAlias = Callable[[str, float], None]
"""Called with a short text and the fraction done, from 0 to 1."""

FACTORS = 64
"""Dimensions of the factorisation."""
_DAY = 86_400.0
_RECENT_HALF_LIFE = 14 * _DAY
# Tuned on Online Retail, together with alpha and regularisation. Without decay HR@10 is .02 lower
# on the last invoices, and .01 lower on the month after a cut in time.
_TASTE_HALF_LIFE = 60 * _DAY


@dataclass(frozen=True, slots=True)
class Trained:
    """What training on all interactions found, and how well it did on held-out ones."""

    user_factors: NDArray[np.float32]
    """``(n_users, d)``: the features of each user."""
    item_factors: NDArray[np.float32]
    """``(n_items, d)``."""
    all_time: NDArray[np.float32]
    """``(n_items,)`` purchases of each item."""
    recent: NDArray[np.float32]
    """``(n_items,)`` purchases of each item, each worth half after 14 days."""
    hr_factorisation: float
    """HR@10 of the factorisation on held-out invoices, trained without them."""
    hr_popularity: float
    """HR@10 of the purchase count on the same invoices."""
    n_users_evaluated: int
    """How many users were asked for it; 0: nobody has two invoices, and both rates are 0."""


def train(
    interactions: Interactions, *, seed: int = 7, progress: Progress | None = None
) -> Trained:
    """Return the factorisation of all interactions, and its quality on held-out ones.

    Trains twice: without each user's last new invoice to evaluate, then on everything.
    """
    report = progress if progress is not None else _silent
    n_items = len(interactions.item_ids)

    report("Training without the last invoices, to evaluate", 0.0)
    split = leave_last_invoice_out(interactions)
    user_factors, item_factors = _factorise(
        split.known, seed, lambda share: report("Training, to evaluate", share * 0.45)
    )
    report("Evaluating", 0.45)
    hr_factorisation = hit_rate(
        split, user_factors, item_factors, np.zeros(n_items, dtype=np.float32)
    )
    hr_popularity = hit_rate(
        split,
        np.zeros((len(interactions.user_ids), 1), dtype=np.float32),
        np.zeros((n_items, 1), dtype=np.float32),
        _all_time(split.known),
    )
    user_factors, item_factors = _factorise(
        interactions, seed, lambda share: report("Training on everything", 0.5 + share * 0.5)
    )
    return Trained(
        user_factors=user_factors,
        item_factors=item_factors,
        all_time=_all_time(interactions),
        recent=np.bincount(
            interactions.item_index,
            weights=_decayed(interactions, _RECENT_HALF_LIFE),
            minlength=n_items,
        ).astype(np.float32),
        hr_factorisation=hr_factorisation,
        hr_popularity=hr_popularity,
        n_users_evaluated=len(split.users),
    )


def _factorise(
    interactions: Interactions, seed: int, report: Callable[[float], None]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the factors of users and items; report the share done after each sweep.

    A purchase counts once, however many pieces: quantities are a wholesaler's, not a taste's.
    """
    return factorise(
        interactions.user_index,
        interactions.item_index,
        _decayed(interactions, _TASTE_HALF_LIFE),
        len(interactions.user_ids),
        len(interactions.item_ids),
        factors=FACTORS,
        regularisation=30.0,
        alpha=6.0,
        iterations=8,
        seed=seed,
        progress=lambda done, of: report(done / of),
    )


def _all_time(interactions: Interactions) -> NDArray[np.float32]:
    """Return ``(n_items,)`` purchases of each item."""
    n_items = len(interactions.item_ids)
    return np.bincount(interactions.item_index, minlength=n_items).astype(np.float32)


def _decayed(interactions: Interactions, half_life: float) -> NDArray[np.float64]:
    """Return ``(rows,)`` what each purchase is worth at the time of the youngest one."""
    if not len(interactions):
        return np.zeros(0)
    age = interactions.timestamp.max() - interactions.timestamp
    worth: NDArray[np.float64] = 0.5 ** (age / half_life)
    return worth


def _silent(text: str, fraction: float) -> None:
    """Report nothing."""
