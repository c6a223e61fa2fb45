"""What the OpenAPI schema says of every endpoint: its problems with their codes, and examples."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

from serving_app.api.problems import CONTENT_TYPE, problem
from serving_app.core.request_record import REQUEST_ID

__all__ = ["CODES", "describe"]

CODES: Mapping[int, tuple[str, ...]] = {
    400: ("parse-error", "bad-request"),
    401: (*("not-authenticated", "token-not-valid", "no-active-account", "authentication-failed"),),
    403: ("permission-denied", "model-not-permitted"),
    404: ("model-not-found", "not-found"),
    405: ("method-not-allowed",),
    406: ("not-acceptable",),
    409: ("in-use", "run-under-way"),
    413: ("body-too-large",),
    415: ("unsupported-media-type",),
    422: (*("invalid-input", "invalid", "artifact-rejected", "unknown-plugin", "invalid-options"),),
    429: ("queue-full", "throttled"),
    500: ("inference-error", "internal"),
    503: ("model-not-ready", "unavailable"),
    504: ("deadline-exceeded",),
}
"""Every problem code by its status; a test holds it complete."""

_EXAMPLES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("/api/v1/predict", "200"): {
        "user_id": "17850",
        "recommendations": ["85123A", "22423"],
        "scores": [0.91, 0.87],
        "model_name": "default",
        "model_version": 2,
        "latency_ms": 1.204,
        "cached": False,
        "source": "model",
        "stale": False,
        "degraded": False,
    },
    ("/api/v1/predict/batch", "request"): {
        "batch_id": "nightly-7",
        "requests": [{"user_id": "17850", "k": 3}, {"user_id": "12583", "model_name": "popular"}],
    },
    ("/api/v1/events", "request"): {
        "events": [
            {"user_id": "17850", "item_id": "85123A", "kind": "view"},
            {
                "user_id": "12583",
                "item_id": "22423",
                "kind": "purchase",
                "value": 6,
                "at": "2026-11-24T09:30:00Z",
                "event_id": "order-1044-1",
            },
        ]
    },
    ("/api/v1/cache/warmup", "request"): {
        "strategy": "popular",
        "options": {"days": 7},
        "model_name": "default",
        "budget": 500,
    },
    ("/api/v1/warmup-schedules", "request"): {
        "name": "nightly",
        "model": "default",
        "cron": "30 5 * * *",
        "time_zone": "Europe/Berlin",
        "strategies": [{"strategy": "popular", "options": {"days": 7}}],
        "budget": 2000,
    },
    ("/api/v1/token", "request"): {"username": "ann", "password": "…"},
    ("/api/v1/models", "request"): {"name": "shop", "description": "The shop's front page."},
    ("/api/v1/models/{name}/promote", "request"): {"version": 3, "wait_seconds": 30},
    ("/api/v1/models/{name}/versions", "request"): {
        "framework": "pytorch",
        "artifact": "shop/3.pt",
        "catalogue": "shop/items.csv",
        "feature_names": ["age", "visits", "spend"],
        "notes": "Trained on October.",
    },
}


def describe(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Return the schema with problems and examples; a hook of drf-spectacular's."""
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = _problem_schema()
    for path, methods in result["paths"].items():
        for method, operation in methods.items():
            _describe(path, method, operation)
    return result


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    for status in _statuses(path, method, operation):
        if CONTENT_TYPE not in (responses.get(str(status)) or {}).get("content", {}):
            responses[str(status)] = _response(status)
    for response in responses.values():
        response.setdefault("headers", {})[REQUEST_ID] = {
            "schema": {"type": "string"},
            "description": "The request's id: as sent, or a new one.",
        }
    for (where, part), example in _EXAMPLES.items():
        if where != path or method != "post":
            continue
        owner = operation["requestBody"] if part == "request" else responses[part]
        owner["content"]["application/json"].setdefault("example", example)


def _statuses(path: str, method: str, operation: Mapping[str, Any]) -> list[int]:
    """Return the statuses of the problems that an endpoint may answer with."""
    statuses = {400, 405, 406, 500}
    if {} not in (operation.get("security") or [{}]):
        statuses |= {401, 403, 429, 503}
    if "/token" in path:
        statuses |= {401, 429, 503}
    if "requestBody" in operation:
        statuses |= {413, 415, 422}
    if "{" in path or {"page", "model"} & {n["name"] for n in operation.get("parameters", ())}:
        statuses |= {404, 422}
    if path.startswith(("/api/v1/cache/", "/api/v1/analysis")):
        statuses |= {404, 422}
    if method in {"post", "delete", "patch"}:
        statuses |= {409, 415, 422}
    if path.startswith("/api/v1/predict"):
        statuses |= {404, 503, 504}
    if path.endswith("/ready"):
        statuses -= {503}  # which is its answer
    return sorted(statuses)


def _response(status: int) -> dict[str, Any]:
    codes = CODES[status]
    more = {"retry_after": 2} if status == 429 else {}
    headers: dict[str, Any] = {}
    if status in {429, 503}:
        headers["Retry-After"] = {"schema": {"type": "integer"}, "description": "Seconds."}
    return {
        "description": f"{http.HTTPStatus(status).phrase}: {', '.join(codes)}",
        "headers": headers,
        "content": {
            CONTENT_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": problem(status, codes[0], "What is wrong, and how to mend it.", **more),
            }
        },
    }


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    error = {"type": "object", "properties": {"field": text, "detail": text}}
    every = sorted({code for codes in CODES.values() for code in codes})
    return {
        "type": "object",
        "description": "RFC 9457 problem details.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": {"type": "string", "enum": every},
            "request_id": text,
            "errors": {"type": "array", "items": error},
            "retry_after": {"type": "integer"},
        },
    }
