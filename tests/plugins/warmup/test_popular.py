"""Who asks most."""

from collections import Counter

import pytest
from hypothesis import given

from plugins import InvalidOptions, question_of
from plugins.conformance import check_warmup_strategy
from plugins.warmup.popular import Popular
from tests.plugins.warmup.activities import DAY, HOUR, activity, asking, askings, limits, users

pytestmark = pytest.mark.contract("W1")


@pytest.mark.parametrize("options", [{}, {"half_life_days": 3.0}, {"days": 1.0, "minimum": 1}])
def test_it_conforms(options):
    check_warmup_strategy(lambda: Popular(**options))


@given(askings, limits)
def test_the_most_asked_come_first(given, limit):
    chosen = list(Popular(minimum=1).candidates(activity(*given), limit))
    asked = Counter()
    for each in given:
        asked[question_of(each.request())] += each.count
    expected = sorted(asked.values(), reverse=True)[:limit]
    assert [asked[question_of(each.request)] for each in chosen] == expected
    assert [round(each.score * 30) for each in chosen] == expected


def test_an_asking_counts_half_after_the_half_life():
    given = (asking("old", ago=10 * DAY, count=9), asking("new", ago=HOUR, count=3))
    assert users(Popular().candidates(activity(*given), 9)) == ["old", "new"]
    fading = Popular(half_life_days=5.0)
    old, new = sorted(fading.candidates(activity(*given), 9), key=lambda each: each.score)
    assert (old.request.user_id, new.request.user_id) == ("old", "new")
    assert old.score / new.score == pytest.approx(9 / 3 / 4, rel=0.01)


def test_what_is_asked_once_a_day_scores_one():
    given = [asking("daily", ago=HOUR + day * DAY) for day in range(30)]
    (plain,) = Popular(days=30.0).candidates(activity(*given), 1)
    (fading,) = Popular(days=30.0, half_life_days=4.0).candidates(activity(*given), 1)
    assert plain.score == pytest.approx(1)
    assert fading.score == pytest.approx(1, rel=0.1)
    assert plain.reason == "asked 30 times in 30 days"


def test_what_was_asked_too_seldom_or_too_long_ago_is_left_out():
    given = (
        asking("twice", ago=DAY, count=2),
        asking("once", ago=DAY),
        asking("long ago", ago=8 * DAY, count=9),
    )
    assert users(Popular(days=7.0, minimum=2).candidates(activity(*given), 9)) == ["twice"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"days": 0.0}, "'days' must be more than 0"),
        ({"days": float("nan")}, "'days'"),
        ({"half_life_days": -1.0}, "'half_life_days' must be more than 0"),
        ({"minimum": 0}, "'minimum' must be at least 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options, message):
    with pytest.raises(InvalidOptions, match=message):
        Popular(**options)
