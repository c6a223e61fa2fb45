"""Factorisation, evaluation and training, on a made-up shop and on a real one."""

from __future__ import annotations

import numpy as np
import pytest

from serving_app.demo.als import factorise
from serving_app.demo.evaluate import hit_rate, leave_last_invoice_out
from serving_app.demo.generate import generate
from serving_app.demo.interactions import Interactions
from serving_app.demo.train import train


def _interactions(rows):
    """Interactions of (user, item, timestamp) rows, of 3 users and 5 items."""
    user, item, timestamp = (np.array(column) for column in zip(*rows, strict=True))
    return Interactions(tuple("abc"), tuple("vwxyz"), user, item, np.ones(len(user)), timestamp)


def _triples(interactions):
    columns = interactions.user_index, interactions.item_index, interactions.timestamp
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def test_the_same_seed_makes_the_same_shop():
    one, titles = generate(3, n_users=30, n_items=40)
    two, again = generate(3, n_users=30, n_items=40)
    other, _ = generate(4, n_users=30, n_items=40)
    assert (_triples(one), one.item_ids, titles) == (_triples(two), two.item_ids, again)
    assert _triples(one) != _triples(other)
    assert set(titles) == set(one.item_ids)
    assert len(set(titles.values())) == len(titles)
    assert np.unique(one.item_index).size == len(one.item_ids)
    assert np.unique(one.user_index).size == 30
    with pytest.raises(ValueError, match="titles for 928 items, not for 5000"):
        generate(n_items=5000)


def test_factorise_solves_the_normal_equations_of_the_paper():
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 6, 20), rng.integers(0, 9, 20)
    weight = rng.random(20)
    user_factors, item_factors = factorise(
        user, item, weight, 7, 9, factors=3, regularisation=0.5, alpha=4.0, iterations=3, seed=1
    )
    assert (user_factors.shape, item_factors.shape) == ((7, 3), (9, 3))
    assert user_factors.dtype == item_factors.dtype == np.float32
    confidence = np.ones((7, 9))
    np.add.at(confidence, (user, item), 4.0 * weight)  # a pair that occurs again adds up
    preference = (confidence > 1).astype(float)
    for i in range(9):
        scaled = user_factors * confidence[:, i, None]
        left = user_factors.T @ scaled + 0.5 * np.eye(3)
        expected = np.linalg.solve(left, scaled.T @ preference[:, i])
        np.testing.assert_allclose(item_factors[i], expected, rtol=1e-3, atol=1e-5)
    assert not user_factors[6].any()  # who bought nothing has no taste


def test_factorise_is_the_same_for_the_same_seed_and_reports_each_sweep():
    user, item = np.array([0, 1, 1]), np.array([0, 0, 1])
    sweeps = []
    one = factorise(
        user, item, np.ones(3), 2, 2, iterations=2, progress=lambda *at: sweeps.append(at)
    )
    two = factorise(user, item, np.ones(3), 2, 2, iterations=2)
    np.testing.assert_array_equal(one[0], two[0])
    assert sweeps == [(1, 2), (2, 2)]


def test_the_last_invoice_with_something_new_is_held_out():
    split = leave_last_invoice_out(
        _interactions(
            [
                (0, 0, 10),
                (0, 1, 20),  # held out: w is new
                (0, 0, 20),  # dropped: bought before
                (0, 1, 30),  # dropped: after the held-out invoice
                (1, 2, 10),  # known: this user has one new invoice only
                (1, 2, 40),
                (2, 3, 5),
                (2, 4, 6),
                (2, 2, 6),
            ]
        )
    )
    assert _triples(split.known) == [(0, 0, 10), (1, 2, 10), (1, 2, 40), (2, 3, 5)]
    assert _triples(split.held_out) == [(0, 1, 20), (2, 2, 6), (2, 4, 6)]
    assert split.users.tolist() == [0, 2]


def test_hit_rate_counts_users_with_any_hit_among_items_not_bought_before():
    split = leave_last_invoice_out(_interactions([(0, 0, 1), (0, 1, 2), (2, 3, 5), (2, 4, 6)]))
    nothing = np.zeros((3, 1), np.float32), np.zeros((5, 1), np.float32)
    bias = np.array([9, 8, 7, 3, 4], np.float32)
    assert hit_rate(split, *nothing, bias, k=1) == 0.5
    assert hit_rate(split, *nothing, bias, k=4) == 1
    assert hit_rate(split, *nothing, np.array([0, 0, 9, 0, 0], np.float32), k=1) == 0


def test_nobody_to_ask_is_no_error():
    trained = train(_interactions([(0, 0, 1), (1, 1, 1), (2, 2, 1)]))
    assert (trained.n_users_evaluated, trained.hr_factorisation) == (0, 0)


def test_an_interrupt_passes_through():
    def interrupt(text, fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(_interactions([(0, 0, 1)]), progress=interrupt)


def test_factorisation_beats_popularity_on_the_generated_shop():
    interactions, _ = generate()
    told = []
    trained = train(interactions, progress=lambda text, fraction: told.append((fraction, text)))
    assert trained.hr_factorisation > trained.hr_popularity + 0.08
    assert trained.n_users_evaluated > 600
    assert trained.user_factors.shape == (len(interactions.user_ids), 64)
    assert trained.item_factors.shape == (len(interactions.item_ids), 64)
    assert trained.all_time.sum() == len(interactions)
    assert (trained.recent <= trained.all_time).all()
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
