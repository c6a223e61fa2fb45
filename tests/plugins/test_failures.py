"""What plugins do wrong is counted, and switches them off if it comes too often."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.failures import Failures, PartFailures, summed

pytestmark = pytest.mark.contract("O7")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def failures(clock):
    return Failures(limit=3, window=10.0, clock=clock)


def test_what_fails_again_and_again_is_switched_off(failures, clock, caplog):
    assert not failures.note("mine", "fallback", ValueError("no\n items"))
    assert not failures.note("mine", "fallback", "it returned a list")
    assert not failures.is_off("mine", "fallback")
    clock.now += 10.0
    assert failures.note("mine", "fallback", ValueError("again"))
    assert failures.is_off("mine", "fallback")
    assert not failures.is_off("mine", "executor x")
    assert not failures.is_off("other", "fallback")
    assert failures.by_plugin() == {
        "mine": {"fallback": PartFailures(3, "ValueError: again", 1010.0, 1)}
    }
    assert "fallback failed (1): ValueError: no items" in caplog.text
    assert "is switched off in this process, after 3 failures within 10 s" in caplog.text


def test_what_fails_now_and_then_stays_on(failures, clock):
    for _ in range(100):
        assert not failures.note("mine", "fallback", "wrong")
        clock.now += 5.1
    assert failures.by_plugin()["mine"]["fallback"].failures == 100


def test_an_operator_switches_it_on_and_it_may_fail_as_often_again(failures):
    assert not failures.switch_on("mine"), "nothing is off"
    for _ in range(3):
        failures.note("mine", "fallback", "wrong")
        failures.note("other", "fallback", "wrong")
    assert failures.switch_on("mine")
    assert not failures.is_off("mine", "fallback")
    assert failures.is_off("other", "fallback")
    assert failures.by_plugin()["mine"]["fallback"] == PartFailures(3, "wrong", 1000.0, 0)
    assert [failures.note("mine", "fallback", "wrong") for _ in range(3)] == [False, False, True]


def test_what_nothing_can_be_done_without_is_only_counted(failures):
    for _ in range(10):
        assert not failures.note("mine", "feature source x", "wrong", switches_off=False)
    assert failures.by_plugin()["mine"]["feature source x"].failures == 10


def test_with_a_limit_of_0_nothing_is_switched_off(clock):
    failures = Failures(limit=0, clock=clock)
    assert not any(failures.note("mine", "fallback", "wrong") for _ in range(1000))


def test_what_fails_at_every_request_does_not_fill_the_log(clock, caplog):
    failures = Failures(limit=0, clock=clock)
    for _ in range(1000):
        failures.note("mine", "fallback", ValueError("x" * 10_000))
    assert len(caplog.records) == 3 + 8  # 1, 2, 3, then 4, 8, … 512
    assert max(len(record.getMessage()) for record in caplog.records) < 400


def test_several_processes_are_summed_and_the_last_error_is_told():
    one = {"a": {"x": PartFailures(2, "old", 1.0, 1)}}
    two = {"a": {"x": PartFailures(3, "new", 2.0, 1), "y": PartFailures(1, "only", 0.0, 0)}}
    assert summed([one, {}, two]) == {
        "a": {"x": PartFailures(5, "new", 2.0, 2), "y": PartFailures(1, "only", 0.0, 0)}
    }
    assert summed([two, one]) == summed([one, two])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("note"), st.sampled_from("ab"), st.sampled_from("xy")),
        st.tuples(st.just("wait"), st.floats(0, 8), st.none()),
        st.tuples(st.just("on"), st.sampled_from("ab"), st.none()),
    ),
    max_size=60,
)


@given(steps=steps, limit=st.integers(0, 4))
def test_it_does_what_its_definition_says(steps, limit):
    """Off: there were `limit` failures within 10 s since it was last switched on."""
    clock = Clock()
    failures = Failures(limit=limit, window=10.0, clock=clock)
    noted, off, counted = {}, set(), {}
    for what, one, other in steps:
        if what == "wait":
            clock.now += one
        elif what == "on":
            assert failures.switch_on(one) == any(where[0] == one for where in off)
            off = {where for where in off if where[0] != one}
        else:
            where = (one, other)
            counted[where] = counted.get(where, 0) + 1
            if where not in off:
                mine = noted.setdefault(where, [])
                mine.append(clock.now)
                if limit and len(mine) >= limit and clock.now - mine[-limit] <= 10.0:
                    off.add(where)
                    mine.clear()
            assert failures.note(one, other, "wrong") == (where in off)
        for where in [(p, q) for p in "ab" for q in "xy"]:
            assert failures.is_off(*where) == (where in off)
        found = failures.by_plugin()
        assert {(p, q): one.failures for p, parts in found.items() for q, one in parts.items()} == (
            counted
        )
        assert {(p, q) for p, parts in found.items() for q, one in parts.items() if one.off} == off
