"""Replaying traces, and the best that was possible."""

import functools
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_app.core.simulation import belady, simulate
from cache_app.core.traces import Trace
from plugins.eviction.builtin import recserve_eviction_policies
from plugins.eviction.lru import LRU
from plugins.eviction.s3fifo import S3FIFO

pytestmark = pytest.mark.contract("C3")

POLICIES = recserve_eviction_policies()


def trace_of(ids, sizes=None):
    return Trace(np.array(ids, np.int64), None if sizes is None else np.array(sizes, np.int64))


def zipf(count, keys=2000, seed=0):
    random, ranks = Random(seed), range(1, keys + 1)
    return trace_of(random.choices(ranks, [1 / rank for rank in ranks], k=count))


def best(ids, capacity):
    """Return the most hits by trying every victim at every miss."""

    @functools.cache
    def hits(now, resident):
        if now == len(ids):
            return 0
        key = ids[now]
        if key in resident:
            return 1 + hits(now + 1, resident)
        if len(resident) < capacity:
            return hits(now + 1, resident | {key})
        return max(hits(now + 1, (resident - {gone}) | {key}) for gone in resident)

    return hits(0, frozenset())


@given(ids=st.lists(st.integers(0, 5), min_size=1, max_size=14), capacity=st.integers(1, 4))
@settings(deadline=None)
def test_belady_is_the_best_of_all_choices(ids, capacity):
    assert belady(trace_of(ids), capacity) == best(tuple(ids), capacity) / len(ids)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_no_policy_is_better_than_belady(name):
    trace = zipf(5000)
    for capacity in (1, 5, 100):
        result = simulate(trace, POLICIES[name], capacity)
        assert result.hit_ratio <= belady(trace, capacity)
        assert result.requests == 5000
        assert result.hits + result.evictions + result.rejected <= 5000


def test_an_unbounded_cache_misses_each_key_once():
    trace = zipf(3000)
    expected = 1 - len(np.unique(trace.ids)) / 3000
    assert belady(trace, 10_000) == expected
    assert simulate(trace, LRU, 10_000).hit_ratio == expected


def test_a_replay_is_the_same_every_time():
    trace = zipf(20_000)
    for name, policy in POLICIES.items():
        results = [simulate(trace, policy, 50, seed=3) for _ in range(2)]
        assert results[0] == results[1], name


def test_progress_is_told_until_the_end():
    for run in (lambda told: simulate(zipf(45_000), LRU, 9, progress=told),
                lambda told: belady(zipf(45_000), 9, progress=told)):  # fmt: skip
        told = []
        run(lambda done, total, told=told: told.append((done, total)))
        assert told == [(20_000, 45_000), (40_000, 45_000), (45_000, 45_000)]


def test_sizes_count_when_asked_for():
    trace = trace_of([1, 2, 1, 3, 2, 9], [5, 5, 5, 5, 5, 11])
    assert simulate(trace, LRU, 10).hits == 2
    result = simulate(trace, LRU, 10, weighed=True)
    assert (result.hits, result.rejected, result.evictions) == (1, 1, 2)
    with pytest.raises(ValueError, match="no sizes"):
        simulate(trace_of([1]), LRU, 10, weighed=True)


def test_policies_with_options_can_be_replayed():
    trace = zipf(5000)
    ratios = {simulate(trace, functools.partial(S3FIFO, threshold=t), 50).hits for t in (1, 2, 3)}
    assert len(ratios) > 1


def test_a_capacity_below_one_is_refused():
    for run in (lambda: belady(trace_of([1]), 0), lambda: simulate(trace_of([1]), LRU, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            run()
