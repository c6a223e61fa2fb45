from random import Random

import pytest

from serving_app.core.cost_model import CostModel


def observe(model, a, b, sizes, rng, noise=0.15):
    for size in sizes:
        model.observe(size, (b + a * size) * rng.lognormvariate(0, noise))


def sizes(rng, count):
    return [rng.randint(1, 64) for _ in range(count)]


@pytest.mark.contract("S6")
@pytest.mark.parametrize(("a", "b"), [(42e-6, 150e-6), (66e-6, 250e-6), (18e-6, 1050e-6)])
def test_a_and_b_are_found(a, b):
    rng = Random(1)
    model = CostModel()
    assert model.predict(8) is None, "a guess is no prediction"
    observe(model, a, b, sizes(rng, 200), rng)
    for size in (1, 16, 64):
        assert model.predict(size) == pytest.approx(b + a * size, rel=0.25)


@pytest.mark.contract("S6")
def test_outliers_hardly_move_it():
    rng = Random(2)
    model = CostModel()
    for n, size in enumerate(sizes(rng, 300)):
        model.observe(size, 0.5 if n % 25 == 24 else 250e-6 + 66e-6 * size)
    assert model.predict(64) == pytest.approx(250e-6 + 66e-6 * 64, rel=0.3)


@pytest.mark.contract("S6")
@pytest.mark.parametrize("factor", [5.0, 0.2])
@pytest.mark.parametrize("fixed", [None, 64])
def test_it_follows_a_model_that_changes_within_50_batches(factor, fixed):
    rng = Random(3)
    model = CostModel()
    observe(model, 42e-6, 150e-6, [fixed] * 200 if fixed else sizes(rng, 200), rng)
    observe(model, 42e-6 * factor, 150e-6 * factor, [fixed] * 50 if fixed else sizes(rng, 50), rng)
    true = factor * (150e-6 + 42e-6 * 64)
    assert model.predict(64) == pytest.approx(true, rel=0.2)


@pytest.mark.contract("S6")
def test_batches_of_one_size_leave_the_proportion_as_it_was():
    rng = Random(4)
    model = CostModel()
    observe(model, 42e-6, 1e-3, sizes(rng, 200), rng, noise=0.01)
    observe(model, 42e-6, 1e-3, [64] * 30, rng, noise=0.01)
    assert model.predict(1) == pytest.approx(1e-3, rel=0.25)


def test_a_chain_counts_whole_batches():
    model = CostModel()
    for size in (1, 2, 4, 8, 16, 32, 64) * 20:
        model.observe(size, 1e-3 + 1e-5 * size)
    assert model.chain(130, 64) == pytest.approx(3 * model.b + 130 * model.a)
    assert model.a >= 0
    assert model.b >= 0


def test_nothing_below_zero():
    model = CostModel()
    for size, seconds in [(1, 0.2), (64, 0.001), (1, 0.2), (64, 0.001), (32, 0.0), (1, 0.0)] * 3:
        model.observe(size, seconds)
        assert model.a >= 0
        assert model.b >= 0
