"""The lane: an ASGI application in front of Django that answers the hot endpoints itself.

It takes a request only if it is of the usual form; whatever is out of the ordinary (a browser's,
one with a cookie or without a token, another method, another media type, …) goes to Django, so
that both give the same answer. What must wait for a database or a plugin does so on a thread; what
waits for a Redis, and a hit, never leaves the thread of the event loop.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

import msgspec
from rest_framework import exceptions

from cache_app.core.steps import Steps
from cache_app.wiring import get_runner
from plugins import Recommendation, RecommendationRequest, RecserveError, TokenNotValid
from serving_app import access, request_log, wiring
from serving_app.api.answers import etag
from serving_app.api.authentication import bearer
from serving_app.api.json import LenientJSONParser
from serving_app.api.lane_hits import Missed, further, hit_answer
from serving_app.api.lane_http import (
    JSON,
    LIVE,
    PREDICT,
    READY,
    BodyTooLarge,
    Exchange,
    Gone,
    Receive,
    Scope,
    Send,
)
from serving_app.api.lane_replies import Reply, predicted, reply_by, throttle
from serving_app.api.lane_waits import Aside, landed, on_thread, taken, together
from serving_app.api.predictions import (
    Batch,
    batch,
    note_answer,
    note_question,
    question,
    timing_of,
)
from serving_app.core.access import CHALLENGE, Access
from serving_app.core.pending import Looked, Pending
from serving_app.core.request_record import under_way

__all__ = ["Lane"]

Outcome = Recommendation | RecserveError

_parser = LenientJSONParser()


class Lane:
    """Answers the hot endpoints, and gives every other request to another application.

    Args:
        application: Answers all else; it sees requests as they came.
        aside: Runs what may wait, and returns what it returned; None: on threads of the lane's own.
    """

    def __init__(
        self,
        application: Callable[[Scope, Receive, Send], Awaitable[None]],
        *,
        aside: Aside | None = None,
    ) -> None:
        self._application = application
        self._aside = on_thread if aside is None else aside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        exchange = Exchange.of(scope, receive, send) if scope["type"] == "http" else None
        if exchange is None:
            await self._application(scope, receive, send)
            return
        if exchange.may_hit:
            body = await exchange.body_in_one()
            at_hand = None if body is None else _hit(exchange, body)
            hit = await taken(at_hand) if isinstance(at_hand, Generator) else at_hand
            if isinstance(hit, bytes):
                await exchange.answer(hit, status=200)
                return
            exchange.looked = hit
        token = under_way.set(exchange.record)
        try:
            await self._answer(exchange)
        except Gone:
            pass
        finally:
            under_way.reset(token)
            request_log.finished(exchange.record)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            if exchange.path in {LIVE, READY}:
                more: dict[str, str] = {}
                status, content = _health(exchange.path, more)
                exchange.record.status = status
                reply = Reply(status, content, JSON, more)
            else:
                reply = await reply_by(functools.partial(self._posted, exchange), exchange.record)
        except BodyTooLarge:
            await exchange.refuse_body()
        else:
            await exchange.answer(
                reply.content, status=reply.status, kind=reply.kind, more=reply.more
            )

    async def _posted(self, exchange: Exchange, more: dict[str, str]) -> bytes:
        """Return the body of the answer to a POST, and add what headers go with it."""
        body = await exchange.body()
        granted = await self._access(exchange.headers[b"authorization"])
        exchange.record.caller = granted.subject
        if not granted.may("predict"):
            raise exceptions.PermissionDenied
        if exchange.path == PREDICT:
            await throttle(granted, exchange.settings, aside=self._aside)
            return await self._predict(_decoded(body), granted, exchange, more)
        return await self._predict_batch(_decoded(body), granted, exchange)

    async def _access(self, authorization: bytes) -> Access:
        try:
            token = bearer(authorization)
            assert token is not None, "others go to Django"
            found = access.remembered(token)
            if found is not None:
                return found
            verified: Access = await self._aside(functools.partial(access.verify, token))
        except TokenNotValid as error:
            refused = exceptions.AuthenticationFailed(str(error), code="token_not_valid")
            refused.auth_header = CHALLENGE  # type: ignore[attr-defined]  # DRF's views set it so
            raise refused from error
        return verified

    async def _predict(
        self, body: Any, granted: Access, exchange: Exchange, more: dict[str, str]
    ) -> bytes:
        started = time.perf_counter()
        asked = question(body, granted, exchange.settings.limits)
        note_question(asked)
        result = await predicted(
            asked.request, exchange.disconnected, looked=exchange.looked, aside=self._aside
        )
        note_answer(result)
        answer = asked.answer(result, started)
        if asked.request.explain:
            more.update(timing_of(answer))
        return msgspec.json.encode(answer)

    async def _predict_batch(self, body: Any, granted: Access, exchange: Exchange) -> bytes:
        started = time.perf_counter()
        bodies, batch_id = batch(body, exchange.settings.limits)
        exchange.record.source = "batch"
        await throttle(granted, exchange.settings, len(bodies), aside=self._aside)
        asked = Batch(bodies, batch_id, granted, exchange.settings.limits)
        results = await self._many(asked.requests, exchange)
        return msgspec.json.encode(asked.answer(results, started))

    async def _many(
        self, requests: Sequence[RecommendationRequest], exchange: Exchange
    ) -> list[Outcome]:
        """Return what comes of requests, in order."""
        recommender, now = wiring.get_recommender(), time.monotonic()
        begun = [recommender.start_at_once(request, now) for request in requests]
        started = await together(begun, self._aside)
        waiting = [
            each for each in started if isinstance(each, Pending) and each.waits_for is not None
        ]
        if waiting:
            await landed(waiting, exchange.disconnected)
        return await together(
            [
                recommender.finish_at_once(request, pending, now)
                for request, pending in zip(requests, started, strict=True)
            ],
            self._aside,
        )


def _hit(exchange: Exchange, body: bytes) -> bytes | Steps[bytes | Looked | None] | None:
    """Return the answer to a prediction that is at hand, in one go; or steps to look further."""
    try:
        token = bearer(exchange.headers[b"authorization"])
    except TokenNotValid:
        return None
    granted = None if token is None else access.remembered(token)
    if granted is None:
        return None
    given = granted, exchange.settings, exchange.id, exchange.started
    found = hit_answer(body, *given)
    if isinstance(found, Missed):
        return further(found, *given) if get_runner().here() else None
    return found


def _decoded(body: bytes) -> Any:
    if not body:
        return {}  # as Django REST framework takes it
    try:
        return _parser.decode(body)
    except (ValueError, RecursionError) as error:
        raise exceptions.ParseError(f"The body is not JSON: {error}") from error


def _health(path: str, more: dict[str, str]) -> tuple[int, bytes]:
    """Return status and body, and add what headers go with them."""
    if path == LIVE or wiring.get_serving().reconciler.ready.is_set():
        content = msgspec.json.encode({"status": "ok"})
        more["ETag"] = etag(content)
        return 200, content
    more["Retry-After"] = "1"
    return 503, msgspec.json.encode({"status": "starting"})
