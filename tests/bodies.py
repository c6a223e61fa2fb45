"""Requests that are nearly right, and worse: as many as one likes, the same for the same seed."""

from __future__ import annotations

import functools
import gzip
import json
import math
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

__all__ = ["KINDS", "MAX_BODY", "MAX_INFER", "Sent", "good", "requests"]

MAX_BODY, MAX_INFER = 1_000_000, 64 * 1024 * 1024
"""Bytes of a body at most, by default: of the API's, and of the Open Inference Protocol's."""


class Sent(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    kind: str = "changed"
    """Of `KINDS`."""


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


KINDS = {
    "changed": 0.945,
    "deep": 0.01,
    "large": 0.005,
    "declared": 0.01,
    "oversized": 0.004,
    "chunked": 0.005,
    "packed": 0.02,
    "bomb": 0.001,
}
"""Which part of the requests is of a kind: a sound body with some places changed; nested deeper
than anyone reads; as large as a body may be; one that says it is too large, and does not come; one
that is, and comes; chunks without a length; compressed, well or badly; small, and too large once it
is decompressed."""


def requests(n: int, seed: int, bodies: dict[str, Any]) -> Iterator[Sent]:
    """Yield so many requests: sound ones, and such as differ from them in a place or several."""
    rng = Random(seed)
    paths = list(bodies)
    for _ in range(n):
        path = rng.choice(paths)
        (kind,) = rng.choices(list(KINDS), KINDS.values())
        yield _MADE[kind](rng, path, bodies[path])


def _changed_request(rng: Random, path: str, sound: Any) -> Sent:
    value = _changed(rng, sound, rng.choice((0, 1, 1, 1, 2, 4)))
    body = _encoded(rng, value)
    headers = {"content-type": rng.choice(["application/json"] * 12 + ["text/plain", ""])}
    if path.startswith("/v2") and rng.random() < 0.3:
        length = rng.choice([str(len(body))] * 3 + ["0", "-1", "x", "9" * 30])
        headers["inference-header-content-length"] = length
        body += rng.choice((b"", bytes(12), bytes(5)))
    return Sent(path, headers, body)


def _deep(rng: Random, path: str, sound: Any) -> Sent:
    """Nest a value where one may be, and be it one that nobody reads."""
    depth = rng.choice((10, 100, 1000, 20_000))
    start, end = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    nested = start * depth + b"1" + end * depth
    value = dict(sound)
    value[rng.choice([*value, "other"])] = "HERE"
    return Sent(path, _JSON, json.dumps(value).encode().replace(b'"HERE"', nested), "deep")


def _large(rng: Random, path: str, sound: Any) -> Sent:
    """As large as it may be for the API, or a byte less: a text, blanks, or a list."""
    body = json.dumps({**sound, "other": "FILL"}).encode()
    room = MAX_BODY - len(body) + 4
    filling = rng.choice((b'"%b"' % (b"x" * room), b'"%b"' % (b" " * room)))
    if rng.random() < 0.3:
        filling = b"[%b0]" % (b"0," * ((room - 1) // 2))
    return Sent(path, _JSON, body.replace(b'"FILL"', filling), "large")


def _limit(path: str) -> int:
    return MAX_INFER if path.startswith("/v2") else MAX_BODY


def _declared(rng: Random, path: str, sound: Any) -> Sent:
    length = _limit(path) + rng.choice((1, 2, 10**6, 10**15))
    return Sent(path, {**_JSON, "content-length": str(length)}, b"", "declared")


def _oversized(rng: Random, path: str, sound: Any) -> Sent:
    body = json.dumps(sound).encode()
    body += b" " * (MAX_BODY + rng.choice((1, 2, 70_000)) - len(body))
    return Sent(path, _JSON, body, "oversized")


def _chunked(rng: Random, path: str, sound: Any) -> Sent:
    """As it is, or too large for the API."""
    body = json.dumps(sound).encode()
    if rng.random() < 0.3:
        body += b" " * MAX_BODY
    return Sent(path, {**_JSON, "transfer-encoding": "chunked"}, body, "chunked")


def _packed(rng: Random, path: str, sound: Any) -> Sent:
    body = _encoded(rng, _changed(rng, sound, rng.choice((0, 0, 1))))
    packed = gzip.compress(body, 1, mtime=0) if rng.random() < 0.5 else zlib.compress(body)
    what = rng.random()
    if what < 0.2:
        packed = packed[: rng.randrange(len(packed))]
    elif what < 0.3:
        packed += rng.randbytes(3)
    elif what < 0.4:
        at = rng.randrange(len(packed))
        packed = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
    coding = rng.choice(("gzip", "gzip", "deflate", "deflate", "identity", "br", "gzip, gzip", ""))
    return Sent(path, {**_JSON, "content-encoding": coding}, packed, "packed")


def _bomb(rng: Random, path: str, sound: Any) -> Sent:
    coding = rng.choice(("gzip", "deflate"))
    return Sent(path, {**_JSON, "content-encoding": coding}, _zeros(coding), "bomb")


@functools.cache
def _zeros(coding: str) -> bytes:
    """Return more zeros than a body may have, compressed."""
    made = zlib.compressobj(9, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    return made.compress(bytes(MAX_INFER + 1)) + made.flush()


_JSON = {"content-type": "application/json"}
_MADE = {
    "changed": _changed_request,
    "deep": _deep,
    "large": _large,
    "declared": _declared,
    "oversized": _oversized,
    "chunked": _chunked,
    "packed": _packed,
    "bomb": _bomb,
}


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
        return rng.choice((b"[", b'{"a":')) * rng.choice((10, 1000, 100_000))
    if what < 0.067:
        return b""
    return body
