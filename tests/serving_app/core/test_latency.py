import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_app.core.latency import LatencyCounts, LatencyHistogram


def test_an_empty_histogram_says_zero():
    summary = LatencyHistogram().counts().summary()
    assert (summary.count, summary.mean, summary.p50, summary.p99) == (0, 0.0, 0.0, 0.0)


@pytest.mark.contract("S10")
@given(st.lists(st.floats(2e-6, 50.0), min_size=1, max_size=200))
def test_a_quantile_is_within_a_bucket_of_the_exact_one(values):
    histogram = LatencyHistogram()
    for value in values:
        histogram.record(value)
    summary = histogram.counts().summary()
    assert summary.count == len(values)
    assert summary.mean == pytest.approx(np.mean(values))
    for q, found in ((50, summary.p50), (90, summary.p90), (99, summary.p99)):
        exact = np.percentile(values, q, method="inverted_cdf")
        assert exact <= found * 1.0001
        assert found <= exact * 10 ** (1 / 20) * 1.0001


def test_the_moving_average_follows_a_change():
    histogram = LatencyHistogram()
    for _ in range(200):
        histogram.record(0.001)
    for _ in range(100):
        histogram.record(0.1)
    assert histogram.counts().summary().average == pytest.approx(0.1, rel=0.02)


@pytest.mark.contract("S10")
@given(st.lists(st.lists(st.floats(2e-6, 50.0), max_size=40), min_size=1, max_size=4))
def test_counts_of_several_processes_add_up_to_those_of_one(parts):
    one, several = LatencyHistogram(), []
    for values in parts:
        part = LatencyHistogram()
        for value in values:
            one.record(value)
            part.record(value)
        several.append(part.counts())
    merged, whole = LatencyCounts.merged(several).summary(), one.counts().summary()
    assert merged.count == whole.count
    assert merged.mean == pytest.approx(whole.mean)
    assert (merged.p50, merged.p90, merged.p99) == (whole.p50, whole.p90, whole.p99)
