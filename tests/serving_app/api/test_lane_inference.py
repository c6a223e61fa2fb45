"""The Open Inference Protocol at the lane: Django's answers, without Django."""

import asyncio
import gzip
import json
import threading
from random import Random

import numpy as np
import pytest
from asgiref.sync import async_to_sync

from plugins.frameworks import numpy_linear
from serving_app import access, request_log, wiring
from serving_app.api.lane_inference import InferenceLane
from tests.conftest import ITEMS
from tests.servers import wait_for
from tests.serving_app.api.test_lane import (
    Client,
    Door,
    aside,
    ask,
    comparable,
    gate,
    headers_of,
    start_afresh,
    tokens,
    version,
)

__all__ = ["gate", "tokens"]

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
    body = json.dumps(GOOD).encode()
    lane = InferenceLane(nobody, aside=aside)
    status, headers, content = ask(lane, "POST", INFER, headers_of(tokens["good"], body), body)
    assert (status, json.loads(content)["model_name"]) == (200, "default")
    assert dict(headers)["x-request-id"]
    # Health waits for nothing.
    lane = InferenceLane(nobody, aside=nobody)
    assert ask(lane, "GET", "/v2/health/live", headers_of())[0] == 200


async def nobody(*_):
    raise AssertionError("somebody was asked")


def infers(token, **more):
    """Return the arguments of a sound inference."""
    body = json.dumps({"id": "", **GOOD, **more}).encode()
    return "POST", INFER, headers_of(token, body), body


def known(token):
    access.verify(token.encode())
    return token


@pytest.mark.contract("A5")
def test_a_thousand_that_wait_hold_no_thread(tokens, gate):
    lane, token, many = InferenceLane(nobody, aside=nobody), known(tokens["good"]), 1000

    async def scene():
        first = asyncio.create_task(Client(lane).ask(*infers(token)))
        await asyncio.to_thread(gate.running.wait, 20)
        threads = threading.active_count()
        waiting = [
            asyncio.create_task(Client(lane).ask(*infers(token, id=str(n)))) for n in range(many)
        ]
        await asyncio.to_thread(wait_for, lambda: version().stats().queued == many)
        more = threading.active_count() - threads
        gate.set()
        return more, await first, await asyncio.gather(*waiting)

    more, first, answers = async_to_sync(scene)()
    assert more <= 2  # the test's own, which look
    assert first[0] == 200
    assert {each[0] for each in answers} == {200}
    assert [json.loads(each[2])["id"] for each in answers] == [str(n) for n in range(many)]


@pytest.mark.contract("A5")
@pytest.mark.parametrize("rows", [1, 200], ids=["one batch", "several batches"])
def test_what_a_client_that_goes_waited_for_is_not_run(tokens, gate, rows):
    lane, token = InferenceLane(nobody, aside=nobody), known(tokens["good"])
    tensor = {**ROW, "shape": [rows, 3], "data": [1.5] * 3 * rows}

    async def scene():
        first = asyncio.create_task(Client(lane).ask(*infers(token)))
        await asyncio.to_thread(gate.running.wait, 20)
        gone = asyncio.Event()
        leaving = asyncio.create_task(Client(lane).ask(*infers(token, inputs=[tensor]), gone=gone))
        mates = [asyncio.create_task(Client(lane).ask(*infers(token))) for _ in range(3)]
        parts = -(-rows // 64)
        await asyncio.to_thread(wait_for, lambda: version().stats().queued == parts + len(mates))
        gone.set()
        assert await leaving is None, "nobody is there to be answered"
        assert version().stats().cancelled == parts
        gate.set()
        return [await first, *[await mate for mate in mates]]

    answers = async_to_sync(scene)()
    assert {each[0] for each in answers} == {200}
    assert version().stats().runs.rows == len(answers)
    live = wiring.get_serving().live
    drained = live.swap("default", None)
    assert drained.wait(5), "no lease is left behind"


def test_a_time_out_is_kept_without_a_thread(tokens, gate):
    lane = InferenceLane(nobody, aside=nobody)
    asked = infers(known(tokens["good"]), parameters={"timeout": 50_000})
    status, _, content = ask(lane, *asked)
    assert (status, list(json.loads(content))) == (504, ["error"])
    assert "within 0.05 s" in json.loads(content)["error"]


def test_the_first_part_that_fails_is_the_answer(tokens, monkeypatch):
    predict = numpy_linear._Linear.predict

    def failing(self, inputs):
        (rows,) = inputs.values()
        if rows.max() > 5:
            raise ValueError("not this one")
        return predict(self, inputs)

    monkeypatch.setattr(numpy_linear._Linear, "predict", failing)
    data = [1.0] * 3 * 129
    data[-1] = 9.0  # in the third batch
    tensor = {**ROW, "shape": [129, 3], "data": data}
    lane, token = InferenceLane(nobody, aside=nobody), known(tokens["good"])
    status, _, content = ask(lane, *infers(token, inputs=[tensor]))
    assert status == 500
    assert "not this one" in json.loads(content)["error"]
    tensor["data"] = [1.0] * 3 * 129
    asides = []

    async def counted(call):
        asides.append(call)
        return await aside(call)

    lane = InferenceLane(nobody, aside=counted)
    answer = json.loads(ask(lane, *infers(token, inputs=[tensor]))[2])
    assert answer["outputs"][0]["shape"] == [129, ITEMS]
    tensor["data"], tensor["shape"] = [1.0] * 3 * 600, [600, 3]
    answer = json.loads(ask(lane, *infers(token, inputs=[tensor]))[2])
    assert answer["outputs"][0]["shape"] == [600, ITEMS]
    assert len(asides) == 1, "the larger answer is made on a thread"


def test_what_only_the_database_knows_is_asked_on_a_thread(tokens, settings):
    settings.RECSERVE = {**settings.RECSERVE, "ACCESS": {"THROTTLES": {"predict": "3/day"}}}
    lane = InferenceLane(nobody, aside=nobody)
    with pytest.raises(AssertionError, match="somebody was asked"):
        ask(lane, *infers(tokens["good"]))  # its token is new
    known(tokens["good"])
    assert ask(lane, *infers(tokens["good"]))[0] == 200
    method, path, *rest = infers(tokens["good"])
    with pytest.raises(AssertionError, match="somebody was asked"):
        ask(lane, method, path.replace("default", "nobody"), *rest)
    lane = InferenceLane(nobody, aside=aside)
    assert ask(lane, method, path.replace("default", "nobody"), *rest)[0] == 404
    assert ask(lane, *infers(tokens["good"]))[0] == 429, "each was counted once, until now"
    for refused in ("two words", "empty"):
        assert ask(InferenceLane(nobody, aside=nobody), *infers(tokens[refused]))[0] == 401


def test_it_is_closed_with_the_lane(tokens, settings):
    serving = {**settings.RECSERVE["SERVING"], "LANE": "off"}
    settings.RECSERVE = {**settings.RECSERVE, "SERVING": serving}
    django = Door()
    ask(InferenceLane(django, aside=aside), "GET", "/v2/health/live", headers_of())
    assert django.asked == 1
