"""The lane gives the answers of Django's door, to good requests and bad ones."""

import asyncio
import gzip
import json
import re
import threading
from dataclasses import replace
from datetime import timedelta
from random import Random

import jwt
import msgspec
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.utils import timezone
from rest_framework_simplejwt.tokens import AccessToken

from cache_app import wiring as cache_wiring
from cache_app.wiring import get_levels
from plugins.frameworks import numpy_linear
from serving_app import access, rates, request_log, wiring
from serving_app.api.body_limit import BodyLimit
from serving_app.api.lane import Lane
from serving_app.api.lane_inference import InferenceLane
from serving_app.api.request_ids import RequestIds
from tests.conftest import FEATURES
from tests.servers import wait_for

REQUESTS = 2400
PREDICT, BATCH = "/api/v1/predict", "/api/v1/predict/batch"
GOOD = {"user_id": "u1", "features": [1, 2, 3]}


async def aside(call):
    """Run what may wait where the test's database connection is."""
    return await sync_to_async(call, thread_sensitive=True)()


class Door:
    """An ASGI application that counts who asks it."""

    def __init__(self):
        self.asked = 0
        self._application = RequestIds(BodyLimit(get_asgi_application()))

    async def __call__(self, scope, receive, send):
        self.asked += 1
        await self._application(scope, receive, send)


class Client:
    """Sends one request to an application, in parts if told so."""

    def __init__(self, application):
        self._application = application

    async def ask(self, method, path, headers, body=b"", parts=1, gone=None):
        """Return status, headers and body; None: no answer came."""
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        step = max(1, -(-len(body) // parts))
        pieces = [body[at : at + step] for at in range(0, len(body), step)] or [b""]
        gone = gone or asyncio.Event()
        sent = []

        async def receive():
            if pieces:
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await self._application(scope, receive, send)
        if not sent:
            return None
        answered = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
        return sent[0]["status"], answered, b"".join(each.get("body", b"") for each in sent[1:])


def headers_of(token=None, body=b"", **more):
    headers = {
        "host": "localhost",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return [(k.encode(), v.encode("latin-1")) for k, v in headers.items() if v is not None]


@pytest.fixture
def tokens(client_as, live_model, django_user_model, settings):
    """Tokens of all kinds by what they are; one that was verified stays known, as answers do."""
    # No reconciler looks for revocations here, and a busy machine may take minutes.
    settings.RECSERVE = {
        **settings.RECSERVE,
        "ACCESS": {**settings.RECSERVE.get("ACCESS", {}), "REVOCATION_SECONDS": 3600},
        "CACHE": {**settings.RECSERVE.get("CACHE", {}), "TTL": 86_400, "EARLY": 0},
    }
    access.reset()
    assert access.remembered(b"") is None, "its memory is made as the settings are now"

    def of(role):
        client = client_as(role)
        return client._credentials["HTTP_AUTHORIZATION"].partition(" ")[2]

    good = of("predict")
    claims = jwt.decode(good, options={"verify_signature": False})
    expired = AccessToken(good)
    expired.set_exp(lifetime=-timedelta(hours=1))
    _, service = access.create_token("a program", role="predict")
    _, narrow = access.create_token("another", role="predict", models=[])
    row, revoked = access.create_token("a third", role="predict")
    row.revoked = timezone.now()
    row.save()
    gone = django_user_model.objects.create(username="gone", is_active=False)
    return {
        "good": good,
        "service": service,
        "operate": of("operate"),
        "nobody": of("nobody"),
        "narrow": narrow,
        "revoked": revoked,
        "inactive": str(AccessToken.for_user(gone)),
        "expired": str(expired),
        "forged": jwt.encode(claims, "x" * 40, algorithm="HS256"),
        "unsigned": jwt.encode(claims, None, algorithm="none"),
        "wrong audience": jwt.encode(
            {**claims, "aud": "else"}, django_settings.SECRET_KEY, algorithm="HS256"
        ),
        "rubbish": "rubbish",
        "two words": "two words",
        "empty": "",
    }


def body_of(rng):
    """Return the JSON value of a request, good or bad."""
    body = {
        "user_id": rng.choice(["u1", "u2", 7, "ü", *(f"v{rng.randrange(300)}",) * 3]),
        "features": [rng.randrange(3) for _ in FEATURES],
    }
    odd = rng.random()
    if odd < 0.3:
        body[rng.choice(["k", "titles", "explain", "exclude", "context", "model_name"])] = (
            rng.choice(
                [
                    *(0, 1, 5, 20, 1001, -1, 2.5, True, False, None, "5", "", "nobody's"),
                    *("default", "default@production", "default@1", "default@9", "@", "a@"),
                    *([], ["i1", "i2"], ["i1", 3], [None], ["x"] * 1001, {}, {"a": 1}),
                    *({"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}, {"a": "x" * 9000}, 30_000),
                ]
            )
        )
    elif odd < 0.33:
        body["timeout_ms"] = rng.choice([0, -1, True, None, "5", 600_001, 30_000, 1e4, []])
    elif odd < 0.4:
        body["features"] = rng.choice(
            [None, [], [1], [1, 2, "3"], [1, 2, True], {}, "abc", [1, 2, 1e39], [1, 2, None]]
        )
    elif odd < 0.45:
        body["features"] = dict(zip(FEATURES, rng.choices(range(3), k=3), strict=True))
        if rng.random() < 0.5:
            body["features"].pop("age")
    elif odd < 0.5:
        body["user_id"] = rng.choice([None, "", "x" * 257, "a\nb", 1.5, True, [], {}])
    elif odd < 0.55:
        body[rng.choice(["usr_id", "Features", "kk", "x" * 60, ""])] = 1
    elif odd < 0.57:
        body = rng.choice([[], None, 1, "x", {}, [body]])
    elif odd < 0.7:
        body["titles"] = rng.choice([True, False])
        body["k"] = rng.choice([1, 3, 20])
        body["exclude"] = [f"i{n}" for n in range(rng.randrange(6))]
    return body


def bytes_of(rng, value):
    """Return a body, as a rule the value's."""
    odd = rng.random()
    text = json.dumps(value).encode()
    if odd < 0.9:
        return text
    return rng.choice(
        [
            *(b"", b"{", b"nul", text[:-1], text + b"x", b"\xff" + text, b"[" * 5000, b'"\\ud800"'),
            *(b'{"user_id": "u", "features": [1, 2, NaN]}', b'{"user_id": "u", "k": 1e999}'),
            b'{"user_id": "u", "features": [1, 2, -Infinity], "k": 3}',
            b'{"user_id": "' + b"x" * 1_100_000 + b'"}',
        ]
    )


def request_of(rng, tokens):
    """Return method, path, headers, body and in how many parts it comes."""
    path = PREDICT
    healthy = rng.random() < 0.05
    if rng.random() < 0.15:
        path, requests = BATCH, [body_of(rng) for _ in range(rng.choice([0, 1, 2, 8, 257]))]
        value = rng.choice(
            [{"requests": requests}] * 6
            + [
                {"requests": 1},
                [],
                {"requests": requests, "batch_id": rng.choice([1, "b", "x" * 300])},
            ]
            + [{"requests": requests, "more": 1}]
        )
    else:
        value = body_of(rng)
    body = bytes_of(rng, value)
    if healthy and rng.random() < 0.8:
        body = b""
    kind = "good" if rng.random() < 0.7 else rng.choice([*tokens, "operate", "operate"])
    more = {}
    if rng.random() < 0.3:
        name = rng.choice(
            [
                *("accept", "accept_encoding", "x_request_id", "origin", "cookie", "host"),
                *("content_type", "content_length", "if_none_match", "content_encoding"),
            ]
        )
        more[name] = rng.choice(
            {
                "accept": ["*/*", "application/json", "text/html", "application/xml", ""],
                "accept_encoding": ["gzip", "gzip;q=0", "*", "br, gzip", "identity"],
                "x_request_id": ["abc-1", "a b", "x" * 200, "", "é"],
                "host": ["localhost", "127.0.0.1:8000", "evil.example", "a..b", ""],
                "content_type": ["application/json; charset=utf-8", "text/plain", "", "a/b"],
                "content_length": [None, "0"],
            }.get(name, ["a=b", "https://a.example", "*"])
        )
    method = "POST"
    if rng.random() < 0.06:
        method = rng.choice(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
    if healthy:
        path = rng.choice(["/api/v1/health/live", "/api/v1/health/ready"])
        method = rng.choice(["GET", "GET", "HEAD", "POST"])
    if rng.random() < 0.02:
        path += rng.choice(["/", "?format=json", "?a=1", "x"])
    if "content_length" in more:
        if more["content_length"] is None:
            more["transfer_encoding"] = "chunked"
        else:
            body = b""
    headers = headers_of(tokens[kind], body, **more)
    if rng.random() < 0.05:
        headers = [(name, value) for name, value in headers if name != b"authorization"]
    if rng.random() < 0.02:
        headers.append(rng.choice(headers))
    return method, path, headers, body, rng.choice([1, 1, 1, 3])


VOLATILE = {
    "age_ms",
    "queue_ms",
    "model_ms",
    "latency_ms",
    "total_latency_ms",
    "request_id",
    "retry_after",
}


def without_volatile(value):
    if isinstance(value, dict):
        return {k: without_volatile(v) for k, v in value.items() if k not in VOLATILE}
    return [without_volatile(each) for each in value] if isinstance(value, list) else value


def may_be_of_any_size(plain):
    """Return whether a body may be compressed or not, as latencies have more digits or fewer."""
    volatile = sum(plain.count(b'"%b"' % name.encode()) for name in VOLATILE)
    steady = re.sub(rb'"(%b)":("[^"]*"|[^,}]*)' % "|".join(VOLATILE).encode(), b"", plain)
    return abs(len(steady) + 24 * volatile - 1024) <= 24 * volatile


def comparable(answer, given):
    """Return what must be equal of an answer."""
    status, headers, body = answer
    by_name = {name.lower(): value for name, value in headers}
    assert len(by_name) == len(headers), headers
    id_ = by_name.pop("x-request-id")
    length = by_name.pop("content-length", None)
    assert length is None or int(length) == len(body) or not body
    if by_name.get("content-type", "").startswith("text/html"):
        return status, by_name["content-type"]  # a page of Django's, with a new cookie each time
    encoding = by_name.pop("content-encoding", "")
    plain = gzip.decompress(body) if encoding else body
    if may_be_of_any_size(plain):
        encoding = by_name["vary"] = ""
    if "vary" in by_name:
        by_name["vary"] = sorted(by_name["vary"].lower().split(", "))
    by_name["retry-after"] = "retry-after" in by_name
    by_name["server-timing"] = "server-timing" in by_name
    value = plain
    if by_name.get("content-type", "").endswith("json") and plain:
        value = msgspec.json.decode(plain)
        if isinstance(value, dict) and "batch_id" in value and len(value["batch_id"]) == 36:
            value["batch_id"] = "random"
        value = without_volatile(value)
    return status, by_name, encoding, value, id_ if id_.encode() in given else len(id_)


def start_afresh():
    wiring.stop()
    cache_wiring.reset()
    access.reset()
    rates.reset()
    wiring.get_serving().reconciler.reconcile()


def counts():
    """Return what the main path and L1 have counted, but for times."""
    stats = wiring.get_recommender().stats()["default"]
    l1 = get_levels().stats()["l1"]
    return (
        replace(stats, seconds=stats.seconds.count, durations={}),
        (l1.hits, l1.misses, l1.insertions, l1.entries),
        activity_of_this_process(),
    )


def activity_of_this_process():
    waiting = wiring.get_serving().activity._waiting
    return [(*each[:5], each[6]) for each in waiting]  # without when


@pytest.mark.contract("A1")
def test_both_doors_give_the_same_answers(tokens, settings):
    settings.RECSERVE = {
        **settings.RECSERVE,
        # So slow that none comes back while this runs.
        "ACCESS": {"THROTTLES": {"predict": {"operate": "30/day"}}},
    }
    rng = Random(5)
    asked = [request_of(rng, tokens) for _ in range(REQUESTS)]
    django = Door()
    lane = Lane(django, aside=aside)

    async def all_of(application):
        client = Client(application)
        return [await client.ask(*each) for each in asked]

    start_afresh()
    slow = async_to_sync(all_of)(Door())
    counted = counts()
    start_afresh()
    fast = async_to_sync(all_of)(lane)
    assert counts() == counted
    for each, by_django, by_lane in zip(asked, slow, fast, strict=True):
        given = [value for _, value in each[2]]
        assert comparable(by_lane, given) == comparable(by_django, given), (
            *each[:3],
            each[3][:300],
        )
    statuses = {answer[0] for answer in fast}
    assert {200, 400, 401, 403, 404, 405, 413, 422, 429} <= statuses
    assert django.asked < REQUESTS / 3, "the lane answers the usual requests itself"


@pytest.mark.contract("A8")
def test_an_answer_says_how_it_came_about_to_operators_alone(tokens):
    lane, question = Lane(Door(), aside=aside), {**GOOD, "user_id": "curious", "explain": True}
    refused = post(lane, tokens["good"], question)
    assert (refused[0], json.loads(refused[2])["code"]) == (403, "explanation-not-permitted")
    _, headers, body = post(lane, tokens["operate"], question)
    computed = json.loads(body)["explain"]
    assert {name: value for name, value in computed.items() if not name.endswith("_ms")} == {
        "cache_level": None,
        "model_version": 1,
        "alias": "production",
        "segment": "all",
        "batch_size": 1,
    }
    assert computed["age_ms"] is None
    assert computed["queue_ms"] >= 0 < computed["model_ms"]
    timing = dict(headers)["server-timing"]
    assert "cache;desc=miss" in timing
    assert f"model;dur={computed['model_ms']:g};desc=batch-of-1" in timing
    _, headers, body = post(lane, tokens["operate"], question)
    found = json.loads(body)["explain"]
    assert (found["cache_level"], found["batch_size"], found["model_ms"]) == ("l1", None, None)
    assert found["age_ms"] >= 0
    assert f"cache;desc=l1, age;dur={found['age_ms']:g}" in dict(headers)["server-timing"]
    batch = {"requests": [question, GOOD]}
    answers = json.loads(post(lane, tokens["operate"], batch, BATCH)[2])["results"]
    assert ["explain" in each for each in answers] == [True, False]


def ask(lane, *arguments, **more):
    return async_to_sync(Client(lane).ask)(*arguments, **more)


def post(lane, token, value, path=PREDICT, **more):
    body = json.dumps(value).encode()
    return ask(lane, "POST", path, headers_of(token, body), body, **more)


@pytest.mark.contract("A1")
def test_a_hit_is_answered_in_one_go(tokens, monkeypatch):
    lines = []
    monkeypatch.setattr(request_log.logger, "handle", lambda record: lines.append(record.recserve))
    lane = Lane(Door(), aside=aside)
    first = json.loads(post(lane, tokens["good"], GOOD)[2])
    http = request_log.HTTP.counts()["POST", "api/v1/predict", "200"]
    lane._answer = None  # the way of all that is no plain hit
    hits = []
    for logged in (True, False):
        monkeypatch.setattr(request_log, "is_logged", lambda logged=logged: logged)
        asked = {**GOOD, "context": {}, "exclude": [], "timeout_ms": 50}
        hits.append(post(lane, tokens["good"], asked))
        answer = json.loads(hits[-1][2])
        assert list(answer) == list(first)
        assert answer["latency_ms"] >= 0
        assert answer == {
            **first,
            "latency_ms": answer["latency_ms"],
            "cached": True,
            "source": "l1",
        }
    of_miss, of_hit = lines
    for each in (of_miss, of_hit):
        assert each.pop("latency_ms") >= 0
    assert of_hit.pop("request_id") == dict(hits[0][1])["x-request-id"] != of_miss.pop("request_id")
    assert of_hit == {**of_miss, "source": "l1"}
    assert of_hit["user"] == request_log.user_hash("u1")
    assert request_log.HTTP.counts()["POST", "api/v1/predict", "200"] == http + 2
    assert request_log.HTTP.seconds()["POST", "api/v1/predict"].count >= http + 2


@pytest.mark.contract("A5")
def test_a_hit_asks_neither_django_nor_a_thread(tokens):
    async def nobody(*_):
        raise AssertionError("somebody was asked")

    first = post(Lane(nobody, aside=aside), tokens["good"], GOOD)
    hit = post(Lane(nobody, aside=nobody), tokens["good"], GOOD)
    assert (first[0], json.loads(first[2])["source"]) == (200, "model")
    assert (hit[0], json.loads(hit[2])["source"]) == (200, "l1")


@pytest.mark.contract("A3")
def test_a_revoked_token_is_refused_at_once(tokens):
    row, text = access.create_token("short-lived", role="predict")
    lane = Lane(Door(), aside=aside)
    assert post(lane, text, GOOD)[0] == 200
    row.revoked = timezone.now()
    row.save()
    access.refresh()
    assert post(lane, text, GOOD)[0] == 401


@pytest.mark.parametrize("why", ["told so", "own middleware", "no throttles"])
def test_it_is_off_when_told_so_and_never_goes_round_own_middleware(tokens, settings, why):
    if why == "told so":
        serving = {**settings.RECSERVE["SERVING"], "LANE": "off"}
        settings.RECSERVE = {**settings.RECSERVE, "SERVING": serving}
    elif why == "own middleware":
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, "shop.middleware.allow_list"]
    else:
        settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "DEFAULT_THROTTLE_CLASSES": []}
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS]  # which is noticed
    asked = []

    async def django(scope, receive, send):
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 204, "headers": []})

    assert post(Lane(django, aside=aside), tokens["good"], GOOD)[0] == 204
    assert asked == [PREDICT]


@pytest.fixture
def gate(monkeypatch):
    """Holds the model until it is set."""
    gate, running = threading.Event(), threading.Event()
    predict = numpy_linear._Linear.predict

    def held(self, inputs):
        running.set()
        assert gate.wait(20)
        return predict(self, inputs)

    monkeypatch.setattr(numpy_linear._Linear, "predict", held)
    gate.running = running
    yield gate
    gate.set()


def version():
    return wiring.get_serving().live.routes()["default"].aliases["production"]


@pytest.mark.contract("A5")
@pytest.mark.parametrize("stays", [False, True], ids=["nobody else waits", "another one waits"])
def test_what_a_client_that_goes_waited_for_is_not_computed(tokens, gate, stays):
    lane = Lane(Door(), aside=aside)
    token = tokens["good"]
    assert access.verify(token.encode())

    async def scene():
        async def question(user, gone=None):
            body = json.dumps({**GOOD, "user_id": user}).encode()
            headers = headers_of(token, body)
            return await Client(lane).ask("POST", PREDICT, headers, body, gone=gone)

        first = asyncio.create_task(question("first"))
        await asyncio.to_thread(gate.running.wait, 20)
        gone = asyncio.Event()
        leaving = asyncio.create_task(question("second", gone))
        staying = asyncio.create_task(question("second")) if stays else None
        await asyncio.to_thread(wait_for, lambda: version().stats().queued)
        for _ in range(20):  # so that the other has joined
            await asyncio.sleep(0)
        gone.set()
        assert await leaving is None, "nobody is there to be answered"
        cancelled = version().stats().cancelled
        gate.set()
        assert (await first)[0] == 200
        if staying is not None:
            assert (await staying)[0] == 200
        return cancelled

    assert async_to_sync(scene)() == (0 if stays else 1)
    wait_for(lambda: version().stats().queued == 0)
    assert version().stats().total_seconds.summary().count == (2 if stays else 1)


def test_a_deadline_is_kept_and_what_waits_is_given_up(tokens, gate):
    lane = Lane(Door(), aside=aside)
    answer = post(lane, tokens["good"], {**GOOD, "timeout_ms": 50})
    assert (answer[0], json.loads(answer[2])["code"]) == (504, "deadline-exceeded")


@pytest.mark.contract("A5")
@pytest.mark.parametrize("path", [PREDICT, BATCH])
def test_a_deadline_is_kept_by_what_is_taken_out_of_the_queue(tokens, gate, path):
    lane = Lane(Door(), aside=aside)
    late = {**GOOD, "user_id": "late", "timeout_ms": 50}

    async def scene():
        def question(value, where=PREDICT):
            body = json.dumps(value).encode()
            return Client(lane).ask("POST", where, headers_of(tokens["good"], body), body)

        first = asyncio.create_task(question(GOOD))
        await asyncio.to_thread(gate.running.wait, 20)
        answer = await question(late if path == PREDICT else {"requests": [late]}, path)
        assert version().stats().cancelled == 1
        gate.set()
        assert (await first)[0] == 200
        return answer

    status, _, body = async_to_sync(scene)()
    problem = json.loads(body)
    if path == BATCH:
        assert status == 200
        problem = problem["results"][0]
        problem = problem.get("error", problem)
    assert problem["code"] == "deadline-exceeded"


@pytest.mark.contract("A5")
@pytest.mark.parametrize("path", [PREDICT, BATCH, "/api/v1/events", "/v2/models/default/infer"])
def test_a_body_that_says_it_is_too_large_is_not_waited_for(tokens, path):
    async def scene():
        sent = []

        async def receive():
            raise AssertionError("its body is waited for")

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "query_string": b"",
            "headers": headers_of(tokens["good"], b"", content_length=str(10**12)),
        }
        door = Door()
        await Lane(InferenceLane(door, aside=aside), aside=aside)(scope, receive, send)
        return sent

    start, body = async_to_sync(scene)()
    assert start["status"] == 413
    kind = b"application/json" if path.startswith("/v2") else b"application/problem+json"
    assert dict(start["headers"])[b"content-type"] == kind
    assert dict(start["headers"])[b"connection"] == b"close"
    assert ("error" if path.startswith("/v2") else "request_id") in json.loads(body["body"])


def test_a_body_that_does_not_come_is_no_request(tokens):
    async def scene():
        gone = asyncio.Event()
        gone.set()
        client = Client(Lane(Door(), aside=aside))
        # Half a body, and then nothing: what the server reports is a disconnect.
        sent = []

        async def receive():
            if not sent:
                sent.append(1)
                return {"type": "http.request", "body": b"{", "more_body": True}
            return {"type": "http.disconnect"}

        async def send(message):
            raise AssertionError(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": PREDICT,
            "query_string": b"",
            "headers": headers_of(tokens["good"], b"{}"),
        }
        await client._application(scope, receive, send)

    async_to_sync(scene)()
