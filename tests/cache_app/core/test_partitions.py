"""L1 divided: each share is respected, whatever the others do, and while shares change."""

import threading
from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_app.core.keys import recommendation_key, segment_of
from cache_app.core.levels import Stored
from cache_app.core.memory import MemoryLevel
from cache_app.core.partitions import REST, PartitionedMemory, Share
from plugins.errors import PluginError
from plugins.eviction.fifo import FIFO
from plugins.eviction.lru import LRU
from plugins.eviction.sieve import SIEVE
from tests.fakes import FakeClock

pytestmark = pytest.mark.contract("C10")

POLICIES = {"": LRU, "fifo": FIFO, "sieve": SIEVE}
NAMES = ("a", "b", "c", "rest")


def part_of(key):
    return key.partition(":")[0]


def memory(capacity=20, clock=None, weigh=None):
    clock = clock or FakeClock(0.0)

    def make(capacity, share):
        if share is not None and share.policy not in POLICIES:
            raise PluginError(f"no {share.policy}")
        policy = POLICIES["" if share is None else share.policy]
        return MemoryLevel(policy, capacity=capacity, clock=clock, weigh=weigh)

    return PartitionedMemory(make, capacity=capacity, part_of=part_of)


def put(level, key, value=1, expires=100.0):
    level.put(key, Stored(value, 0.0, expires))


def held(level, name):
    return {key for part in level._levels() for key in part.resident_keys() if part_of(key) == name}


def test_in_one_piece_it_is_the_level_itself():
    level = memory()
    assert level.get is level._rest.level.get
    level.divide({"a": Share(0.5)})
    level.settle(10)
    assert level.get is not level._rest.level.get
    level.divide({})
    level.settle(10)
    assert level.get is level._rest.level.get


def test_a_key_says_its_segment():
    key = recommendation_key(
        namespace="n:s",
        model_name="m",
        version=1,
        fingerprint="f",
        segment="power",
        user_id="u:1",
        context={},
    )
    assert segment_of(key) == "power"
    assert segment_of("no key") == ""


def test_a_share_is_nobody_elses():
    level = memory(20)
    level.divide({"a": Share(0.25), "b": Share(0.5)})
    for n in range(5):
        put(level, f"a:{n}")
    for n in range(100):
        put(level, f"b:{n}")
        put(level, f"c:{n}")
    assert [len(held(level, name)) for name in "abc"] == [5, 10, 5]
    assert all(level.get(f"a:{n}") for n in range(5))
    stats = level.partitions()
    assert (stats["a"].hits, stats["a"].capacity, stats["a"].evictions) == (5, 5, 0)
    assert (stats["b"].capacity, stats[REST].capacity, level.stats().capacity) == (10, 5, 20)
    level.check()


def test_too_much_is_reduced_together():
    level = memory(1000)
    level.divide({"a": Share(0.9), "b": Share(0.9)})
    capacities = {name: stats.capacity for name, stats in level.partitions().items()}
    assert capacities == {"a": 495, "b": 495, REST: 10}


def test_new_shares_take_entries_along_with_their_remaining_lifetime():
    clock = FakeClock(0.0)
    level = memory(20, clock)
    for n in range(10):
        put(level, f"a:{n}", n, expires=50.0)
    clock.advance(20)
    level.divide({"a": Share(0.5, "fifo")})
    assert level.get("a:3").value == 3, "before it has moved"
    assert not level.settle(4)
    assert level.settle(100)
    assert [level.get(f"a:{n}").expires for n in range(10)] == [50.0] * 10
    assert level.stats().hits == 11
    clock.advance(30)
    assert level.get("a:3") is None
    level.check()


def test_counts_never_fall():
    level = memory(20)
    put(level, "a:1")
    level.get("a:1"), level.get("a:2")
    for shares in ({"a": Share(0.5)}, {"a": Share(0.3)}, {}):
        level.divide(shares)
        level.settle(100)
        stats = level.stats()
        assert (stats.hits, stats.misses, stats.entries) == (1, 1, 1)


def test_what_is_removed_while_it_could_move_stays_away():
    level = memory(20)
    for n in range(6):
        put(level, f"a:{n}")
    level.divide({"a": Share(0.5)})
    assert level.remove("a:1")
    assert level.remove_where(lambda key: key == "a:2") == 1
    put(level, "a:3", "new")
    level.settle(100)
    assert [level.get(f"a:{n}") is None for n in range(6)] == [False, True, True] + [False] * 3
    assert level.get("a:3").value == "new"
    assert level.clear() == 4


def test_a_policy_that_there_is_not_changes_nothing():
    level = memory(20)
    level.divide({"a": Share(0.5)})
    before = {name: stats.capacity for name, stats in level.partitions().items()}
    with pytest.raises(PluginError):
        level.divide({"a": Share(0.1), "b": Share(0.1, "nope")})
    assert {name: stats.capacity for name, stats in level.partitions().items()} == before


def test_a_level_that_fits_stays():
    level = memory(20)
    level.divide({"a": Share(0.25), "b": Share(0.25)})
    a = level._parts["a"].level
    level.divide({"a": Share(0.25), "b": Share(0.5)})
    assert level._parts["a"].level is a
    level.divide({"a": Share(0.25, "fifo"), "b": Share(0.5)})
    assert level._parts["a"].level is not a


class Pressure(RuleBasedStateMachine):
    """With shares that stay, each part is exactly an LRU of its own capacity."""

    def __init__(self):
        super().__init__()
        self.level = memory(20)
        self.level.divide({"a": Share(0.2), "b": Share(0.35)})
        self.capacity = {"a": 4, "b": 7, REST: 9}
        self.model = {name: OrderedDict() for name in self.capacity}

    def of(self, key):
        return self.model[part_of(key) if part_of(key) in "ab" else REST]

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 14), value=st.integers())
    def put(self, name, number, value):
        key = f"{name}:{number}"
        put(self.level, key, value)
        part = self.of(key)
        part[key] = value
        part.move_to_end(key)
        most = self.capacity[name if name in "ab" else REST]
        while len(part) > most:
            part.popitem(last=False)

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 14))
    def get(self, name, number):
        key = f"{name}:{number}"
        found = self.level.get(key)
        assert (None if found is None else found.value) == self.of(key).get(key)
        if found is not None:
            self.of(key).move_to_end(key)

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 14))
    def remove(self, name, number):
        key = f"{name}:{number}"
        assert self.level.remove(key) is (self.of(key).pop(key, None) is not None)

    @invariant()
    def it_holds(self):
        self.level.check()


class Changes(RuleBasedStateMachine):
    """While shares change, nothing old is served, and all together fit."""

    def __init__(self):
        super().__init__()
        self.level = memory(24, weigh=lambda value: 1 + abs(value) % 4)
        self.last = {}

    @rule(
        shares=st.dictionaries(
            st.sampled_from("abc"),
            st.builds(Share, st.floats(0.05, 0.4), st.sampled_from(sorted(POLICIES))),
        )
    )
    def divide(self, shares):
        self.level.divide(shares)

    @rule(n=st.integers(1, 12))
    def settle(self, n):
        self.level.settle(n)

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 9), value=st.integers())
    def put(self, name, number, value):
        put(self.level, f"{name}:{number}", value)
        self.last[f"{name}:{number}"] = value

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 9))
    def get(self, name, number):
        found = self.level.get(f"{name}:{number}")
        assert found is None or found.value == self.last[f"{name}:{number}"]

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 9))
    def remove(self, name, number):
        self.level.remove(f"{name}:{number}")
        self.last.pop(f"{name}:{number}", None)

    @invariant()
    def it_holds(self):
        self.level.check()
        assert self.level.weight <= self.level.capacity
        if self.level.settle(0):
            for name, stats in self.level.partitions().items():
                assert stats.weight <= stats.capacity, name


TestPressure = Pressure.TestCase
TestPressure.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_threads_may_look_up_and_store_while_shares_change():
    level = memory(300)
    last = [0] * 200
    stop, wrong = threading.Event(), []

    def work(mine):
        n = 0
        while not stop.is_set():
            n += 1
            key = mine[n % len(mine)]
            last[key] = n
            put(level, f"{NAMES[key % 4]}:{key}", (key, n))
            found = level.get(f"{NAMES[key % 4]}:{key}")
            value = None if found is None else found.value
            if value is not None and value != (key, n):
                wrong.append((value, key, n))

    threads = [threading.Thread(target=work, args=(range(i, 200, 4),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for n in range(60):
        level.divide({"a": Share(0.1 + n % 5 / 10), "b": Share(0.3, sorted(POLICIES)[n % 3])})
        while not level.settle(7):
            pass
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    level.check()
