"""What is about to expire, and will be asked again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import InvalidOptions, RecommendationRequest, question_of
from plugins.conformance import check_warmup_strategy
from plugins.warmup.expiring import Expiring
from tests.plugins.warmup.activities import DAY, activity, asking, askings, limits, users

pytestmark = pytest.mark.contract("W1")


def fresh(**seconds):
    return {question_of(RecommendationRequest(user)): each for user, each in seconds.items()}


@pytest.mark.parametrize("options", [{}, {"ahead_minutes": 600.0, "days": 30.0, "minimum": 1}])
def test_it_conforms(options):
    check_warmup_strategy(lambda: Expiring(**options))


def test_it_renews_what_will_be_stale_and_is_asked_most():
    given = [
        asking("seldom", count=3),
        asking("often", count=30),
        asking("fresh", count=90),
        asking("not cached", count=90),
        asking("stale", count=9),
        asking("twice", count=2),
    ]
    cached = fresh(seldom=599.0, often=60.0, fresh=601.0, stale=0.0, twice=5.0)
    chosen = list(Expiring().candidates(activity(*given, fresh=cached), 9))
    assert users(chosen) == ["often", "stale", "seldom"]
    assert [each.reason.split(";")[0] for each in chosen] == [
        "stale in 60 s",
        "stale",
        "stale in 599 s",
    ]


def test_who_has_stopped_asking_is_not_worth_it():
    given = [asking("stopped", ago=6.5 * DAY, count=20), asking("began", count=3)]
    chosen = Expiring().candidates(activity(*given, fresh=fresh(stopped=1.0, began=1.0)), 9)
    assert users(chosen) == ["began", "stopped"]


@given(askings, limits, st.floats(0, 1200))
def test_nothing_fresh_is_renewed_and_few_are_looked_up(given, limit, seconds):
    cached = {question_of(each.request()): seconds for each in given[::2]}
    seen = activity(*given, fresh=cached)
    for each in Expiring(minimum=1, days=30.0).candidates(seen, limit):
        assert cached[question_of(each.request)] <= 600
    assert seen.looks <= 10 * limit


def test_an_option_that_makes_no_sense_is_named():
    with pytest.raises(InvalidOptions, match="'ahead_minutes' must be more than 0"):
        Expiring(ahead_minutes=0.0)
