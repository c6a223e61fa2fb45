"""Points between two looks: sums stay, rates stay even, and what is missing is named."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_app.core.batcher_stats import BatcherStats
from serving_app.core.latency import LatencyCounts
from serving_app.core.live_points import SILENT, Told, difference, figures
from serving_app.core.request_counts import RecommenderStats
from serving_app.core.statistics import Statistics, VersionStats

pytestmark = pytest.mark.contract("O2")


def requests(n, *, segment="all", misses=0, errors=0):
    return RecommenderStats(
        requests=n + errors,
        by_source={"l1": n - misses, "model": misses},
        stale=0,
        degraded=0,
        errors={"InferenceError": errors} if errors else {},
        seconds=LatencyCounts({40: n}, n * 1e-4, 1e-4),
        lookups={segment: {"l1": n - misses, "miss": misses}},
    )


def told(seen, n=0, *, engine="", batches=0, queued=0, **more):
    versions = {}
    if engine:
        stats = replace(
            BatcherStats.merged([]), submitted=batches, batch_sizes={4: batches}, queued=queued
        )
        versions = {"m": {1: VersionStats("numpy_linear", 1, {engine: stats})}}
    counts = {"hits": n, "misses": 0, "entries": 1, "away": False}
    return Told(seen, Statistics({"m": requests(n, **more)}, versions), {"l1": counts})


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.floats(0.01, 5)),
        min_size=1,
        max_size=30,
    )
)
def test_the_sum_over_points_is_what_was_counted_in_all(tellings):
    last = {"a": told(100.0), "b": told(100.0)}
    counts, now, points = Counter(), 100.0, []
    for process, more, seconds in tellings:
        now += seconds
        counts[process] += more
        after = {**last, process: told(now, counts[process])}
        point = difference(last, after, now=now)
        points.append(point)
        last = after
    assert sum(p.models["m"].requests for p in points if "m" in p.models) == counts.total()
    assert sum(p.levels["l1"].get("hits", 0) for p in points) == counts.total()
    whole = figures(points)
    assert whole["requests"] == counts.total()
    assert whole["seconds"] == pytest.approx(points[-1].at - 100.0, abs=1e-3)


def test_a_rate_stays_even_when_one_of_two_processes_has_not_told_again():
    """Both are asked 50 times a second; at the second look, only one has news."""
    first = {"a": told(10.0, 0), "b": told(10.5, 0)}
    second = {"a": told(12.0, 100), "b": told(10.5, 0)}
    third = {"a": told(12.0, 100), "b": told(12.5, 100)}
    one, two = difference(first, second, now=12.1), difference(second, third, now=12.6)
    assert figures([one])["rate"] == figures([two])["rate"] == 100


def test_nothing_told_is_no_point():
    looked = {"a": told(10.0, 5)}
    assert difference(looked, looked, now=12.0) is None
    assert difference({}, looked, now=12.0) is None


def test_who_is_not_heard_is_named_and_so_is_who_comes_back():
    first = {"a": told(10.0), "b": told(10.0)}
    second = {"a": told(10.0 + 2 * SILENT + 1, 100), "b": told(10.0)}
    point = difference(first, second, now=10.0 + 2 * SILENT + 1)
    assert point.silent == ("a", "b"), "a comes back, b is away"
    third = {**second, "a": told(10.0 + 2 * SILENT + 3, 120)}
    point = difference(second, third, now=10.0 + 2 * SILENT + 3)
    assert point.silent == ("b",)
    assert figures([point])["silent"] == ["b"]


def test_a_process_that_is_seen_for_the_first_time_only_begins_to_count():
    first = {"a": told(10.0, 7)}
    second = {"a": told(12.0, 9), "b": told(12.0, 1000)}
    assert difference(first, second, now=12.0).models["m"].requests == 2


def test_a_process_that_began_anew_counts_from_nothing():
    first = {"a": told(10.0, 7)}
    assert difference(first, {"a": told(12.0, 3)}, now=12.0).models["m"].requests == 3


def test_an_engine_that_processes_share_counts_once():
    first = {
        "a": told(10.0, engine="host/1", batches=5),
        "b": told(10.0, engine="host/1", batches=6),
    }
    second = {
        "a": told(12.0, engine="host/1", batches=9, queued=3),
        "b": told(12.0, engine="host/1", batches=8, queued=1),
    }
    point = difference(first, second, now=12.0).models["m"]
    assert point.batch_sizes == {4: 3}
    assert point.queued == 3


def test_figures_are_of_the_chosen_model_and_segment():
    def both(seen, n, m):
        mine = told(seen, n, segment="new", misses=n // 2)
        models = {**mine.statistics.models, "other": requests(m, errors=m)}
        return {"a": replace(mine, statistics=Statistics(models))}

    point = difference(both(10.0, 0, 0), both(12.0, 100, 8), now=12.0)
    assert figures([point])["requests"] == 116
    assert figures([point])["errors"] == 8
    assert figures([point], model="m")["requests"] == 100
    assert figures([point], model="m")["hit_rate"] == 0.5
    assert figures([point], model="m")["levels"] == {"l1": 0.5}
    assert figures([point], model="nobody")["requests"] == 0
    assert figures([point], model="nobody")["hit_rate"] is None
    new = figures([point], segment="new")
    assert (new["requests"], new["rate"]) == (100, 50)
    assert new["latency_ms"] is None, "latency is not counted by segment"
    assert new["errors"] is None
    assert figures([point], segment="all")["requests"] == 8
