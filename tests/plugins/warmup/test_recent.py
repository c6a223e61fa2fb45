"""Who was here last."""

import pytest
from hypothesis import given

from plugins import InvalidOptions, question_of
from plugins.conformance import check_warmup_strategy
from plugins.warmup.recent import Recent
from tests.plugins.warmup.activities import HOUR, NOW, activity, asking, askings, limits, users

pytestmark = pytest.mark.contract("W1")


@pytest.mark.parametrize("options", [{}, {"hours": 1.0}, {"hours": 500.0, "minimum": 3}])
def test_it_conforms(options):
    check_warmup_strategy(lambda: Recent(**options))


@given(askings, limits)
def test_the_last_asked_come_first(given, limit):
    chosen = list(Recent(hours=48.0).candidates(activity(*given), limit))
    last = {}
    for each in given:
        if 0 <= NOW - each.last < 48 * HOUR or each.last > NOW:
            question = question_of(each.request())
            last[question] = max(each.last, last.get(question, 0.0))
    assert [last[question_of(each.request)] for each in chosen] == sorted(
        last.values(), reverse=True
    )[:limit]


def test_who_was_seen_too_long_ago_or_too_seldom_is_left_out():
    given = (
        asking("here", ago=0.0, count=2, minute=15),
        asking("once", ago=0.0, minute=20),
        asking("yesterday", ago=25 * HOUR, count=9),
        asking("in the first hour, before", ago=24 * HOUR, count=2, minute=29),
        asking("in the first hour, after", ago=24 * HOUR, count=2, minute=31),
    )
    chosen = list(Recent(minimum=2).candidates(activity(*given), 9))
    assert users(chosen) == ["here", "in the first hour, after"]
    assert [each.reason for each in chosen] == ["last asked 15 min ago", "last asked 24.0 h ago"]
    assert chosen[0].score == pytest.approx(1 - 0.25 / 24)


def test_an_option_that_makes_no_sense_is_named():
    with pytest.raises(InvalidOptions, match="'hours' must be more than 0"):
        Recent(hours=0.0)
