"""One batch of a warm-up: started together, waited for together, each with its own end."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass

from plugins import BatchTimes, DeadlineExceeded, InferenceError, RecserveError, Unavailable
from serving_app.core.ranking import Ranking
from serving_app.core.warming import Warming
from serving_app.core.warmup_plan import Planned

__all__ = ["Ending", "Outcome", "warm_batch"]

_SLICE = 0.1
"""Seconds within which a batch hears that it shall stop."""


class Ending(enum.Enum):
    """How it went with one question."""

    WARMED = "warmed"
    FRESH = "fresh"
    """Its answer was fresh already, or another process had just computed it."""
    REFUSED = "refused"
    """The model could not take it: overloaded, late, or not live."""
    ERROR = "error"
    """The question cannot be answered, or the model failed at it."""
    LEFT = "left"
    """The run was told to stop before it was computed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one question."""

    ending: Ending
    seconds: float = 0.0
    """Its part of the model's time."""
    problem: str = ""
    retry_after: float = 0.0
    """Of a refusal: when the model may take it."""
    age: float = 0.0
    """Of an answer that was fresh: seconds since it was computed."""


def warm_batch(
    planned: Sequence[Planned],
    warm: Callable[[Planned], Warming],
    *,
    stopped: Callable[[], bool],
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> list[Outcome]:
    """Return the outcome of each question; what is wrong with one is no other's affair.

    Args:
        planned: The questions.
        warm: Starts one; raises why it cannot be.
        stopped: Whether to stop: what is queued still is then taken back.
        timeout: Seconds after which the batch is not waited for any more.
        clock: Monotonic seconds.
        wall: Wall-clock seconds.
    """
    outcomes: dict[int, Outcome] = {}
    under_way: dict[int, Warming] = {}
    for i, each in enumerate(planned):
        if stopped():
            outcomes[i] = Outcome(Ending.LEFT)
            continue
        time.sleep(0)  # whoever waits for the interpreter goes first
        try:
            warming = warm(each)
        except Exception as error:  # noqa: BLE001  (a single user's; the others go on)
            outcomes[i] = _failure(error)
            continue
        if warming.flight is None:
            assert warming.known is not None, "what is not computed is known"
            age = max(0.0, wall() - warming.known.created)
            outcomes[i] = Outcome(Ending.FRESH, age=age)
        else:
            under_way[i] = warming
    _await(under_way, stopped, until=clock() + timeout, clock=clock)
    for i, warming in under_way.items():
        outcomes[i] = _landed(warming, stopped=stopped())
    return [outcomes[i] for i in range(len(planned))]


def _await(
    under_way: dict[int, Warming],
    stopped: Callable[[], bool],
    *,
    until: float,
    clock: Callable[[], float],
) -> None:
    flights: list[Future[Ranking]]
    flights = [warming.flight for warming in under_way.values() if warming.flight is not None]
    while flights and not stopped() and clock() < until:
        flights = list(wait(flights, timeout=_SLICE).not_done)
    for warming in under_way.values():
        if warming.flight is not None and not warming.flight.done() and warming.leave is not None:
            warming.leave()


def _landed(warming: Warming, *, stopped: bool) -> Outcome:
    flight = warming.flight
    assert flight is not None, "only what is computed is waited for"
    if not flight.done():
        return (
            Outcome(Ending.LEFT)
            if stopped
            else _failure(DeadlineExceeded("The model did not answer in time."))
        )
    error = flight.exception()
    if isinstance(error, CancelledError):
        return Outcome(Ending.LEFT)
    if error is not None:
        return _failure(error)
    times = flight.note
    if not isinstance(times, BatchTimes):
        return Outcome(Ending.FRESH)  # another process had computed it
    return Outcome(Ending.WARMED, seconds=times.ran / max(1, times.size))


def _failure(error: BaseException) -> Outcome:
    """Return an error as an outcome: a refusal may pass, anything else will not."""
    problem = str(error) if isinstance(error, RecserveError) else repr(error)
    if isinstance(error, Unavailable) and not isinstance(error, InferenceError):
        return Outcome(
            Ending.REFUSED, problem=problem, retry_after=float(getattr(error, "retry_after", 1.0))
        )
    return Outcome(Ending.ERROR, problem=problem)
