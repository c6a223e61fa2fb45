"""The built-in policies, each beside a slow and obvious reference."""

import math
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cache_app.core.levels import Stored
from cache_app.core.memory import MemoryLevel
from plugins.conformance import check_eviction_policy
from plugins.eviction.builtin import recserve_eviction_policies
from plugins.eviction.gdsf import GDSF
from plugins.eviction.lfu import LFU
from plugins.eviction.s3fifo import S3FIFO
from plugins.eviction.sieve import SIEVE
from plugins.options import read_options, read_summary
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
        self.warmed = []  # and not asked for yet

    def get(self, key):
        if key not in self.expires:
            return False
        if self.expires[key] <= self.clock():
            self.drop(key)
            return False
        if key in self.warmed:
            self.warmed.remove(key)
        self.hit(key)
        return True

    def hit(self, key):
        pass

    def drop(self, key):
        self.order.remove(key)
        del self.expires[key], self.weight[key]
        if key in self.warmed:
            self.warmed.remove(key)

    def put(self, key, expires, weight, origin="miss"):
        warmed = [*self.warmed, key] if origin == "warmup" and key not in self.expires else None
        if key in self.expires:
            warmed = list(self.warmed)  # it keeps its place
            self.leave_for_overwriting(key)
        if weight > self.capacity or expires <= self.clock():
            return
        while sum(self.weight.values()) + weight > self.capacity:
            others = [other for other in self.warmed if other != key]
            self.drop(others[0] if others else self.victim())
        self.enter(key, expires, weight)
        if warmed is not None:
            self.warmed = [each for each in warmed if each in self.expires]

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
    def put(self, key, expires, weight, origin="miss"):
        warmed = [*self.warmed, key] if origin == "warmup" and key not in self.expires else None
        if key in self.expires:
            warmed = list(self.warmed)
            self.drop(key)
        if weight > self.capacity or expires <= self.clock():
            return
        self.enter(key, expires, weight)  # the newcomer may be the victim
        if warmed is not None:
            self.warmed = warmed
        while sum(self.weight.values()) > self.capacity:
            others = [other for other in self.warmed if other != key]
            soonest = min(self.order, key=lambda key: (self.expires[key], self.order.index(key)))
            self.drop(others[0] if others else soonest)


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


class CLOCKReference(Reference):
    def __init__(self, capacity, clock):
        super().__init__(capacity, clock)
        self.used = set()

    def hit(self, key):
        self.used.add(key)

    def drop(self, key):
        self.used.discard(key)
        super().drop(key)

    def victim(self):
        while self.order[0] in self.used:
            self.used.remove(self.order[0])
            self.order.append(self.order.pop(0))
        return self.order[0]


class GhostReference(Reference):
    """Two queues of residents and one of ghosts, as lists whose oldest is first."""

    ghost_share: float

    def __init__(self, capacity, clock):
        super().__init__(capacity, clock)
        self.arrived, self.main, self.ghosts = [], [], {}
        self.kept = None

    def drop(self, key):
        super().drop(key)
        for queue in (self.arrived, self.main):
            if key in queue:
                queue.remove(key)

    def put(self, key, expires, weight, origin="miss"):
        self.kept = None
        self.returned = key in self.ghosts
        if self.returned and weight <= self.capacity and expires > self.clock():
            del self.ghosts[key]
        super().put(key, expires, weight, origin)

    def leave_for_overwriting(self, key):
        self.kept = self.main if key in self.main else self.arrived
        self.drop(key)

    def enter(self, key, expires, weight):
        super().enter(key, expires, weight)
        queue = self.main if self.returned else self.arrived
        (queue if self.kept is None else self.kept).append(key)

    def remember(self, key):
        weight, limit = self.weight[key], int(self.ghost_share * self.capacity)
        while self.ghosts and sum(self.ghosts.values()) + weight > limit:
            del self.ghosts[next(iter(self.ghosts))]
        if weight <= limit:
            self.ghosts[key] = weight

    def weigh(self, queue):
        return sum(self.weight[key] for key in queue)


class TwoQReference(GhostReference):
    ghost_share = 0.5

    def hit(self, key):
        if key in self.main:
            self.main.remove(key)
            self.main.append(key)

    def victim(self):
        if self.weigh(self.arrived) > int(0.25 * self.capacity) or not self.main:
            self.remember(self.arrived[0])
            return self.arrived[0]
        return self.main[0]


class S3FIFOReference(GhostReference):
    ghost_share = 0.9

    def __init__(self, capacity, clock):
        super().__init__(capacity, clock)
        self.count, self.filling = {}, True

    def hit(self, key):
        self.count[key] = min(3, self.count[key] + 1)

    def put(self, key, expires, weight, origin="miss"):
        others = sum(each for other, each in self.weight.items() if other != key)
        self.full = others + weight > self.capacity
        super().put(key, expires, weight, origin)

    def enter(self, key, expires, weight):
        if self.filling and not self.full and self.weigh(self.arrived) >= int(0.1 * self.capacity):
            self.returned = True
        super().enter(key, expires, weight)
        if self.kept is None:
            self.count[key] = 0

    def victim(self):
        self.filling = False
        share = self.capacity - int(0.1 * self.capacity)
        while self.arrived and self.weigh(self.main) <= share:
            for key in list(self.arrived):
                if self.count[key] < 2:
                    self.remember(key)
                    return key
                self.count[key] = 0
                self.main.append(self.arrived.pop(0))
        while self.count[self.main[0]]:
            self.count[self.main[0]] -= 1
            self.main.append(self.main.pop(0))
        return self.main[0]


class GDSFReference(LFUReference):
    def __init__(self, capacity, clock):
        super().__init__(capacity, clock)
        self.age, self.value = 0.0, {}

    def hit(self, key):
        super().hit(key)
        self.value[key] = self.age + self.count[key] / self.weight[key]

    def enter(self, key, expires, weight):
        super().enter(key, expires, weight)
        self.value[key] = self.age + self.count[key] / weight

    def victim(self):
        key = min(self.order, key=lambda key: (self.value[key], self.order.index(key)))
        self.age = max(self.age, self.value[key])
        return key


REFERENCES = {
    "lru": LRUReference,
    "lfu": LFUReference,
    "fifo": Reference,
    "ttl": TTLReference,
    "sieve": SIEVEReference,
    "clock": CLOCKReference,
    "two_q": TwoQReference,
    "s3fifo": S3FIFOReference,
    "gdsf": GDSFReference,
}
"""The others are compared with their papers, and here with what holds for all policies."""


class AnyReference(Reference):
    """What holds for every policy: it asks the level who left, and whether that was needed."""

    level: MemoryLevel

    def put(self, key, expires, weight, origin="miss"):
        if key in self.expires:
            self.drop(key)
        if weight > self.capacity or expires <= self.clock():
            return
        self.enter(key, expires, weight)
        left = sorted(set(self.order) - residents(self.level), key=self.weight.__getitem__)
        assert key not in left, "the newcomer was refused"
        spare = self.capacity - sum(self.weight.values())
        for gone in left:
            self.drop(gone)
        assert not left or spare < 0, "an entry left although all fitted"


def residents(level):
    return {key for key, entry in level._entries.items() if entry.value is not None}


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
        self.reference = REFERENCES.get(self.name, AnyReference)(5, self.clock)
        self.reference.level = self.level

    @rule(
        key=st.sampled_from(KEYS),
        ttl=st.sampled_from([0.0, 1.0, 2.0, 3.0, 50.0]),
        weight=st.integers(1, 6),
        origin=st.sampled_from(["miss", "miss", "warmup", "promotion"]),
    )
    def put(self, key, ttl, weight, origin):
        now = self.clock()
        self.level.put(key, Stored(weight, now, now + ttl), origin)
        self.reference.put(key, now + ttl, weight if self.weighted else 1, origin)

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
    def roll_out(self):
        if self.name not in {"lfu", "s3fifo", "gdsf"}:  # their references keep their counts
            self.level._policy.on_generation("recserve", 1, 2)

    @rule()
    @precondition(lambda self: len(self.level) == 5)
    def clear(self):
        assert self.level.clear() == len(self.reference.order)
        for key in list(self.reference.order):
            self.reference.drop(key)

    @invariant()
    def same_residents(self):
        assert residents(self.level) == set(self.reference.expires)
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
        assert residents(level) == set(reference.expires)
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


OPTIONS = {
    "s3fifo": {"small", "ghost", "threshold"},
    "two_q": {"a_in", "a_out"},
    "lirs": {"cold"},
    "w_tinylfu": {"window", "adaptive"},
}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_has_a_summary_and_only_its_options(name):
    assert read_summary(POLICIES[name]).endswith(".")
    options = read_options(POLICIES[name])
    assert {option.name for option in options} == OPTIONS.get(name, set())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("s3fifo", {"small": 0.0}),
        ("s3fifo", {"ghost": 1.1}),
        ("s3fifo", {"threshold": 4}),
        ("two_q", {"a_in": 1.0}),
        ("two_q", {"a_out": -0.1}),
        ("lirs", {"cold": 1.0}),
        ("w_tinylfu", {"window": 0.0}),
    ],
)
def test_an_option_out_of_range_is_refused(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        POLICIES[name](**options)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_passes_the_checks_for_plugins(name):
    check_eviction_policy(POLICIES[name])


@pytest.mark.parametrize("name", ["arc", "lirs", "two_q", "s3fifo"])
def test_the_keys_of_victims_are_remembered(name):
    level = MemoryLevel(POLICIES[name], capacity=20)
    for number in range(60):
        level.put(f"k{number}", Stored(1, 0.0, math.inf))
        level.get(f"k{number % 3}")
        level.check()
    assert level.stats().ghosts


def test_the_counts_of_s3fifo_and_gdsf_are_halved_by_a_roll_out():
    level = MemoryLevel(S3FIFO, capacity=3)
    level.put("a", Stored(1, 0.0, math.inf))
    for _ in range(3):
        level.get("a")
    level._policy.on_generation("recserve", 1, 2)
    assert level._entries["a"].ref == 1
    level = MemoryLevel(GDSF, capacity=3)
    level.put("a", Stored(1, 0.0, math.inf))
    for _ in range(6):
        level.get("a")
    level._drain()
    level._policy.on_generation("recserve", 1, 2)
    level.check()
    assert level._entries["a"].frequency == 3


def test_gdsf_keeps_what_is_small_or_dear():
    level = MemoryLevel(GDSF, capacity=10, weigh=lambda weight: weight)
    for key, weight, cost in (("dear", 5, 0.5), ("large", 4, 0.1), ("small", 1, 0.1)):
        level.put(key, Stored(weight, 0.0, math.inf, math.inf, cost))
    level.put("new", Stored(4, 0.0, math.inf, math.inf, 0.1))
    assert residents(level) == {"dear", "small", "new"}


def test_a_cost_that_nobody_knows_is_the_mean_of_those_that_are_known():
    level = MemoryLevel(GDSF, capacity=1000)
    for number in range(600):
        level.put(f"k{number}", Stored(1, 0.0, math.inf, math.inf, 0.02))
    level.put("promoted", Stored(1, 0.0, math.inf), "promotion")
    assert level._entries["promoted"].cost == pytest.approx(0.02, rel=0.01)
    assert level._entries["k0"].cost == 0.02


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_what_was_warmed_and_not_asked_for_leaves_first(name):
    level = MemoryLevel(POLICIES[name], capacity=6, rng=Random(0), clock=FakeClock())

    def put(key, origin="miss"):
        level.put(key, Stored(1, 0.0, math.inf), origin)
        level.check()

    put("asked for")
    for number in range(4):
        put(f"warm{number}", "warmup")
    put("also asked for")
    level.get("warm2")
    put("new")
    assert residents(level) == {"asked for", "also asked for", "new", "warm1", "warm2", "warm3"}
    put("warm2", "warmup")  # renewed: it was used, although its hits are halved to none
    for number in range(2):
        put(f"new{number}")
    assert {"asked for", "also asked for", "new", "warm2"} <= residents(level)
    assert not {"warm1", "warm3"} & residents(level)


@pytest.mark.parametrize("name", ["clock", "s3fifo"])
def test_a_scan_ends_even_if_every_flag_stays_set(name):
    class Sticky:
        __slots__ = ("charged", "expires", "keep_ghost", "next", "prev", "queue", "was_ghost")
        weight = 1
        ref = property(lambda self: 3, lambda self, value: None)

    policy = POLICIES[name]()
    policy.attach(MemoryLevel(POLICIES[name], capacity=5))
    entries = [Sticky() for _ in range(6)]
    for entry in entries:
        entry.was_ghost = False
        policy.on_insert(entry, 0.0, "miss")
    assert policy.evict(0.0) in entries


def test_a_roll_out_halves_the_counts_of_lfu():
    level = MemoryLevel(LFU, capacity=3)
    for key, hits in (("a", 9), ("b", 1), ("c", 0)):
        level.put(key, Stored(1, 0.0, float("inf")))
        for _ in range(hits):
            level.get(key)
    level._policy.on_generation("recserve", 1, 2)
    level.check()
    counts = {entry.key: entry.base + entry.uses for entry in level._policy._queue}
    assert counts == {"a": 5, "b": 1, "c": 1}
    for left in ("b", "c"):  # equals by their last use, which was before c came
        level.put(f"instead of {left}", Stored(1, 0.0, math.inf))
        assert left not in residents(level)


@pytest.mark.parametrize("name", ["lru", "lfu"])
def test_dead_references_stay_in_bounds(name):
    level = MemoryLevel(POLICIES[name], capacity=10)
    for number in range(3000):
        level.put(f"k{number % 13}", Stored(1, 0.0, math.inf))
        level.get(f"k{(number * 7) % 13}")
        level.remove(f"k{(number * 5) % 13}")
        level.check()


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
