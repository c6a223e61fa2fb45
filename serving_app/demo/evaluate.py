"""How good a model is: each user's last new invoice is held out, and must be recommended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving_app.demo.interactions import Interactions


@dataclass(frozen=True, slots=True)
class Split:
    """Interactions, cut into what a model may learn and what it must find."""

    known: Interactions
    """What happened before each held-out invoice; of users that are not asked, everything."""
    held_out: Interactions
    """What the users that are asked bought for the first time on their held-out invoice."""

    @property
    def users(self) -> NDArray[np.int64]:
        """The user indices that are asked, ascending."""
        return np.unique(self.held_out.user_index)


def leave_last_invoice_out(interactions: Interactions) -> Split:
    """Return the split that holds out the last invoice on which a user bought something new.

    Asked are users that bought for the first time on at least two invoices. A purchase of
    something bought before is no discovery and is never asked for; those on the held-out invoice
    and after it are dropped, so that nothing known is younger than what must be found.
    """
    user, timestamp = interactions.user_index, interactions.timestamp
    n_users = len(interactions.user_ids)
    pair = user * len(interactions.item_ids) + interactions.item_index
    order = np.lexsort((timestamp, pair))
    pairs, at = np.unique(pair[order], return_index=True)
    bought_first = timestamp[order][at]  # per pair
    new = timestamp == bought_first[np.searchsorted(pairs, pair)]

    first = np.full(n_users, np.iinfo(np.int64).max)
    last = np.full(n_users, np.iinfo(np.int64).min)
    np.minimum.at(first, user[new], timestamp[new])
    np.maximum.at(last, user[new], timestamp[new])
    asked = (first < last)[user]
    return Split(
        known=interactions.where(~asked | (timestamp < last[user])),
        held_out=interactions.where(asked & new & (timestamp == last[user])),
    )


def hit_rate(
    split: Split,
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    item_bias: NDArray[np.float32],
    *,
    k: int = 10,
) -> float:
    """Return HR@k: the share of users with any held-out item among their k best.

    Candidates are all items of the catalogue that the user has not bought before.

    Args:
        split: The users to ask, and what they must find.
        user_factors: ``(n_users, d)`` features of every user.
        item_factors: ``(n_items, d)``.
        item_bias: ``(n_items,)``, added to the scores.
        k: Places in a recommendation.
    """
    users = split.users
    if not len(users):
        return 0.0
    n_items = len(item_factors)
    wanted = split.held_out.user_index * n_items + split.held_out.item_index
    hits = 0
    for start in range(0, len(users), 512):
        batch = users[start : start + 512]
        scores = user_factors[batch] @ item_factors.T + item_bias
        mine = np.isin(split.known.user_index, batch)
        rows = np.searchsorted(batch, split.known.user_index[mine])
        scores[rows, split.known.item_index[mine]] = -np.inf
        # A stable sort: of equal scores the lower item index comes first, as when serving.
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        hits += int(np.isin(batch[:, None] * n_items + best, wanted).any(axis=1).sum())
    return hits / len(users)
