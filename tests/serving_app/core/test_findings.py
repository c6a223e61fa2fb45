"""What counts say of the cache, in words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_app.core.findings import Cell, Evidence, LevelCounts, findings

pytestmark = pytest.mark.contract("O4")


def codes(**more):
    given = {"lookups": 1000, "misses": 200, "miss_seconds": 10.0, "answers": 1000}
    return [finding.code for finding in findings(Evidence(**{**given, **more}))]


def level(*counts, **more):
    return {"levels": {"l1": LevelCounts(*counts, **more)}}


def asked(days, questions, once=0):
    return {"question_days": days, "questions": questions, "once": once}


def test_a_cache_that_works_gets_one_sentence():
    assert codes() == ["overall"]
    assert codes(lookups=10, misses=9) == ["too-few"]


def test_the_hours_and_segments_that_cost_most_come_first():
    cells = [
        Cell("new", 300, 150, 8.0, hour=7),
        Cell("new", 200, 20, 1.0, hour=8),
        Cell("regular", 500, 30, 1.0, hour=7),
    ]
    (worst,) = [f for f in findings(Evidence(1000, 200, 10.0, cells=cells)) if f.code == "worst"]
    assert worst.what == (
        "Segment new between 7:00 and 8:00: 50 % of 300 look-ups missed, which is 80 % of all the "
        "time that misses took."
    )
    alike = [Cell("new", 500, 100, 5.0), Cell("regular", 500, 100, 5.0)]
    assert codes(cells=alike) == ["overall"], "both miss as often as all together"


@pytest.mark.parametrize(
    ("code", "less", "more"),
    [
        ("evictions", level(100, 20), level(100, 21)),
        ("expirations", level(0, 0, 40), level(0, 0, 41)),
        ("away", level(up=0.99), level(up=0.9)),
        ("first-of-day", asked(240, 200), asked(241, 200)),
        ("once", asked(41, 41, once=40), asked(41, 41, once=41)),
        ("own-features", {"own_features": 1.0}, {"own_features": 0.6, "misses": 600}),
        ("invalidations", {"invalidations": {"user": 9}}, {"invalidations": {"model": 1}}),
        ("stale", {"stale": 200}, {"stale": 201}),
        ("gaps", {"hours": 9}, {"hours": 9, "missing_hours": 2}),
        ("model", {"models": [Cell("a", 500, 120, 1), Cell("b", 500, 80, 1)]},
         {"models": [Cell("a", 500, 190, 1), Cell("b", 500, 10, 1)]}),
    ],
)  # fmt: skip
def test_each_is_said_when_there_is_enough_of_it(code, less, more):
    assert code not in codes(**less)
    assert code in codes(**more)


def test_what_warming_would_gain_is_a_bound_and_no_promise():
    evidence = Evidence(1000, 200, 10.0, question_days=900, questions=300)
    (found,) = [f for f in findings(evidence) if f.code == "first-of-day"]
    assert "at most 200 misses" in found.help, "more than there were cannot be gained"


@settings(deadline=None)
@given(st.builds(Evidence, *[st.floats(0, 1e12)] * 5))
def test_any_counts_can_be_told(evidence):
    for finding in findings(evidence):
        assert finding.what
