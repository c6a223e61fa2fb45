"""The protocol class answers plain hits, and nobody can tell it from uvicorn's own otherwise."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cache_app import wiring as cache_wiring
from plugins import RecommendationRequest
from serving_app import access, request_log, wiring
from serving_app.api import lane_http, protocol
from serving_app.api.lane import Lane
from serving_app.api.patience import SlowConnections
from serving_app.api.protocol import LaneProtocol
from tests.fakes import FakeClock
from tests.serving_app.api.test_lane import (
    GOOD,
    PREDICT,
    Door,
    aside,
    comparable,
    gate,
    headers_of,
    request_of,
    start_afresh,
    tokens,
    version,
)
from tests.wire import Wire, raw, responses

__all__ = ["gate", "tokens"]

pytestmark = pytest.mark.contract("A1")

KNOWN = [f"u{n}" for n in range(1, 5)]


class Echo:
    """An application that says which request it was asked, once it may."""

    def __init__(self, *, held=False):
        self.bodies = []
        self.may = asyncio.Event()
        if not held:
            self.may.set()

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        await self.may.wait()
        told = json.dumps(
            {
                "echo": [scope["method"], scope["path"], scope["http_version"]],
                "headers": [(k.decode(), v.decode("latin-1")) for k, v in scope["headers"]],
                "body": body.decode("latin-1"),
            }
        ).encode()
        head = [(b"content-length", b"%d" % len(told))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": told})


@pytest.fixture
def token(tokens):
    """A token that is remembered, and answers at hand for the users `KNOWN`."""
    access.verify(tokens["good"].encode())
    for user in KNOWN:
        wiring.get_recommender().recommend(
            RecommendationRequest(user_id=user, features=GOOD["features"])
        )
    return tokens["good"]


def question(token, user="u1", path=PREDICT, method="POST", **more):
    body = json.dumps({**GOOD, "user_id": user}).encode()
    return raw(method, path, headers_of(token, body, **more), body)


def run(scene):
    return async_to_sync(scene)()


def ask(application, *pieces, protocol=LaneProtocol, **options):
    """Return what a new connection answers."""

    async def scene():
        return await Wire(application, protocol, **options).ask(*pieces)

    return run(scene)


class Protocol(LaneProtocol):
    """One whose threads have the test's database."""

    aside = staticmethod(aside)


async def nobody(scope, receive, send):
    raise AssertionError("uvicorn's own way was taken")


def test_a_whole_hit_is_answered_here(token):
    answer = ask(nobody, question(token), question(token, "u2"))
    first, second = responses(answer)
    assert [json.loads(each[2])["user_id"] for each in (first, second)] == ["u1", "u2"]
    assert json.loads(first[2])["source"] == "l1"
    assert answer.startswith(b"HTTP/1.1 200 OK\r\ndate: today\r\n")


ORDINARY = (
    {},
    {"x_request_id": "call-7"},
    {"x_request_id": "no id"},
    {"accept_encoding": "gzip"},
    {"accept_encoding": "br"},
    {"accept": "application/json", "user_agent": "x/1", "traceparent": "00-1-2-01"},
    {"x_forwarded_for": "10.1.2.3", "x_forwarded_proto": "http"},
    {"x_forwarded_proto": "https"},
    {"connection": "Keep-Alive"},
    {"content_type": "application/json; charset=utf-8"},
)


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_its_answer_is_that_of_the_lane(token, long, monkeypatch, settings):
    settings.SECURE_HSTS_SECONDS = 60
    if long:
        monkeypatch.setattr(lane_http, "COMPRESS_ABOVE", 100)
    for more in ORDINARY:
        sent = question(token, **more)
        (fast,) = responses(ask(nobody, sent))
        lane = Lane(Door(), aside=aside)
        (slow,) = responses(ask(lane, sent, protocol=HttpToolsProtocol))
        given_ = [value.encode() for value in more.values()]
        assert comparable(fast, given_) == comparable(slow, given_), more
        # The order of headers, too.
        assert [name for name, _ in fast[1]] == [name for name, _ in slow[1]]
        by_https = more.get("x_forwarded_proto") == "https"
        assert (("strict-transport-security", "max-age=60") in fast[1]) == by_https


def test_any_split_is_left_to_uvicorn_whole(token):
    sent = question(token)

    async def scene():
        for at in range(1, len(sent)):
            echo = Echo()
            wire = Wire(echo, LaneProtocol)
            (answer,) = responses(await wire.ask(sent[:at], sent[at:]))
            told = json.loads(answer[2])
            assert told["body"].encode() == sent.partition(b"\r\n\r\n")[2], at
            assert told["echo"] == ["POST", PREDICT, "1.1"]
            wire.protocol.connection_lost(None)
        echo = Echo()
        wire = Wire(echo, LaneProtocol)
        (answer,) = responses(await wire.ask(*[bytes([each]) for each in sent]))
        # Where a message has ended, the next one is looked at again.
        await wire.ask(sent)
        assert len(echo.bodies) == 1
        assert len(responses(wire.transport.written)) == 2

    run(scene)


@pytest.mark.parametrize("pieces", ["one after another", "in one", "the first with half a second"])
def test_no_answer_overtakes_another(token, pieces):
    other, hit = question(token, path="/slow", user="u1"), question(token, "u2")

    async def scene():
        echo = Echo(held=True)
        wire = Wire(echo, LaneProtocol)
        data = other + hit + hit
        cuts = {
            "one after another": [len(other), len(other) + len(hit)],
            "in one": [],
            "the first with half a second": [len(other) + 100, len(other) + len(hit)],
        }[pieces]
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            wire.send(data[start:end])
            for _ in range(10):
                await asyncio.sleep(0)
        assert wire.transport.written == b"", "the first has not been answered yet"
        echo.may.set()
        await wire.settle()
        paths = [json.loads(each[2])["echo"][1] for each in responses(wire.transport.written)]
        assert paths == ["/slow", PREDICT, PREDICT]
        await wire.ask(hit)
        assert len(echo.bodies) == 3
        assert json.loads(responses(wire.transport.written)[3][2])["user_id"] == "u2"

    run(scene)


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_body_that_reads_like_a_request_is_a_body(token, coding):
    smuggled = question(token, "u2")
    if coding == "length":
        head = raw("POST", "/upload", headers_of(token, smuggled))
        pieces = [head, smuggled]
    else:
        headers = headers_of(token, content_length=None, transfer_encoding="chunked")
        head = raw("POST", "/upload", headers)
        pieces = [head, b"%x\r\n" % len(smuggled), smuggled, b"\r\n0\r\n\r\n"]

    async def scene():
        echo = Echo()
        wire = Wire(echo, LaneProtocol)
        for piece in pieces:  # not until each is answered: the body is not complete
            wire.send(piece)
            for _ in range(10):
                await asyncio.sleep(0)
        await wire.settle()
        (answer,) = responses(wire.transport.written)
        assert json.loads(answer[2])["echo"][1] == "/upload"
        assert echo.bodies == [smuggled]

    run(scene)


def test_a_body_of_which_an_early_answer_takes_no_notice_is_none_either(token):
    smuggled = question(token, "u2")

    async def early(scope, receive, send):
        head = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 403, "headers": head})
        await send({"type": "http.response.body", "body": b"no"})

    async def scene():
        wire = Wire(early, LaneProtocol)
        await wire.ask(raw("POST", "/upload", headers_of(token, smuggled)))
        assert wire.protocol.cycle.response_complete
        await wire.ask(smuggled)
        assert [each[0] for each in responses(wire.transport.written)] == [403]
        await wire.ask(smuggled)
        assert [each[0] for each in responses(wire.transport.written)] == [403, 200]

    run(scene)


def odd(token):
    """Return requests that are out of the ordinary, by what is odd."""
    body = json.dumps(GOOD).encode()

    def with_(**more):
        return raw("POST", PREDICT, headers_of(token, body, **more), body)

    plain = with_()
    lengths = b"content-length: %d\r\n" % len(body)
    return {
        "HTTP/1.0": plain.replace(b"HTTP/1.1", b"HTTP/1.0"),
        "HTTP/2.0": plain.replace(b"HTTP/1.1", b"HTTP/2.0"),
        "expect": with_(expect="100-continue"),
        "chunked": raw(
            "POST",
            PREDICT,
            headers_of(token, content_length=None, transfer_encoding="chunked"),
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        ),
        "length and chunked": with_(transfer_encoding="chunked"),
        "two lengths": plain.replace(lengths, lengths * 2),
        "two lengths that differ": plain.replace(lengths, lengths + b"content-length: 1\r\n"),
        "no length": plain.replace(lengths, b""),
        "a length with a sign": plain.replace(b"content-length: ", b"content-length: +"),
        "a negative length": plain.replace(b"content-length: ", b"content-length: -"),
        "a huge length": plain.replace(b"content-length: ", b"content-length: " + b"9" * 5000),
        "lengths in a list": plain.replace(lengths, b"content-length: 1, %d\r\n" % len(body)),
        "a blank before the colon": plain.replace(b"content-length:", b"content-length :"),
        "a continued line": plain.replace(b"localhost\r\n", b"localhost\r\n more\r\n"),
        "a bare line feed": plain.replace(b"localhost\r\n", b"localhost\n"),
        "a bare carriage return": plain.replace(b"localhost\r\n", b"localhost\rx: y\r\n"),
        "a NUL": plain.replace(b"localhost", b"local\0host"),
        "no colon": plain.replace(b"host: localhost", b"host"),
        "no name": plain.replace(b"host: localhost", b": localhost"),
        "no host": plain.replace(b"host: localhost\r\n", b""),
        "two hosts": plain.replace(b"host: localhost\r\n", b"host: localhost\r\n" * 2),
        "a host that is not allowed": plain.replace(b"localhost", b"evil.example"),
        "upgrade": with_(connection="upgrade", upgrade="h2c"),
        "upgrade alone": with_(upgrade="websocket"),
        "close": with_(connection="close"),
        "close, among others": with_(connection="keep-alive, close"),
        "an origin": with_(origin="https://a.example"),
        "a cookie": with_(cookie="a=b"),
        "a coding": with_(content_encoding="gzip"),
        "a page": with_(accept="text/html"),
        "another type": with_(content_type="text/plain"),
        "a scheme of a proxy": with_(x_forwarded_proto="wss"),
        "no token": raw("POST", PREDICT, headers_of(None, body), body),
        "an unknown token": raw("POST", PREDICT, headers_of("rubbish", body), body),
        "two words": raw("POST", PREDICT, headers_of("two words", body), body),
        "two tokens": plain.replace(b"content-type", b"authorization: Bearer x\r\ncontent-type"),
        "a query": plain.replace(b"predict ", b"predict?a=1 "),
        "a fragment": plain.replace(b"predict ", b"predict#a "),
        "a whole address": plain.replace(b"/api", b"http://localhost/api", 1),
        "two blanks": plain.replace(b"POST /", b"POST  /"),
        "another path": plain.replace(b"predict ", b"predictions "),
        "an escaped path": plain.replace(b"predict ", b"predic%74 "),
        "another method": plain.replace(b"POST", b"PUT", 1),
        "a small method": plain.replace(b"POST", b"post", 1),
        "HEAD": plain.replace(b"POST", b"HEAD", 1),
        "a long head": with_(x_long="x" * 9000),
        "a body too short": plain[:-1],
        "a body too long": plain + b"x",
        "a line after the body": plain + b"\r\n",
        "rubbish": b"rubbish\r\n\r\n",
        "empty lines first": b"\r\n\r\n" + plain,
        "a wrong body": plain[:-1] + b"]",
        "wants an explanation": plain.replace(b'"user_id"', b'"explain": true, "user_id"'),
    }


def test_what_is_out_of_the_ordinary_is_uvicorns_as_if_nobody_had_looked(token):
    counted = request_log.HTTP.counts()

    async def scene(protocol, data):
        echo = Echo()
        wire = Wire(echo, protocol)
        wire.send(data)
        for _ in range(20):
            await asyncio.sleep(0)
        return wire.transport.written, wire.transport.closed, echo.bodies

    for why, data in odd(token).items():
        here = async_to_sync(scene)(LaneProtocol, data)
        there = async_to_sync(scene)(HttpToolsProtocol, data)
        assert here == there, why
        if why != "empty lines first":
            assert b'"source"' not in here[0], why
    assert request_log.HTTP.counts() == counted


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ({"user_id": "new 1"}, 200),
        ({"user_id": "new 2", "k": 3, "exclude": ["i1"], "context": {"page": "home"}}, 200),
        ({"user_id": 3, "features": {"age": 1.0, "visits": 2.0, "spend": 3.0}}, 200),
        ({"user_id": "new 4", "model_name": "default@1", "timeout_ms": 5000}, 200),
        ({"user_id": "new 5", "model_name": "none"}, 404),
        ({"user_id": "new 6", "model_name": "default@none"}, 404),
        ({"user_id": "new 7", "features": [1.0]}, 422),
        ({"user_id": "new 8", "features": [1e39, 1.0, 1.0]}, 422),
        ({"user_id": "new 9", "features": None}, 422),
    ],
)
def test_what_is_not_at_hand_is_computed_here_as_by_the_lane(token, what, status):
    body = json.dumps({**GOOD, **what}).encode()
    sent = raw("POST", PREDICT, headers_of(token, body, x_request_id="call-7"), body)
    (here,) = responses(ask(nobody, sent, protocol=Protocol))
    cache_wiring.get_levels().clear()
    (there,) = responses(ask(Lane(Door(), aside=aside), sent, protocol=HttpToolsProtocol))
    assert here[0] == status, here
    assert comparable(here, [b"call-7"]) == comparable(there, [b"call-7"])
    assert [name for name, _ in here[1]] == [name for name, _ in there[1]]


def test_what_comes_while_an_answer_is_computed_is_answered_after_it(token, gate):
    miss, hit = question(token, "somebody new"), question(token, "u2")

    async def scene():
        echo = Echo()
        wire = Wire(echo, Protocol)
        wire.send(miss)
        assert await asyncio.to_thread(gate.running.wait, 20)
        wire.send(hit + question(token, path="/else"))
        for piece in (hit[:50], hit[50:]):
            wire.send(piece)
        assert wire.transport.written == b""
        large = b"x" * 70_000
        wire.send(raw("POST", "/large", headers_of(token, large), large))
        assert not wire.transport.reading, "a client cannot fill the memory"
        gate.set()
        await wire.settle()
        assert wire.transport.reading
        first, *rest = [json.loads(each[2]) for each in responses(wire.transport.written)]
        assert first["user_id"] == "somebody new"
        assert [each["echo"][1] for each in rest] == [PREDICT, "/else", PREDICT, "/large"]
        return wire.state.total_requests

    assert run(scene) == 5


def test_who_goes_takes_the_question_back(token, gate):
    computed = version().stats().total_seconds.summary().count

    async def scene():
        first, wire = Wire(nobody, Protocol), Wire(nobody, Protocol)
        first.send(question(token, "somebody new"))
        assert await asyncio.to_thread(gate.running.wait, 20)
        wire.send(question(token, "in the queue"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert version().stats().queued == 1
        wire.protocol.connection_lost(None)
        counted = request_log.HTTP.counts()
        await wire.settle()
        assert wire.transport.written == b""
        gate.set()
        await first.settle()
        assert len(responses(first.transport.written)) == 1
        assert request_log.HTTP.counts() != counted, "it was counted, without an answer"

    run(scene)
    stats = version().stats()
    assert (stats.queued, stats.cancelled) == (0, 1)
    assert stats.total_seconds.summary().count == computed + 1


def test_a_server_that_stops_waits_for_what_is_computed(token, gate):
    async def scene():
        wire = Wire(nobody, Protocol)
        wire.send(question(token, "somebody new"))
        assert await asyncio.to_thread(gate.running.wait, 20)
        wire.protocol.shutdown()
        assert not wire.transport.closed
        gate.set()
        await wire.settle()
        assert wire.transport.closed
        return responses(wire.transport.written)

    ((status, headers, _),) = run(scene)
    assert status == 200
    assert ("connection", "close") in headers


def test_a_fault_of_ours_closes_the_connection_and_hangs_nobody(token, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("broken on purpose")
        yield

    monkeypatch.setattr(protocol, "computing", broken)

    async def scene():
        wire = Wire(nobody, Protocol)
        await wire.ask(question(token, "somebody new"))
        return wire.transport.written, wire.transport.closed, wire.protocol.answering

    assert run(scene) == (b"", True, False)
    assert "broken on purpose" in caplog.text


def test_a_connection_is_not_closed_while_its_answer_is_computed(token, gate):
    async def scene():
        loop = ClockedLoop(asyncio.get_running_loop())
        wire = Wire(nobody, Protocol, loop=loop, timeout_keep_alive=5)
        wire.send(question(token))
        wire.send(question(token, "somebody new"))
        assert await asyncio.to_thread(gate.running.wait, 20)
        clock = FakeClock()
        slow = SlowConnections(clock)
        slow._since[wire.protocol] = (None, clock.now)
        for _ in range(3):
            loop.advance(1000)
            clock.now += 1000
            slow.sweep()
        assert not wire.transport.closed
        gate.set()
        await wire.settle()
        loop.advance(4)
        assert not wire.transport.closed
        loop.advance(1)
        assert wire.transport.closed
        assert len(responses(wire.transport.written)) == 2

    run(scene)


@given(st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_however_requests_are_cut_each_gets_its_answer_in_order(token, data):
    users = data.draw(st.lists(st.sampled_from([*KNOWN, "stranger", "other"]), max_size=6))
    sent = b"".join(
        question(token, user, path="/else" if user == "other" else PREDICT) for user in users
    )
    ends = [0]
    for user in users:
        size = len(question(token, user, path="/else" if user == "other" else PREDICT))
        ends.append(ends[-1] + size)
    at_will = st.integers(0, len(sent))
    cuts = sorted(set(data.draw(st.lists(at_will | st.sampled_from(ends), max_size=8))))
    patience = data.draw(
        st.lists(st.integers(0, 3), min_size=len(cuts) + 1, max_size=len(cuts) + 1)
    )

    async def scene():
        wire = Wire(Echo(), LaneProtocol)
        pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        for piece, rounds in zip(pieces, patience, strict=True):
            if piece:
                wire.send(piece)
            for _ in range(rounds):
                await asyncio.sleep(0)
        await wire.settle()
        answered = [json.loads(each[2]) for each in responses(wire.transport.written)]
        return [
            each.get("user_id") or json.loads(each["body"])["user_id"] for each in answered
        ], wire.state.total_requests

    assert run(scene) == (users, len(users))


@dataclass(eq=False)
class Timer:
    loop: Any
    at: float
    call: Callable[[], None]

    def cancel(self):
        self.loop.timers.remove(self)


class ClockedLoop:
    """A loop whose clock and timers are the test's."""

    def __init__(self, loop):
        self._loop = loop
        self.now = 100.0
        self.timers = []

    def time(self):
        return self.now

    def call_later(self, seconds, call):
        self.timers.append(Timer(self, self.now + seconds, call))
        return self.timers[-1]

    def __getattr__(self, name):
        return getattr(self._loop, name)

    def advance(self, seconds):
        self.now += seconds
        for timer in [each for each in self.timers if each.at <= self.now]:
            self.timers.remove(timer)
            timer.call()


def test_a_connection_is_kept_for_as_long_as_it_is_used(token):
    async def scene():
        loop = ClockedLoop(asyncio.get_running_loop())
        wire = Wire(Echo(), LaneProtocol, loop=loop, timeout_keep_alive=5)
        wire.send(question(token))
        for _ in range(3):
            loop.advance(4)
            wire.send(question(token))
        assert len(loop.timers) == 1
        loop.advance(4.9)
        assert not wire.transport.closed
        await wire.ask(question(token, path="/else"))
        loop.advance(4)
        wire.send(question(token))
        loop.advance(4)
        assert not wire.transport.closed
        loop.advance(1.1)
        assert wire.transport.closed
        assert len(responses(wire.transport.written)) == 6

    run(scene)


def test_a_server_that_stops_closes_an_idle_connection(token):
    async def scene():
        wire = Wire(nobody, LaneProtocol)
        await wire.ask(question(token))
        wire.protocol.shutdown()
        assert wire.transport.closed
        before = wire.transport.written
        wire.protocol.data_received(question(token))
        assert wire.transport.written == before

    run(scene)


def test_who_does_not_read_is_written_no_more(token):
    async def scene():
        echo = Echo()
        wire = Wire(echo, LaneProtocol)
        wire.protocol.pause_writing()
        wire.send(question(token))
        for _ in range(10):
            await asyncio.sleep(0)
        assert wire.transport.written == b""
        wire.protocol.resume_writing()
        await wire.settle()
        assert len(responses(wire.transport.written)) == 1
        await wire.ask(question(token))
        assert len(echo.bodies) == 1

    run(scene)


@pytest.mark.parametrize(
    ("serving", "options"),
    [
        ({"LANE": "off"}, {}),
        ({"MAX_BODY_BYTES": 10}, {}),
        ({}, {"limit_concurrency": 100}),
        ({}, {"root_path": "/shop"}),
    ],
    ids=["lane off", "body too large", "concurrency limited", "below a path"],
)
def test_a_server_that_is_out_of_the_ordinary_is_uvicorns(token, settings, serving, options):
    serving = {**settings.RECSERVE["SERVING"], **serving}
    settings.RECSERVE = {**settings.RECSERVE, "SERVING": serving}
    assert b'"echo"' in ask(Echo(), question(token), **options)


def test_https_is_demanded_where_it_is(token, settings):
    settings.SECURE_SSL_REDIRECT = True
    assert b'"echo"' in ask(Echo(), question(token))
    by_proxy = question(token, x_forwarded_proto="https")
    assert b'"user_id"' in ask(nobody, by_proxy)
    # Who is not trusted cannot say so.
    assert b'"echo"' in ask(Echo(), by_proxy, forwarded_allow_ips="10.0.0.1")


def test_a_revoked_token_and_a_new_head_are_looked_at_anew(token):
    row, text = access.create_token("short-lived", role="predict")
    assert b'"echo"' in ask(Echo(), question(text)), "it was not verified yet"
    access.verify(text.encode())
    assert b'"user_id"' in ask(nobody, question(text))
    row.role = "nothing"
    row.delete()
    access.refresh()
    assert b'"echo"' in ask(Echo(), question(text))


def test_an_error_on_the_way_is_left_to_the_other(token, monkeypatch):
    def broken(*_):
        raise RuntimeError("an eviction policy, say")

    monkeypatch.setattr(wiring.get_serving().hits._levels, "touch", broken)
    assert b'"echo"' in ask(Echo(), question(token))


def test_what_was_looked_for_is_not_looked_for_again(token, monkeypatch):
    looked = []
    find = wiring.get_serving().hits.find
    monkeypatch.setattr(
        type(wiring.get_serving().hits),
        "find",
        lambda _, wanted: looked.append(wanted) or find(wanted),
    )
    lane = Lane(Door(), aside=aside)
    (answer,) = responses(ask(lane, question(token, "a miss")))
    assert json.loads(answer[2])["source"] == "model"
    assert len(looked) == 1


def test_both_doors_give_the_same_answers_on_the_wire(tokens, settings):
    settings.RECSERVE = {
        **settings.RECSERVE,
        "ACCESS": {"THROTTLES": {"predict": {"operate": "30/day"}}},
    }
    rng = Random(7)
    asked = []
    while len(asked) < 1000:
        method, path, headers, body, _ = request_of(rng, tokens)
        if b"transfer-encoding" in dict(headers):
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        asked.append((raw(method, path, headers, body), [value for _, value in headers]))

    async def all_of(application, protocol):
        answers = []
        for sent, _ in asked:
            wire = Wire(application, protocol)
            await wire.ask(sent)
            answers.append(wire.transport.written)
            wire.protocol.connection_lost(None)
        return answers

    start_afresh()
    slow = async_to_sync(all_of)(Door(), HttpToolsProtocol)
    start_afresh()
    django = Door()
    fast = async_to_sync(all_of)(Lane(django, aside=aside), Protocol)
    for (sent, given_), by_django, by_lane in zip(asked, slow, fast, strict=True):
        if by_django.endswith(b"Invalid HTTP request received."):
            assert by_lane == by_django, sent[:300]
            continue
        (here,), (there,) = responses(by_lane, sent), responses(by_django, sent)
        assert comparable(here, given_) == comparable(there, given_), sent[:300]
    assert django.asked < 1000 / 3
