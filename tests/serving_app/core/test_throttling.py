import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_app.core.throttling import LocalRates, Rate, rate
from tests.fakes import FakeClock


def test_a_rate_is_read():
    assert rate("20/s") == Rate(20, 1.0)
    assert rate("100/min").interval == 0.6
    assert rate("5000/day") == Rate(5000, 86400.0)
    for wrong in ("20", "0/s", "-1/s", "1/fortnight", "1 / s", "1.5/s", "1/s\n", 20, None):
        with pytest.raises(ValueError, match="no rate"):
            rate(wrong)


@pytest.mark.contract("A5")
def test_the_burst_passes_and_then_one_in_each_interval():
    clock = FakeClock()
    rates = LocalRates(clock=clock)
    each = Rate(5, 10.0)
    assert [rates.take("a", each) for _ in range(5)] == [0.0] * 5
    assert rates.take("a", each) == pytest.approx(2.0)
    assert rates.take("a", each) == pytest.approx(2.0), "who was refused does not wait longer"
    assert rates.take("b", each) == 0.0, "others are not concerned"
    clock.advance(2.0)
    assert rates.take("a", each) == 0.0
    assert rates.take("a", each) > 0
    assert rates.take("a", each, cost=3) == pytest.approx(6.0)


def test_a_cost_above_the_rate_counts_as_all_of_it():
    clock = FakeClock()
    rates = LocalRates(clock=clock)
    assert rates.take("a", Rate(5, 10.0), cost=256) == 0.0
    assert rates.take("a", Rate(5, 10.0)) == pytest.approx(2.0)


@pytest.mark.contract("A5")
@given(
    requests=st.integers(1, 20),
    seconds=st.sampled_from([0.1, 1.0, 60.0]),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5)), max_size=60),
)
def test_never_more_than_the_rate_and_the_wait_is_the_truth(requests, seconds, steps):
    clock = FakeClock()
    rates = LocalRates(clock=clock)
    each = Rate(requests, seconds)
    begun, passed = clock(), 0
    for factor, cost in steps:
        clock.advance(factor * each.interval)
        wait = rates.take("a", each, cost)
        if wait:
            clock.advance(wait)
            assert rates.take("a", each, cost) == 0.0, "after the wait it passes"
        passed += min(cost, requests)
        allowed = requests + (clock() - begun) / each.interval
        assert passed <= allowed * (1 + 1e-6) + 1e-6


def test_no_more_callers_are_remembered_than_the_capacity():
    rates = LocalRates(capacity=2, clock=FakeClock())
    for name in "abc":
        rates.take(name, Rate(1, 1.0))
    assert rates.take("a", Rate(1, 1.0)) == 0.0
    assert rates.take("c", Rate(1, 1.0)) > 0
