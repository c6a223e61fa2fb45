"""Who usually comes at this time of the day."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import Asking, InvalidOptions
from plugins.conformance import check_warmup_strategy
from plugins.warmup.peak_hours import PeakHours
from tests.plugins.warmup.activities import DAY, HOUR, NOW, activity, asking, users

pytestmark = pytest.mark.contract("W1")

BERLIN = ZoneInfo("Europe/Berlin")


def every_day(user, at, *, days=7, count=1):
    """Askings each day in the hour that lies ``at`` hours from now."""
    return [asking(user, ago=day * DAY - at * HOUR, count=count) for day in range(1, days + 1)]


@pytest.mark.parametrize(
    "options", [{}, {"minimum": 1, "by_weekday": True}, {"hours": [22], "zone": "Europe/Berlin"}]
)
def test_it_conforms(options):
    check_warmup_strategy(lambda: PeakHours(**options), silent="hours" in options)


def test_it_warms_who_usually_asks_in_the_hour_that_comes():
    given = (
        *every_day("always", 1, days=7),
        *every_day("often", 1, days=3, count=50),
        *every_day("once", 1, days=1),
        *every_day("an hour later", 2, days=7),
    )
    chosen = list(PeakHours(chance=0.25).candidates(activity(*given), 9))
    assert users(chosen) == ["always", "often"]
    assert chosen[0].reason == "asked 7 times from 1 h local time in 7 d, 7 times at any hour"
    later = PeakHours(ahead_minutes=90.0, chance=0.25)
    assert users(later.candidates(activity(*given), 9)) == ["an hour later"]


def test_who_has_not_shown_any_hours_is_expected_at_those_of_all():
    given = [each for n in range(20) for each in every_day(f"at one {n}", 1, days=3)]
    given += [asking("at some hour", ago=3 * DAY + at * HOUR) for at in (9, 14)]
    expected = {
        ahead: {
            each.request.user_id: each.score
            for each in PeakHours(ahead_minutes=ahead).candidates(activity(*given), 99)
        }
        for ahead in (30.0, 90.0)
    }
    assert len(expected[30.0]) == 21
    assert min(expected[30.0], key=expected[30.0].get) == "at some hour"
    assert expected[90.0] == {}, "nobody comes at two"


def test_who_asked_once_has_shown_nothing():
    given = [*every_day("at one", 1), asking("once", ago=DAY - HOUR)]
    assert users(PeakHours(minimum=2).candidates(activity(*given), 9)) == ["at one"]


def test_given_hours_are_warmed_for_just_before_each_of_them():
    given = (*every_day("at one", 1), *every_day("at two", 2, days=6), *every_day("at five", 5))
    before = PeakHours(hours=[1, 2], chance=0.3)
    assert users(before.candidates(activity(*given), 9)) == ["at one", "at two"]
    assert users(before.candidates(activity(*given, now=NOW + HOUR), 9)) == ["at one", "at two"]
    assert users(before.candidates(activity(*given, now=NOW + 2 * HOUR), 9)) == []


def test_hours_are_local_and_move_with_the_clocks():
    """Who comes at nine comes at nine in winter, too, although it is another hour of UTC."""

    def at_nine(month, day):
        hour = datetime(2023, month, day, 9, tzinfo=BERLIN).timestamp()
        return Asking("u", "default", "", {}, hour, 1, hour + 60)

    given = [at_nine(10, day) for day in (26, 27, 28)]  # the clocks go back on the 29th
    for zone, hour, found in ((BERLIN, 9, True), (BERLIN, 8, False)):
        now = datetime(2023, 10, 30, hour - 1, 45, tzinfo=BERLIN).timestamp()
        chosen = PeakHours().candidates(activity(*given, now=now, zone=zone), 9)
        assert bool(users(chosen)) is found
    now = datetime(2023, 10, 30, 8, 45, tzinfo=BERLIN).timestamp()
    assert users(PeakHours(zone="Europe/Berlin").candidates(activity(*given, now=now), 9)) == ["u"]
    assert users(PeakHours(zone="UTC").candidates(activity(*given, now=now), 9)) == []


@given(st.integers(0, 23), st.sampled_from(["Asia/Kolkata", "Asia/Kathmandu", "UTC", "Asia/Tokyo"]))
def test_an_hour_is_the_same_hour_the_next_day_in_every_zone(later, zone):
    """Also where a zone is half an hour beside the hours that activity is counted by."""
    given = every_day("u", later)
    now = NOW + later * HOUR - 0.75 * HOUR  # it is warmed for 30 minutes later
    assert users(PeakHours(zone=zone).candidates(activity(*given, now=now), 9)) == ["u"]


def test_each_weekday_may_have_its_own_hours():
    weekly = [asking("weekly", ago=week * 7 * DAY - HOUR) for week in (1, 2, 3)]
    other = [asking("on another day", ago=week * 7 * DAY - HOUR + DAY) for week in (1, 2, 3)]
    given = (*weekly, *other)
    assert len(users(PeakHours().candidates(activity(*given), 9))) == 2
    (only,) = PeakHours(by_weekday=True).candidates(activity(*given), 9)
    assert only.request.user_id == "weekly"
    assert only.score == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hours": [24]}, "'hours' must be a list of hours of the day, 0 to 23"),
        ({"hours": []}, "'hours'"),
        ({"hours": "9"}, "'hours'"),
        ({"hours": [True]}, "'hours'"),
        ({"zone": "Europe/Berln"}, "'zone' names 'Europe/Berln'"),
        ({"zone": "../etc/passwd"}, "'zone'"),
        ({"zone": ""}, "'zone'"),
        ({"ahead_minutes": 1500.0}, "at most a day"),
        ({"minimum": 0}, "'minimum' must be at least 1"),
        ({"chance": -0.1}, "'chance' must be at least 0"),
        ({"chance": 1.1}, "'chance' must be at most 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options, message):
    with pytest.raises(InvalidOptions, match=message):
        PeakHours(**options)
