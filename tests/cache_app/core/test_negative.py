import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_app.core.negative import NegativeEntries, NegativeStats
from plugins import InferenceError, InvalidInput, ModelNotFound
from tests.fakes import FakeClock

pytestmark = pytest.mark.contract("C11")

UNKNOWN = InvalidInput("nobody knows u", field="user_id")


def test_a_refusal_is_remembered_for_its_time_and_counted():
    clock = FakeClock()
    negative = NegativeEntries(10.0, clock=clock)
    assert negative.find("k") is None
    negative.remember("k", UNKNOWN)
    first, second = negative.find("k"), negative.find("k")
    assert first is not second
    assert (str(first), first.field, first.source) == ("nobody knows u", "user_id", "negative")
    assert UNKNOWN.source == ""
    assert negative.stats() == NegativeStats(entries=1, hits=2, insertions=1)
    clock.advance(10)
    assert negative.find("k") is None
    assert negative.stats() == NegativeStats(entries=0, hits=2, insertions=1)


@pytest.mark.parametrize("error", [InferenceError("broken"), ModelNotFound("m"), ValueError("v")])
def test_what_may_pass_is_not_remembered(error):
    negative = NegativeEntries(10.0)
    negative.remember("k", error)
    assert negative.find("k") is None


def test_without_a_time_nothing_is_remembered():
    negative = NegativeEntries()
    negative.remember("k", UNKNOWN)
    assert negative.find("k") is None
    assert negative.stats() == NegativeStats()


class AgainstAList(RuleBasedStateMachine):
    """The oldest leaves first, expired ones are not found, and there are never too many."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock(0.0)
        self.negative = NegativeEntries(10.0, capacity=3, clock=self.clock)
        self.model = []

    @rule(key=st.sampled_from("abcde"))
    def remember(self, key):
        self.negative.remember(key, UNKNOWN)
        alive = [(k, at) for k, at in self.model if at + 10 > self.clock() and k != key]
        self.model = [*alive[-2:], (key, self.clock())]

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def the_same_is_found(self):
        alive = {key for key, at in self.model if at + 10 > self.clock()}
        assert {key for key in "abcde" if self.negative.find(key)} == alive
        assert self.negative.stats().entries == len(alive)


TestAgainstAList = AgainstAList.TestCase
TestAgainstAList.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
