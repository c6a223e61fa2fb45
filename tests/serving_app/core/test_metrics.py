import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_app.core.latency import LatencyHistogram
from serving_app.core.metrics import (
    LATENCY_BOUNDS,
    Buckets,
    Family,
    Monotone,
    from_json,
    latencies,
    merged,
    to_json,
    without_gauges,
)

pytestmark = pytest.mark.contract("A7")

FAMILIES = {
    family.name: family
    for family in (
        Family("c_total", "counter", "", ("x",)),
        Family("g", "gauge", "", ("x",)),
        Family("most", "gauge", "", ("x",), "max"),
        Family("h", "histogram", "", ("x",)),
    )
}

counts = st.dictionaries(st.sampled_from([("a",), ("b",)]), st.integers(0, 9))
histograms = st.dictionaries(
    st.sampled_from([("a",), ("b",)]),
    st.dictionaries(st.sampled_from([1.0, 2.0, float("inf")]), st.integers(1, 9)).map(
        lambda c: Buckets(c, float(sum(c.values())))
    ),
)
samples = st.fixed_dictionaries({"c_total": counts, "g": counts, "h": histograms})


@given(st.lists(samples, max_size=4))
def test_parts_add_up_and_survive_json(parts):
    whole = merged(parts, FAMILIES)
    for label in (("a",), ("b",)):
        assert whole.get("c_total", {}).get(label, 0) == sum(
            part["c_total"].get(label, 0) for part in parts
        )
        empty = Buckets()
        assert whole.get("h", {}).get(label, empty).count == sum(
            part["h"].get(label, empty).count for part in parts
        )
    assert from_json(json.loads(json.dumps(to_json(whole)))) == whole
    assert "g" not in without_gauges(whole, FAMILIES)


@given(st.lists(samples, min_size=1, max_size=8))
def test_no_counter_ever_falls(history):
    monotone = Monotone(FAMILIES)
    before = {}
    for now in history:
        told = monotone.add(now)
        for name in ("c_total", "h"):
            for label, value in before.get(name, {}).items():
                after = told[name][label]
                if isinstance(value, Buckets):
                    assert after.count >= value.count
                    assert after.total >= value.total
                else:
                    assert after >= value
        before = told


def test_a_count_that_began_again_goes_on():
    monotone = Monotone(FAMILIES)
    for now, told in ((5, 5), (7, 7), (2, 9), (3, 10)):
        assert monotone.add({"c_total": {("a",): now}})["c_total"]["a",] == told
    assert monotone.add({})["c_total"]["a",] == 10
    assert monotone.add({"c_total": {("a",): 1}})["c_total"]["a",] == 11


def test_gauges_merge_as_they_say_and_unknown_names_are_left_out():
    parts = [{"g": {("a",): 1}, "most": {("a",): 3}}, {"g": {("a",): 2}, "most": {("a",): 1}}]
    assert merged(parts, FAMILIES) == {"g": {("a",): 3}, "most": {("a",): 3}}
    assert merged([{"new": {("a",): 1}}], FAMILIES) == {}


def test_what_cannot_be_read_is_left_out():
    assert from_json({"c_total": "x", "g": [[["a"], 1]]}) == {"g": {("a",): 1.0}}
    assert from_json([1]) == {}


@given(st.lists(st.floats(1e-7, 200.0), max_size=50))
def test_exported_buckets_hold_what_was_recorded(values):
    histogram = LatencyHistogram()
    for value in values:
        histogram.record(value)
    exported = latencies(histogram.counts())
    assert exported.count == len(values)
    assert set(exported.counts) <= {*LATENCY_BOUNDS, float("inf")}
    for bound in LATENCY_BOUNDS:
        upto = sum(n for b, n in exported.counts.items() if b <= bound)
        assert upto == sum(value <= bound for value in values)
