"""Counting questions in bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from plugins.warmup.tallies import Tallies, best
from tests.plugins.warmup.activities import asking


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 12))
def test_no_more_than_twice_the_wanted_number_are_kept(users, tracked):
    tallies = Tallies(tracked)
    for user in users:
        tallies.add(asking(user), 1.0)
        assert len(tallies) <= 2 * tracked
    assert len(tallies) == len(set(users)) or len(set(users)) > tracked


def test_the_most_asked_survive_a_flood_of_others():
    tallies = Tallies(10)
    for i in range(1000):
        tallies.add(asking(f"once {i}"), 1.0)
        tallies.add(asking("often"), 1.0)
    (first,) = best(tallies, 1)
    assert (first.request.user_id, first.count) == ("often", 1000)


def test_equal_weights_are_ordered_by_the_last_asking():
    tallies = Tallies()
    for user, minute in (("a", 5), ("c", 50), ("b", 20)):
        tallies.add(asking(user, minute=minute), 2.0)
    assert [each.request.user_id for each in best(tallies, 9)] == ["c", "b", "a"]
    assert [each.request.user_id for each in best(tallies, 9, keep=lambda t: t.last < 0)] == []
