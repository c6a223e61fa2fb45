"""What the lane does for both of its entrances when no answer is at hand: asks, and replies."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import msgspec

from cache_app.core.steps import run
from cache_app.wiring import get_runner
from plugins import Recommendation, RecommendationRequest, RecserveError
from serving_app import rates, request_log, wiring
from serving_app.api.lane_hits import further
from serving_app.api.lane_http import JSON, BodyTooLarge, Gone
from serving_app.api.lane_settings import LaneSettings
from serving_app.api.lane_waits import Aside, landed, on_thread, taken, together
from serving_app.api.predictions import Question, note_answer, note_question
from serving_app.api.problems import CONTENT_TYPE, response_of, with_request_id
from serving_app.core.access import Access
from serving_app.core.hit_path import Wanted
from serving_app.core.pending import Looked, Pending
from serving_app.core.request_record import RequestRecord, under_way

__all__ = ["Reply", "computed", "predicted", "reply_by", "throttle"]

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
        content, status, kind = await answer(more), 200, JSON
    except (BodyTooLarge, Gone):
        raise
    except Exception as error:  # each has its problem details, as in Django's door
        problem = with_request_id(response_of(error, more))
        status, kind = problem["status"], _PROBLEM
        if status == 500:
            logger.exception("Unexpected error in %s", record.path)
        content = msgspec.json.encode(problem)
    record.status = status
    return Reply(status, content, kind, more)


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
        steps = rates.counting(granted, "predict", rate, cost)
        if get_runner().here():
            await taken(steps)
        else:
            await aside(functools.partial(run, steps))
    else:
        rates.count(granted, "predict", rate, cost)


async def predicted(
    request: RecommendationRequest,
    gone: asyncio.Future[Any] | Callable[[], Coroutine[Any, Any, None]],
    *,
    looked: Looked | None = None,
    aside: Aside = on_thread,
) -> Recommendation:
    """Return the answer to a request; the thread of the event loop never waits for it.

    Args:
        request: The request.
        gone: Ends when the client has gone; as a function, it is called if there is need to wait.
        looked: A look into the cache that found no fresh answer; None: there was none.
        aside: Runs what may wait for a database or a plugin.

    Raises:
        Gone: The client has gone first.
        RecserveError: There is no answer.
    """
    recommender, now = wiring.get_recommender(), time.monotonic()
    pending = recommender.start_at_once(request, now, looked)
    if callable(pending):
        (pending,) = await together([pending], aside)
    if isinstance(pending, Pending) and pending.waits_for is not None:
        await landed([pending], gone if isinstance(gone, asyncio.Future) else gone())
    result = recommender.finish_at_once(request, pending, now)
    if callable(result):
        result = await aside(result)
    if isinstance(result, RecserveError):
        raise result
    return result


async def computed(
    wanted: Wanted,
    granted: Access,
    settings: LaneSettings,
    record: RequestRecord,
    gone: asyncio.Future[Any],
    *,
    aside: Aside = on_thread,
) -> Reply:
    """Return the reply to a question that `hit_answer` found in order, but no answer to.

    Args:
        wanted: What is asked.
        granted: What the caller may do.
        settings: The lane's settings.
        record: The request's; it is counted and logged in the end.
        gone: Ends when the client has gone.
        aside: Runs what may wait.

    Raises:
        Gone: The client has gone first.
    """
    looked: Looked | None = None
    if get_runner().here():
        hit = await taken(further(wanted, granted, settings, record.id, record.started))
        if isinstance(hit, bytes):
            return Reply(200, hit, JSON, {})
        looked = hit

    async def answer(_: dict[str, str]) -> bytes:
        await throttle(granted, settings, aside=aside)
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
        result = await predicted(asked.request, gone, looked=looked, aside=aside)
        note_answer(result)
        return msgspec.json.encode(asked.answer(result, record.started))

    token = under_way.set(record)
    try:
        return await reply_by(answer, record)
    finally:
        under_way.reset(token)
        request_log.finished(record)
