"""A hit at the lane: from the bytes of a body to the bytes of its answer, in one go.

Whatever is not a plain hit has left no trace: the lane's other way answers it, with every error in
its place. So this one has no errors of its own, and decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from cache_app.core.steps import Steps
from plugins import InvalidInput, Throttled, UserId
from serving_app import rates, request_log, wiring
from serving_app.api.lane_settings import LaneSettings
from serving_app.api.translation import context_of, exclusions_of, model_and_alias, timeout_of
from serving_app.conf import ServingSettings
from serving_app.core.access import Access
from serving_app.core.hit_path import Hit, Place, Wanted
from serving_app.core.pending import Looked
from serving_app.core.request_record import RequestRecord

__all__ = ["Missed", "further", "hit_answer"]

_MAX_ID = 256
_ROUTE = "api/v1/predict"
_NOTHING: Mapping[str, Any] = {}
_encode = msgspec.json.encode


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request; the types of its features are checked while it is read.

    ``Any``: JSON's ``10.0`` is no whole number for the API, which msgspec would take for one.
    """

    user_id: Any
    features: list[float] | dict[str, float] | None = None
    model_name: str = "default"
    context: Any = None
    k: Any = 10
    exclude: Any = None
    timeout_ms: Any = None
    titles: Any = False
    explain: Any = False


_ANSWER = (
    b'{"user_id":%b,"recommendations":%b,"scores":%b,"model_name":%b,"model_version":%d,"alias":%b,'
    b'"latency_ms":%.3f,"cached":true,"source":"%b","stale":false,"degraded":false}'
)
_decode = msgspec.json.Decoder(_Asked).decode


class Missed(NamedTuple):
    """A question that is in order and permitted, whose answer is not at hand."""

    wanted: Wanted
    place: Place | None
    """Where its answer would be; None: the recommender says that."""


def hit_answer(
    body: bytes, granted: Access, settings: LaneSettings, id_: str, started: float
) -> bytes | Missed | None:
    """Return the body of the answer to a prediction whose ranking is at hand.

    An answer is counted, logged and throttled by then, as any other is. For a question that is in
    order, permitted, and has no answer at hand, `Missed` is returned; for all else None.

    Args:
        body: The request's body.
        granted: What the caller may do.
        settings: The lane's settings.
        id_: The request's id.
        started: When the request came, by `time.perf_counter`.
    """
    try:
        return _answer(body, granted, settings, id_, started)
    except Exception:  # noqa: BLE001  (the other way meets it again, and answers it)
        return None


def _answer(
    body: bytes, granted: Access, settings: LaneSettings, id_: str, started: float
) -> bytes | Missed | None:
    wanted = _wanted(body, settings.limits) if settings.hits else None
    if (
        wanted is None
        or "predict" not in granted.permissions
        or (granted.models is not None and wanted.model_name not in granted.models)
    ):
        return None
    hits = wiring.get_serving().hits
    hit = hits.find(wanted)
    if not isinstance(hit, Hit):
        return Missed(wanted, hit)
    if not _is_within_rate(granted, settings):
        return None
    return _given(hit, wanted, granted, id_, started, found=True)


def further(
    missed: Missed, granted: Access, settings: LaneSettings, id_: str, started: float
) -> Steps[bytes | Looked | None]:
    """Do what `hit_answer` does with all levels, in steps, for a question that it found in order.

    If they have no fresh answer, they need not be asked again: what is returned says so.
    """
    if missed.place is None:
        return None
    wanted, hits = missed.wanted, wiring.get_serving().hits
    try:
        hit = yield from hits.looking(wanted, missed.place)
        if not isinstance(hit, Hit):
            return hit
        rate = settings.rate(granted)
        if rate is not None:
            yield from rates.counting(granted, "predict", rate)
        return _given(hit, wanted, granted, id_, started, found=False)
    except Exception:  # noqa: BLE001  (the other way meets it again, and answers it)
        return None


def _given(
    hit: Hit, wanted: Wanted, granted: Access, id_: str, started: float, *, found: bool
) -> bytes:
    """Return the body of an answer, and count it."""
    seconds = time.perf_counter() - started
    wiring.get_serving().hits.used(hit, wanted, seconds, found=found)
    if request_log.is_logged():
        request_log.finished(_record(id_, started, granted, hit), user_id=wanted.user_id)
    else:
        request_log.HTTP.count_ok("POST", _ROUTE, time.perf_counter() - started)
    return _body(wanted.user_id, hit, seconds)


def _wanted(body: bytes, limits: ServingSettings) -> Wanted | None:
    """Return what a body asks; None: nothing that a hit could answer here."""
    try:
        asked = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    user_id, k, name, alias = asked.user_id, asked.k, asked.model_name, ""
    if (
        not _is_identity(user_id)
        or type(k) is not int
        or not 1 <= k <= limits.max_k
        or asked.titles is not False
        or asked.explain is not False
    ):
        return None
    context: Mapping[str, Any] = _NOTHING
    exclude: Collection[str] = ()
    try:
        if not name or "@" in name or len(name) > _MAX_ID:
            name, alias = model_and_alias(name)
        if asked.context is not None:
            context = context_of(asked.context, limits)
        if asked.exclude is not None:
            exclude = exclusions_of(asked.exclude, limits)
        timeout = timeout_of(asked.timeout_ms)
    except InvalidInput:
        return None
    return Wanted(name, alias, user_id, context, asked.features, k, exclude, timeout)


def _is_identity(value: Any) -> bool:
    if type(value) is str:
        return 0 < len(value) <= _MAX_ID and value.isprintable()
    return type(value) is int


def _is_within_rate(granted: Access, settings: LaneSettings) -> bool:
    """Return whether a request is within the caller's rate, and counted there."""
    rate = settings.rate(granted)
    if rate is None:
        return True
    if rates.shared():
        return False
    try:
        rates.count(granted, "predict", rate)
    except Throttled:
        return False
    return True


def _record(id_: str, started: float, granted: Access, hit: Hit) -> RequestRecord:
    return RequestRecord(
        id_,
        "POST",
        f"/{_ROUTE}",
        started=started,
        route=_ROUTE,
        status=200,
        caller=granted.subject,
        model=hit.model_name,
        version=hit.model_version,
        source=hit.level,
    )


def _body(user_id: UserId, hit: Hit, seconds: float) -> bytes:
    """Return the JSON of `translation.answer`."""
    return _ANSWER % (
        _encode(user_id),
        _encode(hit.items),
        _encode(hit.scores),
        _encode(hit.model_name),
        hit.model_version,
        _encode(hit.alias or None),
        seconds * 1000,
        hit.level.encode(),
    )
