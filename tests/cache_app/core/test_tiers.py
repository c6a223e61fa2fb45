"""Hot, warm and cold."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_app.core.levels import Levels, Stored
from cache_app.core.memory import MemoryLevel
from cache_app.core.tiers import TIERS, TierRule, Tiers
from plugins.eviction.builtin import recserve_eviction_policies
from plugins.eviction.sieve import SIEVE
from tests.fakes import FakeClock, FakeLevel

pytestmark = pytest.mark.contract("C2")

RULES = Tiers(
    hot_uses=4,
    cool_after=100.0,
    hot=TierRule(ttl=1.5),
    warm=TierRule(levels=frozenset({"l1", "l2"})),
    cold=TierRule(ttl=0.5, levels=frozenset({"l2"})),
)


@pytest.fixture
def clock():
    return FakeClock()


def cache(clock, rules=RULES, policy=SIEVE, capacity=10):
    names = ["l1", "l2", "l3"]
    l1 = MemoryLevel(
        policy,
        capacity=capacity,
        clock=clock,
        rng=Random(0),
        tiers=rules,
        keeps=[tier for tier in TIERS if "l1" in rules.held_by(tier, names)],
        size_of=len,
    )
    below = FakeLevel("l2"), FakeLevel("l3")
    return Levels([l1, *below], clock=clock, tiers=rules, tier_of=l1.tier_of), l1, *below


def test_a_tier_goes_by_hits_and_by_idleness():
    assert RULES.of(3, 0.0) == "warm"
    assert RULES.of(4, 0.0) == "hot"
    assert RULES.of(2, 0.0, "hot") == "hot", "half of the hits keep it hot"
    assert RULES.of(1, 0.0, "hot") == "warm"
    assert RULES.of(99, 100.0, "hot") == "cold"
    assert RULES.of(0, 0.0, "cold") == "warm"


@given(
    st.integers(0, 50),
    st.floats(0, 300),
    st.sampled_from(TIERS),
    st.integers(0, 20),
    st.floats(0, 100),
)
def test_more_use_never_makes_it_colder(uses, idle, before, more, sooner):
    order = TIERS[::-1]
    least = order.index(RULES.of(uses, idle, before))
    assert order.index(RULES.of(uses + more, max(0.0, idle - sooner), before)) >= least


def test_an_entry_is_somewhere_whatever_the_rules_say():
    assert Tiers().held_by("cold", ["l1"]) == {"l1"}
    assert Tiers().held_by("cold", ["l1", "l2", "l3"]) == {"l2"}
    assert Tiers().held_by("hot", ["l1", "l3"]) == {"l1", "l3"}
    assert Tiers().held_by("hot", []) == set()


def test_no_tier_is_fresh_for_longer_than_a_value_is_kept():
    assert Tiers(hot=TierRule(ttl=5.0)).ttl("hot", 60.0, 30.0) == 90.0
    assert RULES.ttl("cold", 60.0, 30.0) == 30.0


def test_a_hot_entry_is_renewed_for_longer_and_in_every_level(clock):
    levels, l1, _l2, l3 = cache(clock)
    levels.store("a", "old", ttl=60, stale=60)
    assert (l1.tier_of("a"), set(l3.table)) == ("warm", set())
    for _ in range(4):
        levels.find("a")
    assert l1.tier_of("a") == "hot"
    levels.store("a", "new", ttl=60, stale=60)
    assert l3.table["a"].fresh_until == clock.now + 90
    assert l3.table["a"].expires == clock.now + 120, "the hard expiry is everyone's"
    clock.advance(80)
    assert levels.find("a") == ("new", "l1", clock.now - 80, clock.now + 40, 0.0)


def test_what_cools_leaves_l1_and_comes_back_when_somebody_asks(clock):
    levels, l1, _l2, _l3 = cache(clock)
    levels.store("a", "value", ttl=200, stale=300)
    for _ in range(9):
        levels.find("a")
    clock.advance(99.9)
    l1.sweep()
    assert (l1.stats().hot, l1.stats().cooled, len(l1)) == (1, 0, 1)
    clock.advance(0.1)
    l1.sweep()
    assert (l1.stats().hot, l1.stats().cooled, len(l1)) == (0, 1, 0)
    assert l1.stats().hits == 9, "hits are counted after their entry has gone"
    assert levels.find("a")[:2] == ("value", "l2")
    assert levels.find("a")[:2] == ("value", "l1")
    l1.sweep()
    assert (l1.stats().hot, l1.stats().warm) == (0, 1)


def test_what_is_renewed_though_nobody_asks_is_stored_where_cold_entries_are(clock):
    levels, l1, l2, _l3 = cache(clock)
    levels.store("a", "old", ttl=300, stale=300, origin="warmup")
    assert len(l1) == 1, "who was never asked for is given a chance first"
    clock.advance(100)
    levels.store("a", "new", ttl=300, stale=300, origin="warmup")
    assert len(l1) == 0
    assert l2.table["a"].fresh_until == clock.now + 150
    assert levels.find("a")[:2] == ("new", "l2")


def test_all_that_is_known_of_an_entry(clock):
    levels, l1, *_ = cache(clock)
    levels.store("a", "value", ttl=60, stale=60)
    start = clock.now
    clock.advance(5)
    levels.find("a")
    found = l1.describe("a")
    assert (found.key, found.value, found.size, found.tier) == ("a", "value", 5, "warm")
    assert (found.created, found.ttl, found.fresh_until) == (start, 60.0, start + 60)
    assert (found.expires, found.uses, found.last_used) == (start + 120, 1, start + 5)
    assert l1.describe("b") is None


def test_hits_are_halved_at_each_renewal(clock):
    levels, l1, *_ = cache(clock)
    levels.store("a", "value", ttl=60)
    for _ in range(9):
        levels.find("a")
    for uses in (4, 2, 1, 0):
        levels.store("a", "value", ttl=60)
        assert l1.describe("a").uses == uses
    assert l1.stats().hits == 9
    assert l1.tier_of("a") == "warm"


KEYS = [f"k{number}" for number in range(6)]


class TierMachine(RuleBasedStateMachine):
    """The levels beside a list of what was asked, from which all is worked out anew."""

    policy: type

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.levels, self.l1, self.l2, self.l3 = cache(
            self.clock, policy=self.policy, capacity=len(KEYS)
        )
        self.use = {}  # of what L1 has: hits, last use, tier
        self.value = {}  # what was stored last, with its instants
        self.number = 0

    def tier(self, key):
        if key not in self.use or key not in self.value:
            return "warm"
        uses, used, before = self.use[key]
        return RULES.of(uses, self.clock() - used, before)

    def expired(self, key):
        return key not in self.value or self.value[key][2] <= self.clock()

    @rule(key=st.sampled_from(KEYS), ttl=st.sampled_from([8.0, 60.0]))
    def store(self, key, ttl):
        self.number += 1
        tier = self.tier(key)
        self.levels.store(key, self.number, ttl=ttl, stale=200.0)
        now = self.clock()
        fresh = now + {"hot": 1.5, "warm": 1.0, "cold": 0.5}[tier] * ttl
        self.value[key] = (self.number, fresh, now + ttl + 200.0)
        if tier == "cold":
            self.use.pop(key, None)
        elif key in self.use:
            uses, used, _ = self.use[key]
            self.use[key] = (uses // 2, used, tier)
        else:
            self.use[key] = (0, None, "warm")
        if key in self.use and self.use[key][1] is None:
            self.use[key] = (0, now, "warm")
        holders = {level.name for level in (self.l2, self.l3) if key in level.table}
        assert holders == ({"l2", "l3"} if tier == "hot" else {"l2"})

    @rule(key=st.sampled_from(KEYS))
    def find(self, key):
        found = self.levels.find(key)
        now = self.clock()
        if self.expired(key):
            assert found is None
            self.use.pop(key, None)
            return
        number, fresh, expires = self.value[key]
        assert (found.value, found.expires) == (number, expires)
        assert found.stale_for == max(0.0, now - fresh)
        if key in self.use:
            uses, _, before = self.use[key]
            self.use[key] = (uses + 1, now, before)
            assert found.level == "l1"
        else:
            assert found.level == "l2"
            if fresh > now:
                self.use[key] = (0, now, "warm")

    @rule(seconds=st.sampled_from([1.0, 10.0, 50.0, 100.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def sweep(self):
        self.l1.sweep()
        counts = dict.fromkeys(TIERS, 0)
        for key in list(self.use):
            tier = self.tier(key)
            if tier == "cold":
                del self.use[key]
            else:
                counts[tier] += 1
                self.use[key] = (*self.use[key][:2], tier)
        stats = self.l1.stats()
        assert {tier: getattr(stats, tier) for tier in TIERS} == counts

    @invariant()
    def l1_has_what_was_used(self):
        self.l1.check()
        assert set(self.l1._entries) == set(self.use)
        for key in self.use:
            assert self.l1.tier_of(key) == self.tier(key)


@pytest.mark.parametrize("name", sorted(recserve_eviction_policies()))
def test_tiers_are_what_a_log_of_all_use_says(name):
    policy = recserve_eviction_policies()[name]
    case = type("Machine", (TierMachine,), {"policy": policy}).TestCase
    case.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
    case("runTest").runTest()


@pytest.mark.contract("C1")
def test_a_value_that_leaves_l1_while_it_is_looked_up_is_a_miss_there(clock):
    levels, l1, l2, _ = cache(clock)
    get = l1.get

    def leaves(key):
        entry = get(key)
        l1.remove(key)
        return entry

    l1.get = leaves
    levels.store("a", "value", ttl=60)
    assert levels.find("a")[:2] == ("value", "l2")
    l2.table.clear()
    l1.put("a", Stored("value", clock.now, clock.now + 9))
    assert levels.find("a") is None
