"""JSON body ↔ RecommendationRequest and Recommendation: what every door speaks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec

from plugins import InvalidInput, Recommendation, RecommendationRequest, UserId
from serving_app.conf import ServingSettings

FIELDS = (
    *("user_id", "model_name", "features", "context", "k", "exclude", "timeout_ms"),
    *("titles", "explain"),
)
"""The fields of a request."""

_FIELDS = frozenset(FIELDS)
_MAX_ID = 256


def recommendation_request(body: Any, limits: ServingSettings) -> RecommendationRequest:
    """Return the request that a JSON value describes.

    Raises:
        InvalidInput: It describes none; the message names the field and what it must be.
    """
    if not isinstance(body, Mapping):
        raise InvalidInput("A request must be a JSON object.", field="")
    for name in body:
        if name not in _FIELDS:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InvalidInput(
                f"Unknown field {name[:50]!r}.{hint} The fields are {', '.join(FIELDS)}.",
                field=name[:50],
            )
    if "user_id" not in body:
        raise InvalidInput("user_id is missing.", field="user_id")
    model_name, alias = model_and_alias(body.get("model_name", "default"))
    return RecommendationRequest(
        user_id=_identity(body["user_id"], "user_id"),
        model_name=model_name,
        alias=alias,
        features=_features(body.get("features")),
        context=context_of(body.get("context"), limits),
        k=_k(body.get("k", 10), limits),
        exclude=exclusions_of(body.get("exclude"), limits),
        timeout=timeout_of(body.get("timeout_ms")),
        explain=_flag(body, "explain"),
    )


def wants_titles(body: Any) -> bool:
    """Return whether the answer shall carry the items' titles.

    Raises:
        InvalidInput: ``titles`` is neither true nor false.
    """
    return _flag(body, "titles")


def _flag(body: Mapping[str, Any], field: str) -> bool:
    value = body.get(field, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"{field} must be true or false.", field=field)
    return value


def explanation(recommendation: Recommendation) -> dict[str, Any] | None:
    """Return the JSON value of how an answer came about; None: nobody asked."""
    explained = recommendation.explanation
    if explained is None:
        return None
    batch = explained.batch
    return {
        "cache_level": recommendation.source if recommendation.cached else None,
        "age_ms": _milliseconds(explained.age),
        "model_version": recommendation.model_version,
        "alias": recommendation.alias or None,
        "segment": explained.segment,
        "batch_size": None if batch is None else batch.size,
        "queue_ms": None if batch is None else _milliseconds(batch.queued),
        "model_ms": None if batch is None else _milliseconds(batch.ran),
    }


def server_timing(explained: Mapping[str, Any], latency_ms: float) -> str:
    """Return the ``Server-Timing`` header that says an explanation in short."""
    level = explained["cache_level"]
    parts = [f"total;dur={latency_ms:g}", f"cache;desc={level or 'miss'}"]
    if explained["age_ms"] is not None:
        parts.append(f"age;dur={explained['age_ms']:g}")
    if explained["batch_size"] is not None:
        parts.append(f"queue;dur={explained['queue_ms']:g}")
        parts.append(f"model;dur={explained['model_ms']:g};desc=batch-of-{explained['batch_size']}")
    return ", ".join(parts)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def answer(recommendation: Recommendation, *, latency: float) -> dict[str, Any]:
    """Return the JSON value of an answer that took ``latency`` seconds."""
    return {
        "user_id": recommendation.user_id,
        "recommendations": recommendation.items,
        "scores": recommendation.scores,
        "model_name": recommendation.model_name,
        "model_version": recommendation.model_version,
        "alias": recommendation.alias or None,
        "latency_ms": round(latency * 1000, 3),
        "cached": recommendation.cached,
        "source": recommendation.source,
        "stale": recommendation.stale_for > 0,
        "degraded": recommendation.degraded,
    }


def _identity(value: Any, field: str) -> UserId:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InvalidInput(f"{field} must be a string or a whole number.", field=field)
    if isinstance(value, str) and not 0 < len(value) <= _MAX_ID:
        raise InvalidInput(f"{field} must have 1 to {_MAX_ID} characters.", field=field)
    if isinstance(value, str) and not value.isprintable():
        raise InvalidInput(f"{field} must have printable characters only.", field=field)
    return value


def model_and_alias(value: Any) -> tuple[str, str]:
    """Return the model, and the alias or version that follows an ``@``, if any does.

    Raises:
        InvalidInput: It is no such name.
    """
    if not isinstance(value, str) or not value:
        raise InvalidInput("model_name must be a string that is not empty.", field="model_name")
    name, at, alias = value[:_MAX_ID].partition("@")
    if at and not (name and alias):
        raise InvalidInput(
            "model_name must be a name, name@alias or name@version.", field="model_name"
        )
    return name, alias


def _features(value: Any) -> Mapping[str, float] | list[float] | None:
    if value is not None and not isinstance(value, (list, Mapping)):
        raise InvalidInput(
            "features must be an object (values by name) or a list (in the model's order).",
            field="features",
        )
    return value


def context_of(value: Any, limits: ServingSettings) -> Mapping[str, Any]:
    """Return the context that a request gives; raise `InvalidInput` if it is none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput("context must be an object.", field="context")
    if _depth(value) > limits.max_context_depth:
        raise InvalidInput(
            f"context is nested more than {limits.max_context_depth} levels deep.",
            field="context",
        )
    size = len(msgspec.json.encode(value))
    if size > limits.max_context_bytes:
        raise InvalidInput(
            f"context has {size} bytes as JSON; at most {limits.max_context_bytes} are allowed.",
            field="context",
        )
    return value


def _depth(value: Any) -> int:
    """Return how deeply a JSON value is nested. JSON parsers bound the recursion."""
    if isinstance(value, Mapping):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _k(value: Any, limits: ServingSettings) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limits.max_k:
        raise InvalidInput(f"k must be a whole number from 1 to {limits.max_k}.", field="k")
    return value


def exclusions_of(value: Any, limits: ServingSettings) -> frozenset[str]:
    """Return the items that a request excludes; raise `InvalidInput` if they are none."""
    if value is None:
        return frozenset()
    if not isinstance(value, list):
        raise InvalidInput("exclude must be a list of item ids.", field="exclude")
    if len(value) > limits.max_exclude:
        raise InvalidInput(
            f"exclude lists {len(value)} items; at most {limits.max_exclude} are allowed.",
            field="exclude",
        )
    return frozenset(str(_identity(item, f"exclude[{i}]")) for i, item in enumerate(value))


def timeout_of(value: Any) -> float | None:
    """Return a request's time-out in seconds; raise `InvalidInput` if it is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 600_000:
        raise InvalidInput(
            "timeout_ms must be a number above 0, at most 600000.", field="timeout_ms"
        )
    return value / 1000
