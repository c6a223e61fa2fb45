"""Where an entry is, asked of every level."""

import pytest

from cache_app.core.breaker import Breaker, GuardedLevel
from cache_app.core.levels import Levels, Stored
from cache_app.core.memory import MemoryLevel
from cache_app.core.partitions import PartitionedMemory, Share
from cache_app.core.residences import keys_in_memory, residences
from plugins.errors import LevelUnavailable
from plugins.eviction.sieve import SIEVE
from tests.fakes import FakeClock, FakeLevel

pytestmark = pytest.mark.contract("O1")


class Inspected(FakeLevel):
    """Says what it has, unless it is away."""

    away = False

    def inspect(self, key):
        if self.away:
            raise LevelUnavailable("away")
        stored = self.table.get(key)
        return stored and (stored, 100)


@pytest.fixture
def clock():
    return FakeClock(1000.0)


def test_each_level_that_has_the_entry_is_named(clock):
    l1 = MemoryLevel(SIEVE, capacity=10, clock=clock, size_of=len)
    l2 = Inspected("l2")
    levels = Levels([l1, GuardedLevel(l2, Breaker()), FakeLevel("l3")], clock=clock)
    levels.store("k", "value", ttl=60.0, stale=30.0)
    clock.advance(5.0)
    l1.get("k")
    memory, below = residences(levels, "k")[0]
    assert (memory.level, memory.hits, memory.size, memory.tier) == ("l1", 1, 5, "warm")
    assert memory.last_used == pytest.approx(1005.0, abs=1.0)
    assert (below.level, below.hits, below.size) == ("l2", None, 100)
    for each in (memory, below):
        assert (each.created, each.fresh_until, each.expires) == (1000.0, 1060.0, 1090.0)
    assert residences(levels, "other") == ([], [])
    l1.remove("k")
    assert [each.level for each in residences(levels, "k")[0]] == ["l2"]


def test_an_entry_that_was_never_hit_has_no_last_use(clock):
    levels = Levels([MemoryLevel(SIEVE, capacity=10, clock=clock)], clock=clock)
    levels.store("k", "value", ttl=60.0)
    assert residences(levels, "k")[0][0].last_used is None


def test_who_does_not_answer_is_named_and_hides_nothing(clock):
    l1, l2 = MemoryLevel(SIEVE, capacity=10, clock=clock), Inspected("l2")
    levels = Levels([l1, GuardedLevel(l2, Breaker())], clock=clock)
    levels.store("k", "value", ttl=60.0)
    l2.away = True
    found, away = residences(levels, "k")
    assert [each.level for each in found] == ["l1"]
    assert away == ["l2"]


def test_keys_are_those_of_memory_that_match(clock):
    l1, l2 = MemoryLevel(SIEVE, capacity=2, clock=clock), FakeLevel("l2")
    levels = Levels([l1, l2], clock=clock)
    for key in ("a1", "a2", "b1"):
        levels.store(key, "value", ttl=60.0)
    l2.put("a9", Stored("value", 1000.0, 2000.0), "miss")
    assert sorted(keys_in_memory(levels, lambda _: True)) == sorted(l1.resident_keys())
    assert len(l1.resident_keys()) == 2
    assert keys_in_memory(levels, lambda key: key == "b1") == ["b1"]


def test_memory_that_is_divided_is_looked_at_as_one(clock):
    def make(capacity, share):
        return MemoryLevel(SIEVE, capacity=capacity, clock=clock, size_of=len)

    l1 = PartitionedMemory(make, capacity=10, part_of=lambda key: key[0])
    levels = Levels([l1], clock=clock)
    l1.divide({"a": Share(0.5)})
    for key in ("a1", "b1"):
        levels.store(key, "value", ttl=60.0)
    assert sorted(keys_in_memory(levels, lambda _: True)) == ["a1", "b1"]
    for key in ("a1", "b1"):
        assert [each.level for each in residences(levels, key)[0]] == ["l1"]
