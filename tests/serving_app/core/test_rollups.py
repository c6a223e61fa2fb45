"""What is rolled up, and how metrics are read from sums."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins import InferenceError, InvalidInput, Recommendation
from serving_app.core.latency import LatencyHistogram
from serving_app.core.request_counts import RequestCounts
from serving_app.core.rollup_metrics import METRICS, value_of
from serving_app.core.rollups import Series, gained, of_process
from serving_app.core.statistics import Statistics

pytestmark = pytest.mark.contract("O4")

HOWS = st.sampled_from(["l1", "l2", "model", "negative", "failed", "refused"])
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["m", "n"]),
        st.sampled_from(["new", "regular"]),
        HOWS,
        st.floats(1e-7, 200, allow_nan=False),
    ),
    max_size=40,
)


def answer(source, **more):
    return Recommendation("u", ("a",), (1.0,), "m", 1, source, **more)


def count(counts, model, segment, how, seconds):
    result, lookup = {
        "model": (answer("model"), "miss"),
        "negative": (InvalidInput("no", field="x"), "negative"),
        "failed": (InferenceError("no"), "miss"),
        "refused": (InvalidInput("no", field="x"), None),
    }.get(how, (answer(how), how))
    counts.count(model, result, seconds, segment=segment, lookup=lookup)


def told(counts):
    return of_process(Statistics(models=counts.stats()), {}, {})


@settings(deadline=None)
@given(st.lists(REQUESTS, max_size=5))
def test_gains_add_up_to_what_was_counted(ticks):
    counts, before, sums = RequestCounts(), {}, {}
    for requests in ticks:
        for request in requests:
            count(counts, *request)
        now = told(counts)
        for series, n in gained(before, now).items():
            assert n > 0
            sums[series] = sums.get(series, 0) + n
        before = now
    assert sums == pytest.approx(told(counts))
    stats = counts.stats()
    for model in ("m", "n"):
        mine = [(s, n) for s, n in sums.items() if s.model == model]
        asked = [r for requests in ticks for r in requests if r[0] == model]
        how = [r[2] for r in asked]
        assert value_of(METRICS["requests"], mine) == len(asked)
        assert value_of(METRICS["hits"], mine) == how.count("l1") + how.count("l2")
        assert value_of(METRICS["hits"], mine, level="l2") == how.count("l2")
        assert value_of(METRICS["misses"], mine) == how.count("model") + how.count("failed")
        assert value_of(METRICS["negative"], mine) == how.count("negative")
        assert value_of(METRICS["failures"], mine) == how.count("failed")
        if asked:
            summary = stats[model].seconds.summary()
            assert summary.count == len(asked)
            for q in ("p50", "p90", "p99"):
                assert value_of(METRICS[q], mine) == getattr(summary, q), "as the statistics say"
            assert value_of(METRICS["mean"], mine) == pytest.approx(summary.mean)


@settings(deadline=None)
@given(st.lists(st.floats(1e-7, 200), min_size=1))
def test_a_model_has_the_moving_average_that_a_histogram_would_have(durations):
    counts, histogram = RequestCounts(), LatencyHistogram()
    for n, seconds in enumerate(durations):
        count(counts, "m", "new" if n % 3 else "regular", "l1" if n % 2 else "model", seconds)
        histogram.record(seconds)
    mine, other = counts.stats()["m"].seconds, histogram.counts()
    assert mine.buckets == other.buckets
    assert (mine.total, mine.average) == pytest.approx((other.total, other.average))


def test_a_count_that_began_again_is_all_gain():
    one, two = Series("answers", "m", level="l1"), Series("answers", "m", level="l2")
    assert gained({one: 10, two: 4}, {one: 3, two: 4}) == {one: 3}


def test_rates_are_none_without_a_whole_and_levels_are_shares_of_all():
    counts = [
        (Series("lookups", "m", "s", "l1"), 6),
        (Series("lookups", "m", "s", "l2"), 2),
        (Series("lookups", "m", "s", "miss"), 2),
        (Series("lookups", "m", "s", "negative"), 90),
        (Series("errors", "m", level="QueueFull"), 1),
        (Series("errors", "m", level="InvalidInput"), 2),
        (Series("answers", "m", level="l1"), 7),
        (Series("level_hits", level="l1"), 3),
        (Series("level_misses", level="l1"), 1),
        (Series("level_hits", level="l2"), 1),
        (Series("level_misses", level="l2"), 4),
    ]
    read = {name: value_of(metric, counts) for name, metric in METRICS.items()}
    assert (read["hit_rate"], read["miss_rate"]) == (0.8, 0.2)
    assert (read["error_rate"], read["refusal_rate"], read["errors"]) == (0.1, 0.1, 3)
    assert value_of(METRICS["hit_rate"], counts, level="l2") == 0.2
    assert value_of(METRICS["level_hit_rate"], counts, level="l1") == 0.75
    assert value_of(METRICS["level_hit_rate"], counts, level="l2") == 0.2
    assert value_of(METRICS["hit_rate"], []) is None
    assert value_of(METRICS["p99"], []) is None
    assert value_of(METRICS["hits"], []) == 0.0
