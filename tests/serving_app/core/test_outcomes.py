from concurrent.futures import Future

import pytest

from plugins import InferenceError, InvalidInput
from serving_app.core.outcomes import OutcomeCounts, Outcomes
from tests.fakes import FakeClock

pytestmark = pytest.mark.contract("S14")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def outcomes(clock):
    return Outcomes(10.0, clock=clock)


def counted(outcomes):
    counts = outcomes.counts()
    return counts.requests, counts.errors, counts.seconds.count


def begun(outcomes):
    computation = Future()
    outcomes.watch(computation)
    return computation


def test_computations_count_by_how_they_end(outcomes, clock):
    fine, failed, bad, gone = (begun(outcomes) for _ in range(4))
    assert counted(outcomes) == (0, 0, 0)
    clock.advance(2)
    fine.set_result("ranking")
    failed.set_exception(InferenceError("broken"))
    bad.set_exception(InvalidInput("wrong", field="x"))
    gone.cancel()
    outcomes.failed()
    assert counted(outcomes) == (3, 2, 1)
    assert outcomes.counts().seconds.total == 2.0


def test_one_that_never_ends_is_an_error_once_it_is_late_and_counts_once(outcomes, clock):
    hangs = begun(outcomes)
    clock.advance(9.9)
    assert counted(outcomes) == (0, 0, 0)
    clock.advance(0.2)
    assert counted(outcomes) == (1, 1, 0)
    hangs.set_result("at last")
    assert counted(outcomes) == (1, 1, 0)


def test_counts_of_processes_add_up(outcomes):
    begun(outcomes).set_result("ranking")
    outcomes.failed()
    both = OutcomeCounts.merged([outcomes.counts(), outcomes.counts()])
    assert (both.requests, both.errors, both.seconds.count) == (4, 2, 2)
