"""Who usually comes next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import InvalidOptions
from plugins.conformance import check_warmup_strategy
from plugins.warmup import sequence
from plugins.warmup.sequence import ComesNext
from tests.plugins.warmup.activities import DAY, activity, asking, askings, limits, users

pytestmark = pytest.mark.contract("W1")


def day_of(*who, ago, hour=0.0):
    """Users that ask one after the other, five minutes apart."""
    return [asking(user, ago=ago * DAY - hour, minute=5 * i) for i, user in enumerate(who)]


def now(user, minute=20, **more):
    return asking(user, ago=0.0, minute=minute, **more)


@pytest.mark.parametrize("options", [{}, {"gap_minutes": 300.0, "minimum": 1}])
def test_it_conforms(options):
    check_warmup_strategy(lambda: ComesNext(**options))


def test_it_warms_who_came_next_before():
    given = [
        *day_of("ann", "bob", ago=1),
        *day_of("ann", "bob", ago=2),
        *day_of("ann", "bob", ago=3),
        *day_of("ann", "cid", ago=4),
        *day_of("ann", "cid", ago=5),
        *day_of("ann", "dan", ago=6),
        *day_of("eve", "fay", ago=7),
        *day_of("eve", "fay", ago=8),
        now("ann"),
    ]
    chosen = list(ComesNext().candidates(activity(*given), 9))
    assert users(chosen) == ["bob", "cid"], "dan came once; eve is not here"
    assert [each.score for each in chosen] == [pytest.approx(3 / 7), pytest.approx(2 / 7)]
    assert chosen[0].reason == "came next 3 of 7 times after 'ann'"


def test_two_who_are_here_make_it_more_likely():
    given = [
        *day_of("ann", "bob", ago=1),
        *day_of("ann", "bob", ago=2),
        *day_of("eve", "bob", ago=3),
        *day_of("eve", "bob", ago=4),
        now("ann", 10),
        now("eve", 20),
    ]
    (bob,) = (
        each
        for each in ComesNext().candidates(activity(*given), 9)
        if each.request.user_id == "bob"
    )
    assert bob.score == pytest.approx(1 - (1 / 3) ** 2)


def test_a_context_is_part_of_what_comes_next():
    given = [
        each
        for ago in (1, 2)
        for each in (
            asking("ann", ago=ago * DAY, context={"page": "list"}, minute=0),
            asking("ann", ago=ago * DAY, context={"page": "cart"}, minute=3),
        )
    ]
    chosen = ComesNext().candidates(activity(*given, now("ann", context={"page": "list"})), 9)
    assert [each.request.context for each in chosen] == [{"page": "cart"}]


def test_others_may_come_in_between():
    given = [
        each
        for ago, other in ((1, "bob"), (2, "cid"))
        for each in (
            asking("ann", ago=ago * DAY, context={"page": "list"}, minute=0),
            asking(other, ago=ago * DAY, minute=1),
            asking("ann", ago=ago * DAY, context={"page": "cart"}, minute=2),
        )
    ]
    (cart,) = ComesNext().candidates(activity(*given, now("ann", context={"page": "list"})), 9)
    assert cart.request.context == {"page": "cart"}
    assert cart.reason == "came next 2 of 3 times after 'ann'"


def test_who_comes_next_is_counted_once():
    """The same asking is the next of anyone, and the next of the user."""
    given = [
        each
        for ago in (1, 2)
        for page, minute in (("list", 0), ("cart", 1))
        for each in [asking("ann", ago=ago * DAY, context={"page": page}, minute=minute)]
    ]
    (cart,) = ComesNext().candidates(activity(*given, now("ann", context={"page": "list"})), 9)
    assert cart.score == pytest.approx(2 / 3)


@pytest.mark.parametrize("gap", [4.0, 6.0])
def test_who_comes_after_the_gap_does_not_follow(gap):
    given = [*day_of("ann", "bob", ago=1), *day_of("ann", "bob", ago=2), now("ann", 29)]
    chosen = users(ComesNext(gap_minutes=gap).candidates(activity(*given), 9))
    assert chosen == (["bob"] if gap > 5 else [])


def test_nobody_here_nobody_next():
    given = [*day_of("ann", "bob", ago=1), *day_of("ann", "bob", ago=2), now("ann", -10)]
    seen = activity(*given)
    assert users(ComesNext(gap_minutes=30.0).candidates(seen, 9)) == []
    assert seen.reads == 1, "nothing has to be counted then"


@given(askings, limits)
def test_a_chance_is_none_above_one(given, limit):
    chosen = list(ComesNext(gap_minutes=600.0, minimum=1).candidates(activity(*given), limit))
    assert all(0 < each.score <= 1 for each in chosen)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=60))
def test_only_so_many_who_are_here_are_followed(here):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence, "_PRESENT", 10)
        given = [now(user, minute=i / 4) for i, user in enumerate(dict.fromkeys(here))]
        present = ComesNext()._present(activity(*given))
        assert list(present) == [f'[{each.user_id},"default","",{{}}]' for each in given[-10:]]


def test_an_option_that_makes_no_sense_is_named():
    with pytest.raises(InvalidOptions, match="'gap_minutes' must be more than 0"):
        ComesNext(gap_minutes=-5.0)
