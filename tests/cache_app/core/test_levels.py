"""Reading through levels."""

import pytest

from cache_app.core.levels import Levels, Stored
from cache_app.core.memory import MemoryLevel
from plugins.eviction.lru import LRU
from tests.fakes import FailingLevel, FakeClock, FakeLevel

pytestmark = pytest.mark.contract("C1")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def l1(clock):
    return MemoryLevel(LRU, capacity=10, clock=clock)


def test_what_is_stored_is_found_in_the_first_level(clock, l1):
    l2 = FakeLevel()
    levels = Levels([l1, l2], clock=clock)
    assert levels.find("a") is None
    levels.store("a", "value", ttl=60)
    found = levels.find("a")
    assert found == ("value", "l1", clock.now, clock.now + 60, 0.0)
    assert (found.value, found.level) == ("value", "l1")
    for kept in (l2.table["a"], l1.get("a")):
        assert (kept.value, kept.created, kept.fresh_until) == ("value", clock.now, clock.now + 60)
    assert l2.origins["a"] == "miss"


def test_a_promotion_keeps_the_remaining_lifetime(clock, l1):
    middle, lowest = FakeLevel("l2"), FakeLevel("l3")
    levels = Levels([l1, middle, lowest], clock=clock)
    levels.store("a", "value", ttl=60)
    l1.clear()
    middle.clear()
    clock.advance(45)
    assert levels.find("a") == ("value", "l3", clock.now - 45, clock.now + 15, 0.0)
    assert middle.origins["a"] == "promotion"
    assert levels.find("a").level == "l1"
    clock.advance(15)
    assert levels.find("a") is None, "a promotion must not have made it live longer"
    stats = levels.stats()
    assert [stats[name].promotions for name in ("l1", "l2", "l3")] == [1, 1, 0]


def test_an_expired_value_of_a_lower_level_is_neither_served_nor_promoted(clock, l1):
    l2 = FakeLevel()
    l2.table["a"] = Stored("old", 0.0, clock.now)
    levels = Levels([l1, l2], clock=clock)
    assert levels.find("a") is None
    assert len(l1) == 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_level_that_is_down_is_skipped_and_counted(place, clock, l1):
    order = [l1, FakeLevel("l3")]
    order.insert(place, FailingLevel("l2"))
    levels = Levels(order, clock=clock)
    levels.store("a", "value", ttl=60)
    assert levels.find("a").value == "value"
    l1.clear()
    assert levels.find("a").level == "l3"
    assert levels.find("a").level == "l1"
    assert levels.remove_where(lambda key: key == "a") == 1
    assert levels.remove("a") is False
    assert levels.clear() == 0
    stats = levels.stats()
    assert stats["l2"].errors >= 4
    assert stats["l1"].errors == stats["l3"].errors == 0
    assert stats["l1"].promotions == 1


def test_removing_begins_at_the_lowest_level(clock, l1):
    order = []

    class Noting(FakeLevel):
        def remove(self, key):
            order.append(self.name)
            return super().remove(key)

    levels = Levels([Noting("l1"), Noting("l2"), Noting("l3")], clock=clock)
    levels.store("a", "value", ttl=60)
    assert levels.remove("a")
    assert order == ["l3", "l2", "l1"]


def test_statistics_are_those_of_the_levels(clock, l1):
    levels = Levels([l1], clock=clock)
    levels.find("a")
    levels.store("a", 1, ttl=1)
    levels.find("a")
    stats = levels.stats()["l1"]
    assert (stats.hits, stats.misses, stats.entries, stats.capacity) == (1, 1, 1, 10)


def test_no_level_at_all_is_a_cache_that_never_hits(clock):
    levels = Levels([], clock=clock)
    levels.store("a", 1, ttl=1)
    assert levels.find("a") is None
    assert (levels.remove("a"), levels.clear(), levels.stats()) == (False, 0, {})


def test_two_levels_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same name"):
        Levels([FakeLevel("l2"), FakeLevel("l2")])


@pytest.mark.contract("C11")
def test_a_stale_value_is_found_as_such_until_it_expires(clock, l1):
    levels = Levels([l1], clock=clock)
    levels.store("a", "value", ttl=60, stale=30)
    clock.advance(75)
    found = levels.find("a")
    assert (found.value, found.level, found.stale_for) == ("value", "l1", 15)
    clock.advance(15)
    assert levels.find("a") is None


@pytest.mark.contract("C11")
def test_a_fresh_value_below_beats_a_stale_one_above_and_takes_its_place(clock, l1):
    l2 = FakeLevel()
    levels = Levels([l1, l2], clock=clock)
    levels.store("a", "old", ttl=60, stale=60)
    clock.advance(70)
    l2.put("a", Stored("new", clock.now, clock.now + 90, clock.now + 60), "miss")
    assert levels.find("a")[:2] == ("new", "l2")
    assert levels.find("a")[:2] == ("new", "l1")
    clock.advance(70)
    assert levels.find("a").stale_for == 10
