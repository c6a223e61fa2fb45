import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving_app.core import top_k as module
from serving_app.core.top_k import best_first, top_k, top_k_of_products

pytestmark = pytest.mark.contract("S8")


def few(dtype):
    """Few values, which make many ties, and extremes, which show that no bit is lost."""
    limits = np.finfo(dtype)
    extremes = [-0.0, 0.0, limits.smallest_subnormal, -limits.smallest_subnormal, limits.max]
    return st.one_of(st.integers(-3, 3).map(float), st.sampled_from([float(x) for x in extremes]))


def cases(dtype, most=60):
    return arrays.array_shapes(min_dims=2, max_dims=2, max_side=most).flatmap(
        lambda shape: st.tuples(
            arrays.arrays(dtype, shape, elements=few(dtype)), st.integers(1, shape[1])
        )
    )


def by_hand(row, depth):
    return sorted(range(len(row)), key=lambda p: (-float(row[p]), p))[:depth]


def is_exact(scores, depth):
    positions, best = top_k(scores, depth)
    assert best.dtype == scores.dtype
    for i, row in enumerate(scores):
        expected = by_hand(row, depth)
        assert positions[i].tolist() == expected
        assert best[i].tolist() == row[expected].tolist()


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(cases(np.float32))
def test_top_k_is_a_full_stable_sort_cut_off(case):
    is_exact(*case)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_top_k_of_other_floats_is_the_same(dtype):
    @settings(deadline=None)  # the machine may be busy
    @given(cases(dtype, most=20))
    def check(case):
        is_exact(*case)

    check()


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(case=cases(np.float32), blocks=st.integers(1, 12), chunk=st.integers(1, 100))
def test_two_stages_and_chunks_change_nothing(case, blocks, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEWEST_BLOCKS", blocks)
        patch.setattr(module, "_BLOCKS_PER_PLACE", 1)
        patch.setattr(module, "_SMALLEST_BLOCK", 1)
        patch.setattr(module, "_CHUNK", chunk)
        is_exact(*case)


@pytest.mark.parametrize("n", [4_096, 10_000, 50_001])
@pytest.mark.parametrize("batch", [1, 3, 70])
def test_long_rows_with_many_ties_are_exact(n, batch):
    rng = np.random.default_rng(n)
    for scores in (
        rng.integers(0, 50, (batch, n)).astype(np.float32),
        rng.standard_normal((batch, n)).astype(np.float32),
        np.zeros((batch, n), np.float32),
    ):
        positions, best = top_k(scores, 100)
        wanted = np.argsort(-scores, axis=1, kind="stable")[:, :100]
        assert np.array_equal(positions, wanted)
        assert np.array_equal(best, np.take_along_axis(scores, wanted, axis=1))


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(case=cases(np.float32, most=12), d=st.integers(1, 4), chunk=st.integers(1, 40))
def test_products_in_blocks_are_the_products(case, d, chunk):
    seed, depth = case
    batch, n = seed.shape
    rng = np.random.default_rng(batch * 100 + n)
    vectors = rng.integers(-2, 3, (batch, d)).astype(np.float32)  # exact in any order
    items = rng.integers(-2, 3, (n, d)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        positions, best = top_k_of_products(vectors, items, depth)
    scores = vectors @ items.T
    for i, row in enumerate(scores):
        assert positions[i].tolist() == by_hand(row, depth)
        assert best[i].tolist() == row[positions[i]].tolist()


def test_products_beyond_float32_spoil_their_row_alone():
    vectors = np.array([[3e38, 3e38], [1, 2]], np.float32)
    positions, best = top_k_of_products(vectors, np.array([[9, 9], [1, 0]], np.float32), 2)
    assert np.isnan(best[0]).all()
    assert positions[1].tolist() == [0, 1]
    assert best[1].tolist() == [27, 1]


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(cases(np.float32, most=20))
def test_pairs_found_elsewhere_come_in_the_same_order(case):
    scores, depth = case
    rng = np.random.default_rng(scores.size)
    shuffled = np.stack([rng.permutation(scores.shape[1]) for _ in scores])
    pairs = np.take_along_axis(scores, shuffled, axis=1)
    positions, best = best_first(shuffled, pairs, depth)
    for i, row in enumerate(scores):
        assert positions[i].tolist() == by_hand(row, depth)
        assert best[i].tolist() == row[positions[i]].tolist()
