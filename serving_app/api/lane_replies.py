"""What the lane does for both of its entrances when no answer is at hand: asks, and replies."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import msgspec

from cache_app.core.steps import Steps, run
from cache_app.wiring import get_runner
from plugins import Recommendation, RecommendationRequest, RecserveError
from serving_app import rates, request_log, wiring
from serving_app.api.lane_hits import Missed, further
from serving_app.api.lane_http import JSON, BodyTooLarge, Gone
from serving_app.api.lane_settings import LaneSettings
from serving_app.api.lane_waits import Aside, OnThread, landing, on_thread, taken, unless_gone
from serving_app.api.predictions import Question, note_answer, note_question
from serving_app.api.problems import CONTENT_TYPE, response_of, with_request_id
from serving_app.core.access import Access
from serving_app.core.hit_path import Wanted
from serving_app.core.pending import Looked, Pending, Rest
from serving_app.core.request_record import RequestRecord, under_way
from serving_app.core.throttling import Rate

__all__ = ["Reply", "computing", "predicted", "refusal", "reply_by", "throttle"]

logger = logging.getLogger(__name__)

_PROBLEM = CONTENT_TYPE.encode()


class Reply(NamedTuple):
    """An answer as it is sent, but for the headers that every answer has."""

    status: int
    content: bytes
    kind: bytes
    """Its media type."""
    more: dict[str, str]
    """Headers of this answer alone."""


async def reply_by(
    answer: Callable[[dict[str, str]], Awaitable[bytes]], record: RequestRecord
) -> Reply:
    """Return what an answer, or the error instead of it, is to the client; the record hears of it.

    Args:
        answer: Returns the body of the answer, and adds what headers go with it.
        record: The request's.

    Raises:
        BodyTooLarge: The body is.
        Gone: Nobody waits for it any more.
    """
    more: dict[str, str] = {}
    try:
        content = await answer(more)
    except (BodyTooLarge, Gone):
        raise
    except Exception as error:  # noqa: BLE001  (each has its problem details, as in Django's door)
        return refusal(error, record, more)
    record.status = 200
    return Reply(200, content, JSON, more)


def refusal(error: Exception, record: RequestRecord, more: dict[str, str]) -> Reply:
    """Return what an error is to the client; the record hears of it, the log of one of ours.

    Args:
        error: The error.
        record: The request's.
        more: Headers of the answer, to which the error's are added.
    """
    problem = with_request_id(response_of(error, more))
    record.status = problem["status"]
    if record.status == 500:
        logger.error("Unexpected error in %s", record.path, exc_info=error)
    return Reply(record.status, msgspec.json.encode(problem), _PROBLEM, more)


async def throttle(
    granted: Access, settings: LaneSettings, cost: int = 1, *, aside: Aside = on_thread
) -> None:
    """Count requests of a caller.

    Raises:
        Throttled: That would be too many; nothing was counted.
    """
    rate = settings.rate(granted)
    if rate is None:
        return
    if rates.shared():
        await taken(_counting(granted, rate, cost, aside))
    else:
        rates.count(granted, "predict", rate, cost)


def _counting(granted: Access, rate: Rate, cost: int, aside: Aside) -> Steps[None]:
    steps = rates.counting(granted, "predict", rate, cost)
    if get_runner().here() or not rates.shared():
        yield from steps
    else:
        yield OnThread(functools.partial(run, steps), aside)


async def predicted(
    request: RecommendationRequest,
    gone: Callable[[], Coroutine[Any, Any, None]],
    *,
    looked: Looked | None = None,
    aside: Aside = on_thread,
) -> Recommendation:
    """Return the answer to a request; the thread of the event loop never waits for it.

    Args:
        request: The request.
        gone: Ends when the client has gone; called if there is need to wait.
        looked: A look into the cache that found no fresh answer; None: there was none.
        aside: Runs what may wait for a database or a plugin.

    Raises:
        Gone: The client has gone first.
        RecserveError: There is no answer.
    """
    return await unless_gone(_predicting(request, looked, aside), gone)


def _predicting(
    request: RecommendationRequest, looked: Looked | None, aside: Aside
) -> Steps[Recommendation]:
    recommender, now = wiring.get_recommender(), time.monotonic()
    pending = recommender.start_at_once(request, now, looked)
    if isinstance(pending, Rest) and get_runner().here():
        pending = yield from pending.steps
    if callable(pending):
        pending = yield OnThread(pending, aside)
    if isinstance(pending, Pending) and pending.waits_for is not None:
        yield from landing([pending])
    result = recommender.finish_at_once(request, pending, now)
    if callable(result):
        result = yield OnThread(result, aside)
    if isinstance(result, RecserveError):
        raise result
    return result


def computing(
    missed: Missed,
    granted: Access,
    settings: LaneSettings,
    record: RequestRecord,
    *,
    aside: Aside = on_thread,
) -> Steps[Reply]:
    """Return the reply to a question that `hit_answer` found in order, but no answer to, in steps.

    They want a context of their own, and say what of them fails in the log.

    Args:
        missed: What is asked.
        granted: What the caller may do.
        settings: The lane's settings.
        record: The request's; it is counted and logged in the end.
        aside: Runs what may wait.
    """
    looked: Looked | None = None
    if get_runner().here():
        hit = yield from further(missed, granted, settings, record.id, record.started)
        if isinstance(hit, bytes):
            return Reply(200, hit, JSON, {})
        looked = hit
    under_way.set(record)
    try:
        rate = settings.rate(granted)
        if rate is not None:
            yield from _counting(granted, rate, 1, aside)
        content = yield from _answering(missed.wanted, looked, record.started, aside)
        record.status = 200
        return Reply(200, content, JSON, {})
    except Gone:
        raise
    except Exception as error:  # noqa: BLE001  (each has its problem details)
        return refusal(error, record, {})
    finally:
        request_log.finished(record)


def _answering(wanted: Wanted, looked: Looked | None, started: float, aside: Aside) -> Steps[bytes]:
    asked = Question(
        RecommendationRequest(
            user_id=wanted.user_id,
            model_name=wanted.model_name,
            alias=wanted.alias,
            features=wanted.features,
            context=wanted.context,
            k=wanted.k,
            exclude=frozenset(wanted.exclude),
            timeout=wanted.timeout,
        ),
        titles=False,
    )
    note_question(asked)
    result = yield from _predicting(asked.request, looked, aside)
    note_answer(result)
    return msgspec.json.encode(asked.answer(result, started))
