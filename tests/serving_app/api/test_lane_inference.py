"""The Open Inference Protocol at the lane: Django's answers, without Django."""

import gzip
import json
from random import Random

import numpy as np
import pytest
from asgiref.sync import async_to_sync

from serving_app import request_log
from serving_app.api.lane_inference import InferenceLane
from tests.serving_app.api.test_lane import (
    Client,
    Door,
    aside,
    ask,
    comparable,
    headers_of,
    start_afresh,
    tokens,
)

__all__ = ["tokens"]

pytestmark = pytest.mark.contract("A6")

INFER = "/v2/models/default/infer"
ROW = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
GOOD = {"inputs": [ROW]}


def binary(rows):
    """Return a body with a binary tensor, and the length of its JSON part."""
    data = np.ones((rows, 3), np.float32).tobytes()
    tensor = {"name": "features", "datatype": "FP32", "shape": [rows, 3]}
    tensor["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + data, str(len(head))


def request_of(rng, tokens):
    """Return method, path, headers, body and in how many parts it comes."""
    path = rng.choice(
        [INFER] * 8
        + [
            *("/v2/models/default/versions/1/infer", "/v2/models/default/versions/9/infer"),
            *("/v2/models/nobody/infer", "/v2/models/default@production/infer", f"{INFER}/"),
            *("/v2/models/a b/infer", "/v2", "/v2/models/default", "/v2/models/default/ready"),
            *("/v2/health/live", "/v2/health/ready", "/v2/health/live/", f"{INFER}?a=1"),
        ]
    )
    method = "GET" if "infer" not in path else "POST"
    if rng.random() < 0.1:
        method = rng.choice(["GET", "HEAD", "POST", "PUT", "OPTIONS"])
    more = {"content_type": rng.choice([None, "application/json", "application/octet-stream"])}
    if rng.random() < 0.2:
        body, more["inference_header_content_length"] = binary(rng.choice([1, 2, 70, 120]))
    else:
        many = {**ROW, "shape": [40, 3], "data": [1.5] * 120}
        value = rng.choice(
            [
                *(GOOD, GOOD, GOOD, {"inputs": [many]}, {"inputs": []}, []),
                {**GOOD, "id": "7", "outputs": [{"name": "scores"}]},
                *({"inputs": [{**ROW, "data": [1, 2]}]}, {"inputs": [ROW, ROW]}),
                {**GOOD, "parameters": {"timeout": -1}},
                {**GOOD, "outputs": [{"name": "nothing"}]},
            ]
        )
        body = json.dumps(value).encode()
        if rng.random() < 0.05:
            body = rng.choice([b"", b"{", b"\xff", body[:-1], b"[" * 5000])
    if method in {"GET", "HEAD"} and rng.random() < 0.9:
        body = b""
    if body and rng.random() < 0.1:
        body, more["content_encoding"] = gzip.compress(body, mtime=0), "gzip"
    if rng.random() < 0.4:
        more |= rng.choice(
            [
                *({"accept_encoding": each} for each in ("gzip", "deflate", "br", "gzip;q=0")),
                *({"accept": "text/html"}, {"cookie": "a=b"}, {"origin": "https://a.example"}),
                *({"host": "evil.example"}, {"x_request_id": "abc-1"}, {"x_request_id": "a b"}),
                *({"if_none_match": "*"}, {"expect": "100-continue"}, {"user_agent": "triton"}),
            ]
        )
    kind = "good" if rng.random() < 0.7 else rng.choice([*tokens, "operate", "operate"])
    headers = headers_of(tokens[kind], body, **more)
    if rng.random() < 0.1:
        headers = [(name, value) for name, value in headers if name != b"authorization"]
    if rng.random() < 0.03:
        headers.append(rng.choice(headers))
    return method, path, headers, body, rng.choice([1, 1, 3])


def test_both_doors_give_the_same_answers(tokens, settings):
    serving = {**settings.RECSERVE["SERVING"], "MAX_INFER_BYTES": 1200}
    settings.RECSERVE = {
        **settings.RECSERVE,
        "SERVING": serving,
        "ACCESS": {"THROTTLES": {"predict": {"operate": "3/day"}}},
    }
    rng = Random(11)
    asked = [request_of(rng, tokens) for _ in range(500)]
    django = Door()

    async def all_of(application):
        client = Client(application)
        return [await client.ask(*each) for each in asked]

    start_afresh()
    counted = request_log.HTTP.counts()
    slow = async_to_sync(all_of)(Door())
    of_django = request_log.HTTP.counts()
    start_afresh()
    fast = async_to_sync(all_of)(InferenceLane(django, aside=aside))
    of_lane = request_log.HTTP.counts()
    for each, by_django, by_lane in zip(asked, slow, fast, strict=True):
        given = [value for _, value in each[2]]
        assert comparable(by_lane, given) == comparable(by_django, given), (
            *each[:3],
            each[3][:99],
        )
    assert {200, 400, 401, 403, 404, 405, 413, 429} <= {answer[0] for answer in fast}
    assert django.asked < 250
    for key, count in of_lane.items():
        before = of_django.get(key, 0)
        if key[2] == "413":  # whose path Django has not looked at
            continue
        assert count - before == before - counted.get(key, 0), key


def test_an_inference_asks_no_django(tokens):
    async def nobody(*_):
        raise AssertionError("somebody was asked")

    body = json.dumps(GOOD).encode()
    lane = InferenceLane(nobody, aside=aside)
    status, headers, content = ask(lane, "POST", INFER, headers_of(tokens["good"], body), body)
    assert (status, json.loads(content)["model_name"]) == (200, "default")
    assert dict(headers)["x-request-id"]
    # Health waits for nothing.
    lane = InferenceLane(nobody, aside=nobody)
    assert ask(lane, "GET", "/v2/health/live", headers_of())[0] == 200


def test_it_is_closed_with_the_lane(tokens, settings):
    serving = {**settings.RECSERVE["SERVING"], "LANE": "off"}
    settings.RECSERVE = {**settings.RECSERVE, "SERVING": serving}
    django = Door()
    ask(InferenceLane(django, aside=aside), "GET", "/v2/health/live", headers_of())
    assert django.asked == 1
