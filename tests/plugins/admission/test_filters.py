"""Admission filters, alone and with every policy."""

import math
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_app.core.levels import Stored
from cache_app.core.memory import MemoryLevel
from plugins.admission.base import BaseAdmissionFilter
from plugins.admission.builtin import recserve_admission_filters
from plugins.admission.doorkeeper import Doorkeeper
from plugins.admission.size_limit import SizeLimit
from plugins.admission.tinylfu import TinyLFU
from plugins.conformance import check_admission_filter
from plugins.eviction.builtin import recserve_eviction_policies
from plugins.eviction.lru import LRU
from plugins.options import read_options, read_summary
from tests.fakes import FakeClock

pytestmark = pytest.mark.contract("C3")

FILTERS = recserve_admission_filters()
POLICIES = recserve_eviction_policies()
OPTIONS = {"size_limit": {"max_bytes"}, "doorkeeper": {"asks", "keys"}, "tinylfu": {"keys"}}
MAKE = {
    "size_limit": lambda: SizeLimit(max_bytes=100),
    "doorkeeper": lambda: Doorkeeper(keys=64),
    "tinylfu": lambda: TinyLFU(keys=16),
}


def level_with(*filters, policy=LRU, capacity=3, **options):
    return MemoryLevel(
        policy, capacity=capacity, rng=Random(0), admission=lambda: filters, **options
    )


def put(level, key, origin="miss", value="v"):
    level.put(key, Stored(value, 0.0, math.inf), origin)
    level.check()


def residents(level):
    return {key for key, entry in level._entries.items() if entry.value is not None}


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_a_filter_passes_the_checks_and_names_its_options(name):
    check_admission_filter(MAKE[name])
    assert read_summary(FILTERS[name]).endswith(".")
    assert {option.name for option in read_options(FILTERS[name])} == OPTIONS[name]


class RefusesWarmed(BaseAdmissionFilter):
    def prefers(self, candidate, victim, now):
        return False


class SaysNothing(BaseAdmissionFilter):
    def admit(self, candidate, now):
        return None


class Raises(BaseAdmissionFilter):
    def on_generation(self, namespace, old, new):
        raise LookupError("no such generation")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (RefusesWarmed, "RefusesWarmed refuses 'k.*', which was warmed"),
        (SaysNothing, "SaysNothing answers None, not True or False"),
        (Raises, "Raises raised LookupError at .*: no such generation"),
    ],
)
def test_a_broken_filter_is_told_what_it_broke(made, message):
    with pytest.raises(AssertionError, match=message):
        check_admission_filter(made)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SizeLimit(max_bytes=0), "max_bytes"),
        (lambda: Doorkeeper(asks=16), "asks"),
        (lambda: Doorkeeper(keys=0), "keys"),
        (lambda: TinyLFU(keys=0), "keys"),
    ],
)
def test_an_option_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_value_over_the_limit_is_refused_and_its_old_one_goes():
    level = level_with(SizeLimit(max_bytes=3), size_of=len)
    put(level, "a", value="abc")
    put(level, "b", value="abcd")
    assert residents(level) == {"a"}
    put(level, "a", value="abcd")
    assert residents(level) == set()
    assert level.stats().rejected == 2


def test_the_doorkeeper_admits_a_key_at_its_second_ask():
    level = level_with(Doorkeeper())
    put(level, "a")
    assert residents(level) == set()
    put(level, "a")
    put(level, "warm", "warmup")
    assert residents(level) == {"a", "warm"}
    put(level, "a")
    assert (level.stats().rejected, level.stats().insertions) == (1, 3)
    assert Doorkeeper(asks=1).admit is not None


def test_tinylfu_lets_in_who_was_asked_for_more_often():
    level = level_with(TinyLFU())
    for key in "abc":
        put(level, key)
        level.get(key)
    for _ in range(2):
        put(level, "new")
        assert residents(level) == {"a", "b", "c"}, "each was stored once, and hit once"
    put(level, "new")
    assert residents(level) == {"b", "c", "new"}
    put(level, "warm", "warmup")
    assert residents(level) == {"c", "new", "warm"}, "what was warmed is not refused"
    stats = level.stats()
    assert (stats.rejected, stats.insertions, stats.evictions) == (2, 5, 2)


def test_hits_of_long_ago_count_less_and_less():
    clock = FakeClock()
    level = level_with(TinyLFU(keys=16), capacity=1, clock=clock)
    put(level, "old")
    for _ in range(60):
        level.get("old")
    for number in range(2000):
        clock.advance(1)
        put(level, f"k{number % 4}")
        if "old" not in residents(level):
            break
    assert 160 < number < 400, "three halvings, one in 80 to 160 asks"


def test_filters_go_together_and_each_must_agree():
    level = level_with(SizeLimit(max_bytes=3), Doorkeeper(), TinyLFU(), size_of=len)
    for _ in range(3):
        put(level, "long", value="abcd")
        put(level, "short")
    assert residents(level) == {"short"}


def test_a_policy_with_a_filter_withstands_a_scan():
    hits = {}
    for filters in ((), (TinyLFU(),)):
        level, random = level_with(*filters, capacity=100), Random(1)
        for number in range(20_000):
            key = f"hot{random.randrange(90)}" if number % 4 else f"scan{number}"
            if level.get(key) is None:
                level.put(key, Stored("v", 0.0, math.inf))
        hits[len(filters)] = level.stats().hits
    assert hits[1] > 1.1 * hits[0]


@pytest.mark.parametrize("name", ["lru", "lfu", "fifo", "ttl", "sieve", "clock", "gdsf"])
def test_an_entry_whose_newcomer_is_refused_stays_where_it_was(name):
    class RefusesNew(BaseAdmissionFilter):
        def prefers(self, candidate, victim, now):
            return not candidate.key.startswith("refused")

    left = []
    for refusing in (False, True):
        level = level_with(RefusesNew(), policy=POLICIES[name], capacity=6, clock=FakeClock())
        for number in range(6):
            put(level, f"k{number}")
        level.get("k1")
        level.get("k4")
        order = []
        for number in range(4):
            if refusing:
                put(level, f"refused{number}")
            before = residents(level)
            put(level, f"new{number}")
            order += sorted(before - residents(level))
        left.append(order)
    assert left[0] == left[1]


KEYS = [f"k{number}" for number in range(12)]


class FilterMachine(RuleBasedStateMachine):
    policy: type

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.level = level_with(
            *(make() for make in MAKE.values()),
            policy=self.policy,
            capacity=6,
            clock=self.clock,
            weigh=lambda weight: weight,
            size_of=lambda weight: 30 * weight,
        )

    @rule(
        key=st.sampled_from(KEYS),
        weight=st.integers(1, 5),
        origin=st.sampled_from(["miss", "miss", "warmup", "promotion"]),
    )
    def put(self, key, weight, origin):
        before, rejected = residents(self.level), self.level.stats().rejected
        now = self.clock()
        self.level.put(key, Stored(weight, now, now + 50), origin)
        after = residents(self.level)
        assert (key in after) == (self.level.stats().rejected == rejected)
        if weight > 3:
            assert key not in after, "it takes more than 100 bytes"
        elif origin == "warmup" or key in before:
            assert key in after

    @rule(key=st.sampled_from(KEYS))
    def get(self, key):
        self.level.get(key)

    @rule(key=st.sampled_from(KEYS))
    def remove(self, key):
        self.level.remove(key)

    @rule()
    def roll_out(self):
        self.level.on_generation("m", 0, 1)

    @rule(seconds=st.sampled_from([1.0, 60.0]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def sound(self):
        self.level.check()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_filters_and_policies_go_together(name):
    case = type("Machine", (FilterMachine,), {"policy": POLICIES[name]}).TestCase
    case.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
    case("runTest").runTest()
