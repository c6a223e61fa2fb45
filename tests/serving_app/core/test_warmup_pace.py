"""How fast a warm-up goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_app.core.warmup_pace import Load, Pace
from tests.fakes import FakeClock

pytestmark = pytest.mark.contract("W2")


class World:
    """Time that passes when somebody waits, and a model with a queue."""

    def __init__(self, **given):
        self.clock = FakeClock()
        self.load = Load(0, 0)
        self.looks = iter(())
        self.stopped = False
        self.pace = Pace(
            load=lambda: next(self.looks, self.load), pause=self.pause, clock=self.clock, **given
        )

    def pause(self, seconds):
        assert seconds >= 0
        if not self.stopped:
            self.clock.advance(seconds)
        return not self.stopped

    def batches(self, n, *, size=10, takes=0.01):
        began = self.clock()
        for _ in range(n):
            assert self.pace.wait()
            self.clock.advance(takes)
            self.pace.went(size, takes)
        return self.clock() - began


def test_the_rate_is_kept():
    took = World(rate=50.0, share=1.0).batches(11)
    assert took == pytest.approx(10 * 10 / 50 + 0.01)


def test_the_model_has_the_rest_of_the_time():
    took = World(rate=1e9, share=0.1).batches(11, takes=0.05)
    assert took == pytest.approx(10 * 0.5 + 0.05)


@given(
    rate=st.floats(0.1, 1e4),
    share=st.floats(0.01, 1.0),
    size=st.integers(1, 64),
    takes=st.floats(0.0001, 1.0),
    running=st.booleans(),
)
def test_neither_ceiling_is_broken(rate, share, size, takes, running):
    world = World(rate=rate, share=share)
    world.load = Load(0, int(running))
    took = world.batches(20, size=size, takes=takes)
    assert 19 * size <= rate * took * (1 + 1e-9) + 1e-6
    assert 19 * takes <= share * took * (1 + 1e-9) + 1e-6 + takes


def test_the_busier_the_slower_and_the_speed_comes_back():
    world = World(rate=50.0, share=1.0)
    idle = world.batches(50)
    world.load = Load(0, 1)
    busy = world.batches(50)
    world.load = Load(0, 0)
    world.batches(50)
    assert busy > 5 * idle
    assert world.batches(50) < 1.1 * idle


def test_nothing_goes_while_others_wait():
    world = World(rate=1e9, share=1.0)
    world.looks = iter([Load(1, 1)] * 5 + [Load(0, 1)])
    began = world.clock()
    assert world.pace.wait()
    assert world.clock() - began == pytest.approx(0.02 * (1 + 2 + 4 + 8 + 16))
    assert world.pace.yielded == 5


def test_who_is_told_to_stop_does():
    world = World(rate=1.0, share=1.0)
    world.load = Load(1, 1)
    world.stopped = True
    assert world.pace.wait() is False


def test_a_model_that_cannot_be_looked_at_is_no_obstacle():
    world = World(rate=1e9, share=1.0)
    world.load = None
    assert world.pace.wait()
    assert world.pace.busy == 0
