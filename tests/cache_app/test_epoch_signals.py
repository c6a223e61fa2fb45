"""What a process sees change when there may be a new epoch."""

import pytest

from cache_app.epoch_file import EpochFile
from cache_app.epoch_signals import EpochSignals
from tests.fakes import FakeClock

pytestmark = pytest.mark.contract("C8")


class FakeBus:
    """A bus that says what the test says."""

    def __init__(self, heard):
        self.heard = heard
        self.connected = True
        self.published = []

    def publish(self, epoch):
        self.published.append(epoch)
        return self.connected


@pytest.fixture
def clock():
    return FakeClock()


def test_without_file_and_bus_nothing_ever_changes(clock):
    signals = EpochSignals(None, None, clock=clock)
    before = signals.hint()
    signals.tell(7)
    clock.advance(10)
    assert signals.hint() == before


def test_processes_of_one_file_see_what_one_tells(tmp_path, clock):
    one, two = (EpochSignals(EpochFile(tmp_path / "epoch"), None, clock=clock) for _ in "ab")
    before = two.hint()
    one.tell(7)
    assert two.hint() != before
    one.close()
    two.close()


def test_what_the_bus_says_is_passed_on_to_the_host(tmp_path, clock):
    file = EpochFile(tmp_path / "epoch")
    signals = EpochSignals(file, FakeBus, clock=clock)
    neighbour = EpochSignals(EpochFile(tmp_path / "epoch"), None, clock=clock)
    before, before_there = signals.hint(), neighbour.hint()
    signals._bus.heard(9)
    assert signals.hint() != before
    assert neighbour.hint() != before_there
    signals.tell(12)
    assert (file.read(), signals._bus.published) == (12, [12])


def test_every_word_of_the_bus_is_a_change_even_that_something_may_be_missed(clock):
    signals = EpochSignals(None, FakeBus, clock=clock)
    hints = [signals.hint()]
    for epoch in (0, 5, 5, 3, 0):
        signals._bus.heard(epoch)
        hints.append(signals.hint())
    assert len(set(hints)) == len(hints)


def test_who_cannot_hear_looks_every_few_milliseconds(clock):
    signals = EpochSignals(None, FakeBus, clock=clock)
    sure = signals.hint()
    signals._bus.connected = False
    hints = set()
    for _ in range(50):
        clock.advance(0.0051)
        hints.add(signals.hint())
    assert len(hints) == 50
    assert sure not in hints
    signals._bus.connected = True
    assert signals.hint() == sure
