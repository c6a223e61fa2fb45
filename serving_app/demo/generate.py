"""A small shop that does not exist: seeded, so that the demo and the tests need no data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving_app.demo.interactions import Interactions

_THINGS = {
    "kitchen": "teapot, mug, cake stand, storage jar, mixing bowl, egg cup, butter dish, milk jug",
    "garden": "watering can, plant pot, bird feeder, hanging basket, wind chime, trellis, kneeler",
    "light": "table lamp, candle holder, fairy lights, night light, lampshade, tealight, lantern",
    "paper": "notebook, gift wrap, greeting card, pencil case, calendar, sticker set, photo album",
    "toys": "spinning top, jigsaw, skipping rope, toy train, doll, kite, money box, yo-yo",
    "textiles": "cushion cover, tea towel, apron, throw, table runner, shopping bag, door mat",
    "jewellery": "bracelet, necklace, earrings, brooch, hair clip, ring dish, trinket box",
    "party": "bunting, paper cups, paper napkins, balloons, cake candles, garland, piñata",
}
_LOOKS = """
    Blue ceramic, Red spotted, Vintage rose, White enamel, Green striped, Silver, Rustic wooden,
    Pastel pink, Black and gold, Retro, Woodland, Nautical, Lavender, Glass, Floral, Polka dot
"""
_FIRST_DAY = 1_735_689_600  # 2025-01-01, 00:00 UTC
_DAY = 86_400


def generate(
    seed: int = 7, *, n_users: int = 800, n_items: int = 400, days: int = 180
) -> tuple[Interactions, dict[str, str]]:
    """Return the purchases of a made-up shop, and its titles by item id.

    A user likes a few kinds of things and a few looks, and mostly buys those; popularity follows
    Zipf's law. The same arguments give the same shop.

    Args:
        seed: Of everything random.
        n_users: Users; each buys at least once.
        n_items: Items on offer, at most 928. One that nobody buys is not in the catalogue.
        days: Length of the history.

    Raises:
        ValueError: More items are wanted than there are titles.
    """
    rng = np.random.default_rng(seed)
    kinds = [(kind, thing) for kind, things in _THINGS.items() for thing in things.split(", ")]
    looks = [words.strip() for words in _LOOKS.split(",")]
    most = len(kinds) * len(looks)
    if n_items > most:
        raise ValueError(f"There are titles for {most} items, not for {n_items}.")
    thing, look = np.divmod(rng.choice(most, n_items, replace=False), len(looks))
    names = list(_THINGS)
    kind = np.array([names.index(kinds[i][0]) for i in thing])
    titles = {
        f"i{number:04d}": f"{looks[look[number]]} {kinds[thing[number]][1]}"
        for number in range(n_items)
    }
    appeal = -0.9 * np.log1p(rng.permutation(n_items))

    users: list[NDArray[np.int64]] = []
    items: list[NDArray[np.int64]] = []
    instants: list[NDArray[np.int64]] = []
    for user in range(n_users):
        taste = (
            np.log(rng.dirichlet(np.full(len(names), 0.3)) + 0.005)[kind]
            + np.log(rng.dirichlet(np.full(len(looks), 0.3)) + 0.01)[look]
            + appeal
        )
        n_invoices = 1 + rng.geometric(0.25)
        for day in np.sort(rng.choice(days, min(n_invoices, days), replace=False)):
            size = min(n_items, 1 + rng.poisson(4))
            # Gumbel noise turns the largest sums into a draw without replacement.
            basket = np.argsort(-(taste + rng.gumbel(size=n_items)), kind="stable")[:size]
            # Shops like this one sell by day: from 8 to 20 o'clock.
            instant = _FIRST_DAY + day * _DAY + rng.integers(8 * 3600, 20 * 3600)
            users.append(np.full(size, user))
            items.append(basket)
            instants.append(np.full(size, instant))
    user_index, item_index = np.concatenate(users), np.concatenate(items)
    timestamp = np.concatenate(instants)
    order = np.argsort(timestamp, kind="stable")
    bought, item_index = np.unique(item_index[order], return_inverse=True)
    ids = list(titles)
    item_ids = tuple(ids[i] for i in bought)
    interactions = Interactions(
        user_ids=tuple(f"u{number:04d}" for number in range(n_users)),
        item_ids=item_ids,
        user_index=user_index[order],
        item_index=item_index,
        quantity=rng.geometric(0.5, len(order)).astype(np.float64),
        timestamp=timestamp[order],
    )
    return interactions, {item: titles[item] for item in item_ids}
