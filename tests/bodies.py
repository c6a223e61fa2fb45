"""Requests that are nearly right, and worse: as many as one likes, the same for the same seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

__all__ = ["Sent", "good", "requests"]


class Sent(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


PREDICT: dict[str, Any] = {
    "user_id": "17850",
    "model_name": "default",
    "context": {"page": "home", "tags": ["summer"]},
    "k": 5,
    "exclude": ["1"],
    "timeout_ms": 5000,
}
EVENT: dict[str, Any] = {
    "user_id": "17850",
    "item_id": "85123A",
    "kind": "view",
    "value": 2,
    "at": "2026-11-24T09:30:00Z",
    "event_id": "order-1",
}
ODD = (
    *(None, True, False, 0, -1, 1, 1.5, 10**30, -(2**63), 1e308, float("nan"), float("inf")),
    *("", "x", "x" * 5000, "\ud800", "\x00", "é", "default@1", "default@99999999999999999999"),
    *([], {}, [[]], [None] * 50, {"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}}, "FP64", "BYTES"),
)


def good(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return a sound body for each endpoint that takes bodies from programs.

    Args:
        metadata: What `/v2/models/default` says.
    """
    tensors = [
        {
            "name": each["name"],
            "datatype": each["datatype"],
            "shape": [1, *each["shape"][1:]],
            "data": [0.5] * math.prod(each["shape"][1:]),
        }
        for each in metadata["inputs"]
    ]
    features = tensors[0]["data"]
    (version, *_) = metadata["versions"]
    outputs = [{"name": metadata["outputs"][0]["name"], "parameters": {"binary_data": True}}]
    return {
        "/api/v1/predict": PREDICT,
        "/api/v1/predict/batch": {
            "batch_id": "b",
            "requests": [PREDICT, {**PREDICT, "features": features}],
        },
        "/api/v1/events": {"events": [EVENT, EVENT]},
        "/v2/models/default/infer": {"id": "1", "inputs": tensors, "outputs": outputs},
        f"/v2/models/default/versions/{version}/infer": {"inputs": tensors},
    }


def requests(n: int, seed: int, bodies: dict[str, Any]) -> Iterator[Sent]:
    """Yield so many requests: sound ones, and such as differ from them in a place or several."""
    rng = Random(seed)
    paths = list(bodies)
    for _ in range(n):
        path = rng.choice(paths)
        value = _changed(rng, bodies[path], rng.choice((0, 1, 1, 1, 2, 4)))
        body = _encoded(rng, value)
        headers = {"content-type": rng.choice(["application/json"] * 12 + ["text/plain", ""])}
        if path.startswith("/v2") and rng.random() < 0.3:
            length = rng.choice([str(len(body))] * 3 + ["0", "-1", "x", "9" * 30])
            headers["inference-header-content-length"] = length
            body += rng.choice((b"", bytes(12), bytes(5)))
        yield Sent(path, headers, body)


def _changed(rng: Random, value: Any, times: int) -> Any:
    for _ in range(times):
        value = _changed_once(rng, value)
    return value


def _changed_once(rng: Random, value: Any) -> Any:
    """Return a value with one place in it changed, taken away, doubled or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        what = rng.random()
        if what < 0.1:
            return {each: value[each] for each in value if each != name}
        if what < 0.2:
            return {**value, rng.choice(("", "other", "user-id", "\ud800")): rng.choice(ODD)}
        return {**value, name: _changed_once(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.15:
            return value * rng.choice((2, 3, 200))
        return [*value[:at], _changed_once(rng, value[at]), *value[at + 1 :]]
    return rng.choice(ODD)


def _encoded(rng: Random, value: Any) -> bytes:
    body = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    what = rng.random()
    if what < 0.03:
        return body[: rng.randrange(len(body) + 1)]
    if what < 0.05:
        at = rng.randrange(len(body) + 1)
        return body[:at] + rng.randbytes(rng.randrange(1, 8)) + body[at:]
    if what < 0.06:
        return rng.randbytes(rng.randrange(200))
    if what < 0.065:
        return b"[" * rng.choice((10, 1000, 100_000))
    return body
