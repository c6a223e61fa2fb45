from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_app.core.freshness import Freshness

seconds = st.floats(0, 1e4)


@pytest.mark.contract("C11")
@given(
    ttl=st.floats(0.1, 1e5),
    jitter=st.floats(0, 1),
    early=st.floats(0, 10),
    cost=seconds,
    revalidate=seconds,
    error=seconds,
    seed=st.integers(0, 1000),
)
def test_a_lifetime_is_never_longer_than_the_ttl_nor_shorter_than_half(
    ttl, jitter, early, cost, revalidate, error, seed
):
    lifetime = Freshness(ttl, jitter, early, revalidate, error).lifetime(cost, Random(seed))
    assert ttl / 2 <= lifetime.ttl <= ttl
    assert lifetime.stale == max(revalidate, error)


@pytest.mark.contract("C11")
def test_jitter_spreads_the_ends_of_what_was_stored_together():
    rng = Random(1)
    ends = [Freshness(100.0, jitter=0.2, early=0).lifetime(5.0, rng).ttl for _ in range(2000)]
    assert min(ends) == pytest.approx(80, abs=0.1)
    assert max(ends) == pytest.approx(100, abs=0.1)
    assert sum(ends) / len(ends) == pytest.approx(90, abs=0.5)


@pytest.mark.contract("C11")
def test_what_is_slow_to_compute_is_refreshed_earlier_by_its_cost_on_average():
    rng = Random(2)
    freshness = Freshness(1000.0, jitter=0, early=1.0)
    for cost in (0.01, 2.0, 20.0):
        mean = sum(freshness.lifetime(cost, rng).ttl for _ in range(4000)) / 4000
        assert 1000 - mean == pytest.approx(cost, rel=0.1)


def test_without_jitter_and_early_refresh_the_ttl_holds_exactly():
    assert Freshness(60.0, jitter=0, early=0).lifetime(9.0, Random(0)).ttl == 60.0
