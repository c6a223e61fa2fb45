"""last_week does what recserve expects of a warm-up strategy."""

import pytest
from recserve_example.last_week import DAY, LastWeek

from plugins import Asking, InvalidOptions
from plugins.conformance import check_warmup_strategy
from plugins.conformance.warmup import GivenActivity


def test_conformance():
    check_warmup_strategy(LastWeek)


def test_it_warms_who_came_a_week_ago():
    now = 100 * DAY
    given = [
        Asking(user, "default", "", {}, hour=now - days * DAY, count=1, last=now - days * DAY)
        for user, days in (("ann", 6.5), ("bob", 13.5), ("cid", 1.0))
    ]
    for weeks, user in ((1, "ann"), (2, "bob")):
        chosen = list(LastWeek(weeks=weeks).candidates(GivenActivity(given, now=now), 9))
        assert [each.request.user_id for each in chosen] == [user]


def test_a_week_is_the_least():
    with pytest.raises(InvalidOptions, match="at least 1"):
        LastWeek(weeks=0)
