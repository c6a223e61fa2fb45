"""The breaker, and a level behind one."""

import os
import threading

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import floats, integers

from cache_app.core import breaker as module
from cache_app.core.breaker import Breaker, GuardedLevel, PartlyUnavailable, PoolExhausted
from cache_app.core.levels import Levels, Stored
from plugins.errors import LevelUnavailable
from tests.fakes import FailingLevel, FakeClock, FakeLevel

pytestmark = pytest.mark.contract("C12")

STORED = Stored("a", 1_000_000.0, 1_000_060.0)
FAILURES, OPEN_SECONDS = 3, 1.0


class Machine(RuleBasedStateMachine):
    """Calls of several threads that start and end in any order, against the rules in words."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.caller = 0
        self.real_ident = module.get_ident
        module.get_ident = lambda: self.caller
        self.breaker = Breaker(failures=FAILURES, open_seconds=OPEN_SECONDS, clock=self.clock)
        self.running: dict[int, str] = {}  # caller → "normal" or "probe"
        self.in_a_row = 0
        self.open_until: float | None = None

    def teardown(self):
        module.get_ident = self.real_ident

    @property
    def probing(self):
        return "probe" in self.running.values()

    @rule(caller=integers(0, 4))
    def start(self, caller):
        if caller in self.running:
            return
        self.caller = caller
        allowed = self.breaker.allow()
        if self.open_until is None:
            assert allowed
            self.running[caller] = "normal"
        elif self.clock.now >= self.open_until and not self.probing:
            assert allowed
            self.running[caller] = "probe"
        else:
            assert not allowed

    @precondition(lambda self: self.running)
    @rule(number=integers(0, 4))
    def succeed(self, number):
        caller = sorted(self.running)[number % len(self.running)]
        self.caller = caller
        self.breaker.succeeded()
        if self.running.pop(caller) == "probe":
            self.open_until = None
        if self.open_until is None:
            self.in_a_row = 0

    @precondition(lambda self: self.running)
    @rule(number=integers(0, 4))
    def fail(self, number):
        caller = sorted(self.running)[number % len(self.running)]
        self.caller = caller
        self.breaker.failed()
        if self.running.pop(caller) == "probe":
            self.open_until = self.clock.now + OPEN_SECONDS
        elif self.open_until is None:
            self.in_a_row += 1
            if self.in_a_row == FAILURES:
                self.open_until = self.clock.now + OPEN_SECONDS

    @precondition(lambda self: self.running)
    @rule(number=integers(0, 4))
    def abandon(self, number):
        caller = sorted(self.running)[number % len(self.running)]
        self.caller = caller
        self.breaker.abandoned()
        del self.running[caller]  # and nothing else: a probe is still due

    @rule(seconds=floats(0, 2 * OPEN_SECONDS))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def the_state_is_what_the_rules_say(self):
        if self.open_until is None:
            expected = "closed"
        elif self.probing or self.clock.now >= self.open_until:
            expected = "half_open"
        else:
            expected = "open"
        assert self.breaker.state == expected


TestBreaker = Machine.TestCase
TestBreaker.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def opened(clock):
    breaker = Breaker(failures=1, open_seconds=OPEN_SECONDS, clock=clock)
    assert breaker.allow()
    breaker.failed()
    return breaker


def test_of_many_threads_one_probes():
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(OPEN_SECONDS)
    barrier = threading.Barrier(16)
    allowed = []

    def ask():
        barrier.wait()
        allowed.append(breaker.allow())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(allowed) == [False] * 15 + [True]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_waits_for_no_probe_of_its_parent():
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(OPEN_SECONDS)
    assert breaker.allow()
    with breaker._lock:
        child = os.fork()
        if not child:
            os._exit(0 if breaker.allow() and breaker.state == "closed" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert breaker.state == "half_open"


class CountingLevel(FakeLevel):
    """A level that counts its calls, and raises what a test says."""

    error: Exception | None = None
    calls = 0

    def get(self, key, /):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return super().get(key)


def test_a_level_that_fails_is_left_alone_and_tried_again():
    clock = FakeClock()
    level = CountingLevel()
    guarded = GuardedLevel(level, Breaker(failures=2, open_seconds=1.0, clock=clock))
    guarded.put("a", STORED, "miss")
    assert guarded.get("a") == STORED
    level.error = LevelUnavailable("down")
    for _ in range(2):
        with pytest.raises(LevelUnavailable, match="down"):
            guarded.get("a")
    for call in (
        lambda: guarded.get("a"),
        lambda: guarded.put("a", STORED, "miss"),
        lambda: guarded.remove("a"),
        lambda: guarded.remove_where(bool),
        guarded.clear,
    ):
        with pytest.raises(LevelUnavailable, match="l2 failed a moment ago"):
            call()
    assert level.calls == 3
    stats = guarded.stats()
    assert (stats.state, stats.refused) == ("open", 6)  # the question for its counts too
    clock.advance(1.0)
    assert guarded.stats().state == "closed"  # asking for the counts was the probe
    level.error = None
    assert guarded.get("a") == STORED
    assert guarded.remove("a")
    guarded.put("a", STORED, "miss")
    assert guarded.remove_where(lambda key: key == "a") == 1
    assert guarded.clear() == 0


def test_a_part_that_is_away_does_not_take_the_whole_away():
    level = CountingLevel()
    guarded = GuardedLevel(level, Breaker(failures=1, clock=FakeClock()))
    level.error = PartlyUnavailable("one of three nodes is away")
    for _ in range(3):
        with pytest.raises(PartlyUnavailable):
            guarded.get("a")
    assert guarded.breaker.state == "closed"


def test_that_nobody_was_asked_decides_nothing():
    clock = FakeClock()
    level = CountingLevel()
    guarded = GuardedLevel(level, Breaker(failures=1, open_seconds=1.0, clock=clock))
    level.error = PoolExhausted("all connections are in use")
    for _ in range(3):
        with pytest.raises(PoolExhausted):
            guarded.get("a")
        assert guarded.breaker.state == "closed"
    level.error = LevelUnavailable("down")
    with pytest.raises(LevelUnavailable, match="down"):
        guarded.get("a")
    clock.advance(1.0)
    level.error = PoolExhausted("all connections are in use")
    for _ in range(2):  # the first did not take the probe away
        with pytest.raises(PoolExhausted):
            guarded.get("a")
        assert guarded.breaker.state == "half_open"
    level.error = None
    assert guarded.get("a") is None
    assert guarded.breaker.state == "closed"


def test_a_probe_ends_whatever_it_meets():
    clock = FakeClock()
    level = CountingLevel()
    guarded = GuardedLevel(level, Breaker(failures=1, open_seconds=1.0, clock=clock))
    level.error = ZeroDivisionError()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            guarded.get("a")
        assert guarded.breaker.state == "open"
        clock.advance(1.0)
    level.error = None
    assert guarded.get("a") is None
    assert guarded.breaker.state == "closed"


def test_the_counts_seen_last_stay_while_the_level_is_down():
    level = FakeLevel()
    guarded = GuardedLevel(level, Breaker(failures=1, clock=FakeClock()))
    guarded.put("a", STORED, "miss")
    assert guarded.stats().entries == 1
    guarded.level = FailingLevel()
    assert guarded.stats().state == "open"
    stats = Levels([guarded]).stats()["l2"]
    assert (stats.entries, stats.state, stats.errors) == (1, "open", 0)
