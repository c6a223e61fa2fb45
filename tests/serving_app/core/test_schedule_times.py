"""When a schedule is due."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_app.core.schedule_times import check_cron, next_time, zone_of

pytestmark = pytest.mark.contract("W3")

BERLIN = "Europe/Berlin"


def local(*given):
    return datetime(*given, tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)


def due(after, n, **given):
    found = []
    for _ in range(n):
        after = next_time(after, **given)
        found.append(after)
    return found


def test_cron_goes_by_the_clock_on_the_wall():
    winter, summer = (
        next_time(local(2026, month, 10, 12), cron="0 6 * * *", zone=BERLIN) for month in (1, 7)
    )
    assert (winter.hour, summer.hour) == (5, 4)
    assert winter.utcoffset() == timedelta(0)


def test_an_hour_that_is_left_out_runs_once_right_after():
    found = due(local(2026, 3, 28, 12), 2, cron="30 2 * * *", zone=BERLIN)
    assert found == [local(2026, 3, 29, 3, 0), local(2026, 3, 30, 2, 30)]


def test_an_hour_that_comes_twice_runs_once():
    found = due(local(2026, 10, 24, 12), 2, cron="30 2 * * *", zone=BERLIN)
    assert found == [local(2026, 10, 25, 2, 30), local(2026, 10, 26, 2, 30)]
    assert found[1] - found[0] == timedelta(hours=25)


def test_what_repeats_every_few_minutes_goes_on_through_both():
    found = due(datetime(2026, 10, 25, 0, 0, tzinfo=UTC), 6, cron="*/30 * * * *", zone=BERLIN)
    assert {b - a for a, b in pairwise(found)} == {timedelta(minutes=30)}


def test_missed_times_are_one():
    last = datetime(2026, 1, 1, tzinfo=UTC)
    now = last + timedelta(seconds=1000)
    assert next_time(now, interval=60.0, last=last) == last + timedelta(seconds=1020)
    assert next_time(now, interval=60.0) == now + timedelta(seconds=60)
    assert next_time(now, cron="0 * * * *") == last + timedelta(hours=1)
    assert next_time(now) is None


@given(
    st.floats(10.0, 1e6),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    st.timedeltas(timedelta(0), timedelta(days=400)),
)
def test_an_interval_is_due_after_now_and_within_one_step(interval, last, passed):
    last = last.replace(tzinfo=UTC)
    found = next_time(last + passed, interval=interval, last=last)
    slack = timedelta(seconds=1e-3)
    assert last + passed - slack < found <= last + passed + timedelta(seconds=interval) + slack


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("", "five fields"),
        ("* * *", "five fields"),
        ("0 0 * * * *", "five fields"),
        ("61 * * * *", "bad minute"),
        ("* * 31 2 *", "bad day"),
        ("x * * * *", "bad minute"),
    ],
)
def test_a_bad_expression_says_what_is_wrong(cron, says):
    with pytest.raises(ValueError, match=says):
        check_cron(cron)


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "Europe", "\0"])
def test_a_bad_zone_is_none(zone):
    with pytest.raises(ValueError, match="no time zone"):
        zone_of(zone)
