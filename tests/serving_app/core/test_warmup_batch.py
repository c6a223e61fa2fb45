"""One batch: what is wrong with one is no other's affair, and it can be stopped."""

import threading
from concurrent.futures import CancelledError

import pytest

from cache_app.core.levels import Known
from cache_app.core.single_flight import Flight
from plugins import (
    BatchTimes,
    InferenceError,
    InvalidInput,
    ModelNotReady,
    QueueFull,
    RecommendationRequest,
)
from serving_app.core.warming import Warming
from serving_app.core.warmup_batch import Ending, warm_batch
from serving_app.core.warmup_plan import Planned
from tests.fakes import FakeClock

pytestmark = pytest.mark.contract("W2")


def flight(result=None, *, error=None, note=None):
    made = Flight()
    made.set_running_or_notify_cancel()
    made.note = note
    if error is not None:
        made.set_exception(error)
    elif result is not None:
        made.set_result(result)
    return made


def run(warmings, *, stopped=lambda: False, timeout=5.0, **more):
    """Warm users 0, 1, …; each gets what stands in its place."""

    def warm(planned):
        each = warmings[planned.request.user_id]
        if isinstance(each, Exception):
            raise each
        return each if isinstance(each, Warming) else Warming(None, each)

    planned = [Planned(RecommendationRequest(i), str(i), 1.0, {}) for i in range(len(warmings))]
    return warm_batch(planned, warm, stopped=stopped, timeout=timeout, **more)


def test_each_has_its_own_end():
    times = BatchTimes(size=4, queued=0.1, ran=0.2)
    outcomes = run(
        [
            flight("ranking", note=times),
            InvalidInput("no such user", field="user_id"),
            Warming(Known("ranking", created=90.0, fresh_for=5.0), None),
            flight(error=QueueFull("full", retry_after=3.0)),
            flight(error=InferenceError("broken")),
            ModelNotReady("away"),
            RuntimeError("a plugin's"),
            flight("ranking"),
            flight(error=CancelledError()),
        ],
        wall=lambda: 100.0,
    )
    assert [each.ending.value for each in outcomes] == [
        *("warmed", "error", "fresh", "refused", "error", "refused", "error", "fresh", "left")
    ]
    assert outcomes[0].seconds == pytest.approx(0.05)
    assert outcomes[2].age == 10.0
    assert outcomes[3].retry_after == 3.0
    assert "no such user" in outcomes[1].problem
    assert "a plugin's" in outcomes[6].problem


def test_what_is_under_way_when_it_is_told_to_stop_is_left():
    left, told = [], threading.Event()
    told.set()
    waiting = Warming(None, flight(), lambda: left.append(1))
    calls = iter([False, True])
    outcomes = run([waiting, waiting], stopped=lambda: next(calls, True))
    assert [each.ending for each in outcomes] == [Ending.LEFT, Ending.LEFT]
    assert left == [1], "the second was not even started"


def test_what_takes_too_long_is_not_waited_for():
    clock = FakeClock()
    left = []

    def leave():
        left.append(1)

    def late():
        clock.advance(10)
        return clock()

    (outcome,) = run([Warming(None, flight(), leave)], clock=late, timeout=5.0)
    assert (outcome.ending, left) == (Ending.REFUSED, [1])
