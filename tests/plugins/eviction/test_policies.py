"""The built-in policies, each beside a slow and obvious reference."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cache_app.core.levels import Stored
from cache_app.core.memory import MemoryLevel
from plugins.eviction.builtin import recserve_eviction_policies
from plugins.eviction.lfu import LFU
from plugins.eviction.sieve import SIEVE
from plugins.options import read_summary
from tests.fakes import FakeClock
from tests.plugins.eviction.ghost_fifo import GhostFIFO

pytestmark = pytest.mark.contract("C3")

POLICIES = recserve_eviction_policies()
KEYS = [f"k{number}" for number in range(12)]


class Reference:
    """A cache that finds its victim by looking at everything. It evicts before it inserts."""

    def __init__(self, capacity, clock):
        self.capacity, self.clock = capacity, clock
        self.expires, self.weight = {}, {}
        self.order = []  # the newest last

    def get(self, key):
        if key not in self.expires:
            return False
        if self.expires[key] <= self.clock():
            self.drop(key)
            return False
        self.hit(key)
        return True

    def hit(self, key):
        pass

    def drop(self, key):
        self.order.remove(key)
        del self.expires[key], self.weight[key]

    def put(self, key, expires, weight):
        if key in self.expires:
            self.leave_for_overwriting(key)
        if weight > self.capacity or expires <= self.clock():
            return
        while sum(self.weight.values()) + weight > self.capacity:
            self.drop(self.victim())
        self.enter(key, expires, weight)

    def leave_for_overwriting(self, key):
        self.drop(key)

    def enter(self, key, expires, weight):
        self.expires[key], self.weight[key] = expires, weight
        self.order.append(key)

    def victim(self):
        return self.order[0]


class LRUReference(Reference):
    def hit(self, key):
        self.order.remove(key)
        self.order.append(key)


class LFUReference(LRUReference):
    def __init__(self, capacity, clock):
        super().__init__(capacity, clock)
        self.count, self.kept = {}, {}

    def hit(self, key):
        super().hit(key)
        self.count[key] += 1

    def drop(self, key):
        super().drop(key)
        del self.count[key]

    def leave_for_overwriting(self, key):
        self.kept = {key: self.count[key]}
        self.drop(key)

    def enter(self, key, expires, weight):
        super().enter(key, expires, weight)
        self.count[key] = self.kept.pop(key, 1)
        self.kept = {}

    def victim(self):
        return min(self.order, key=lambda key: (self.count[key], self.order.index(key)))


class TTLReference(Reference):
    def put(self, key, expires, weight):
        if key in self.expires:
            self.drop(key)
        if weight > self.capacity or expires <= self.clock():
            return
        self.enter(key, expires, weight)  # the newcomer may be the victim
        while sum(self.weight.values()) > self.capacity:
            self.drop(min(self.order, key=lambda key: (self.expires[key], self.order.index(key))))


class SIEVEReference(Reference):
    """Algorithm 1 of the paper, word by word, on a list."""

    def __init__(self, capacity, clock):
        super().__init__(capacity, clock)
        self.visited, self.hand = set(), None

    def hit(self, key):
        self.visited.add(key)

    def drop(self, key):
        if self.hand == key:
            place = self.order.index(key) + 1
            self.hand = self.order[place] if place < len(self.order) else None
        self.visited.discard(key)
        super().drop(key)

    def victim(self):
        candidate = self.hand if self.hand is not None else self.order[0]
        while candidate in self.visited:
            self.visited.remove(candidate)
            place = self.order.index(candidate) + 1
            candidate = self.order[place] if place < len(self.order) else self.order[0]
        self.hand = candidate  # drop moves it on
        return candidate


REFERENCES = {
    "lru": LRUReference,
    "lfu": LFUReference,
    "fifo": Reference,
    "ttl": TTLReference,
    "sieve": SIEVEReference,
}


class PolicyMachine(RuleBasedStateMachine):
    name: str
    weighted: bool

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.level = MemoryLevel(
            POLICIES[self.name],
            capacity=5,
            clock=self.clock,
            rng=Random(0),
            weigh=(lambda weight: weight) if self.weighted else None,
        )
        self.reference = REFERENCES[self.name](5, self.clock)

    @rule(
        key=st.sampled_from(KEYS),
        ttl=st.sampled_from([0.0, 1.0, 2.0, 3.0, 50.0]),
        weight=st.integers(1, 6),
    )
    def put(self, key, ttl, weight):
        now = self.clock()
        self.level.put(key, Stored(weight, now, now + ttl), "miss")
        self.reference.put(key, now + ttl, weight if self.weighted else 1)

    @rule(key=st.sampled_from(KEYS))
    def get(self, key):
        assert (self.level.get(key) is not None) == self.reference.get(key)

    @rule(key=st.sampled_from(KEYS))
    def remove(self, key):
        assert self.level.remove(key) == (key in self.reference.expires)
        if key in self.reference.expires:
            self.reference.drop(key)

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule()
    @precondition(lambda self: len(self.level) == 5)
    def clear(self):
        assert self.level.clear() == len(self.reference.order)
        for key in list(self.reference.order):
            self.reference.drop(key)

    @invariant()
    def same_residents(self):
        assert set(self.level._entries) == set(self.reference.expires)
        self.level.check()


@pytest.mark.parametrize("weighted", [False, True], ids=["entries", "weights"])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_keeps_what_its_reference_keeps(name, weighted):
    machine = type("Machine", (PolicyMachine,), {"name": name, "weighted": weighted})
    case = machine.TestCase
    case.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
    case("runTest").runTest()


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_long_run_keeps_what_its_reference_keeps(name):
    random, clock = Random(7), FakeClock()
    level = MemoryLevel(POLICIES[name], capacity=20, clock=clock, rng=Random(0))
    reference = REFERENCES[name](20, clock)
    for _ in range(4000):
        key = f"k{int(random.paretovariate(0.6)) % 60}"
        clock.advance(random.random())
        if random.random() < 0.02:
            assert level.remove(key) == (key in reference.expires)
            if key in reference.expires:
                reference.drop(key)
        found = level.get(key) is not None
        assert found == reference.get(key)
        if not found or random.random() < 0.05:
            expires = clock() + random.choice([20.0, 200.0])
            level.put(key, Stored(1, clock(), expires))
            reference.put(key, expires, 1)
        assert set(level._entries) == set(reference.expires)
    level.check()


@pytest.mark.parametrize("policy", [*POLICIES.values(), GhostFIFO])
@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_no_policy_exceeds_its_capacity_or_serves_what_expired(policy, capacity):
    random, clock = Random(capacity), FakeClock()
    level = MemoryLevel(
        policy, capacity=capacity, clock=clock, rng=Random(0), weigh=lambda value: value
    )
    for _ in range(1500):
        key = random.choice(KEYS)
        clock.advance(random.random())
        stored = level.get(key)
        assert stored is None or stored.expires > clock()
        if stored is None:
            level.put(key, Stored(random.randint(1, capacity + 1), 0.0, clock() + 1.5))
        elif random.random() < 0.1:
            level.remove(key)
        level.check()
    assert level.stats().evictions
    assert level.stats().expirations or capacity == 1


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_has_a_summary_and_no_options(name):
    assert read_summary(POLICIES[name]).endswith(".")


def test_a_roll_out_halves_the_counts_of_lfu():
    level = MemoryLevel(LFU, capacity=3)
    for key, hits in (("a", 9), ("b", 1), ("c", 0)):
        level.put(key, Stored(1, 0.0, float("inf")))
        for _ in range(hits):
            level.get(key)
    policy = level._policy
    policy.on_generation("recserve", 1, 2)
    level.check()
    assert [(bucket.count, [e.key for e in bucket.entries]) for bucket in policy._buckets] == [
        (1, ["b", "c"]),
        (5, ["a"]),
    ]


def test_the_scan_of_sieve_ends_even_if_every_flag_stays_set():
    class Sticky:
        ref = property(lambda self: 1, lambda self, value: None)
        prev = next = None

    policy = SIEVE()
    entries = [Sticky() for _ in range(5)]
    for entry in entries:
        policy.on_insert(entry, 0.0, "miss")
    assert policy.evict(0.0) in entries


def test_the_heap_of_ttl_first_stays_in_bounds():
    level = MemoryLevel(POLICIES["ttl"], capacity=10)
    for number in range(2000):
        level.put(f"k{number % 10}", Stored(1, 0.0, 1e12 + number))
        level.check()
    assert len(level._policy._heap) <= 2 * 10 + 64
