"""The lane above a real Redis: what it asks there, it asks on the event loop, without a thread."""

import asyncio
import json
import time

import pytest
from asgiref.sync import async_to_sync

from cache_app import wiring as cache_wiring
from cache_app.wiring import get_generations, get_levels
from serving_app import access, rates, wiring
from serving_app.api.lane import Lane
from tests import servers
from tests.cache_app.test_redis_level import shared
from tests.serving_app.api.test_lane import PREDICT, Client, headers_of

__all__ = ["shared"]

pytestmark = [pytest.mark.contract("A5"), pytest.mark.xdist_group("redis")]


@pytest.fixture
def server(shared):
    shared.client.flushall()
    shared.client.config_resetstat()
    return shared


@pytest.fixture
def token(server, settings, live_model, client_as):
    """A token that was verified, for a process whose L2 is the server, and L1 an entry."""
    cache = {"L1": {"CAPACITY": 1}, "L2": {"BACKEND": "redis", "URL": server.url}}
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": cache}
    given = settings.RECSERVE.get("ACCESS", {})
    settings.RECSERVE["ACCESS"] = {**given, "REVOCATION_SECONDS": 3600}
    wiring.stop()
    cache_wiring.reset()
    access.reset()
    rates.reset()
    wiring.get_serving().reconciler.reconcile()
    cache_wiring.start()  # who does not hear of invalidations looks into the database

    def heard():
        get_generations().refresh()
        return cache_wiring._signals._bus.connected

    servers.wait_for(heard, what="the bus is heard")
    get_generations().refresh()
    text = client_as("predict")._credentials["HTTP_AUTHORIZATION"].partition(" ")[2]
    assert access.verify(text.encode())
    return text


async def nobody(*_):
    raise AssertionError("somebody was asked")


class OnLoop:
    """A lane on an event loop that asks Redis itself; whoever asks a thread fails."""

    def __init__(self, token):
        self.token = token
        self.client = Client(Lane(nobody, aside=nobody))

    async def ask(self, user):
        body = json.dumps({"user_id": user, "features": [1, 2, 3]}).encode()
        answer = await self.client.ask("POST", PREDICT, headers_of(self.token, body), body)
        return answer[0], json.loads(answer[2])

    async def sources(self, users):
        answers = await asyncio.gather(*(self.ask(user) for user in users))
        assert {status for status, _ in answers} <= {200}
        return [value["source"] for _, value in answers]


def play(token, scene):
    async def main():
        wiring.attach(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(scene(OnLoop(token)), 60)
        finally:
            wiring.detach()

    async_to_sync(main)()


def calls(server, name):
    return server.client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0)


def test_misses_and_hits_in_redis_leave_the_event_loop_for_no_thread(token, server):
    users = [f"u{n}" for n in range(20)]

    async def scene(lane):
        assert await lane.sources(users) == ["model"] * 20
        before = calls(server, "mget"), calls(server, "get")
        assert sorted(await lane.sources(users)) == ["l1"] + ["l2"] * 19
        assert (calls(server, "mget"), calls(server, "get")) == (before[0] + 1, before[1])
        assert await lane.sources(users[:1]) == ["l2"]

    play(token, scene)
    stats = get_levels().stats()["l2"]
    assert (stats.misses, stats.hits, stats.insertions) == (20, 20, 20), "nothing is asked twice"
    counted = wiring.get_recommender().stats()["default"]
    assert counted.requests == 41
    servers.wait_for(lambda: not server.client.keys("rs-lease:*"), what="leases are given back")


def test_an_answer_of_a_lower_level_is_the_one_of_the_long_way(token, monkeypatch):
    answers = []

    async def scene(lane):
        answers.extend([await lane.ask(user) for user in ("a", "b", "a")])  # b puts a out of L1
        monkeypatch.setattr(wiring.get_serving().hits, "looking", _nothing)
        await lane.ask("b")
        answers.append(await lane.ask("a"))

    play(token, scene)
    short, long = answers[2:]
    for status, value in (short, long):
        assert status == 200
        assert value.pop("latency_ms") >= 0
    assert short == long
    assert short[1]["source"] == "l2"


def _nothing(_):
    return None
    yield


def test_a_redis_that_stands_still_or_dies_costs_misses_and_never_an_answer(token):
    users = [f"v{n}" for n in range(10)]
    with servers.one() as own:
        cache_wiring._bytes_levels["l2"]._servers._url = own.url
        cache_wiring._bytes_levels["l2"]._servers._forget()

        async def scene(lane):
            await lane.sources(users)
            assert "l2" in await lane.sources(users)
            own.stop()
            sources = await lane.sources(users)
            assert set(sources) <= {"model", "l1"}
            started = time.monotonic()
            await lane.sources(users)
            assert time.monotonic() - started < 20
            own.kill()
            assert set(await lane.sources(users)) <= {"model", "l1"}
            own.start()
            await asyncio.to_thread(own.wait)
            deadline = time.monotonic() + 20
            while "l2" not in await lane.sources(users):
                assert time.monotonic() < deadline, "it is used again"
                await asyncio.sleep(0.05)

        play(token, scene)


def test_shared_rates_are_counted_on_the_loop(token, settings, server):
    settings.RECSERVE["ACCESS"] = {
        **settings.RECSERVE["ACCESS"],
        "THROTTLES": {"predict": {"": "3/h"}},
    }
    access.reset()
    rates.reset()
    assert access.verify(token.encode())
    assert rates.shared()

    async def scene(lane):
        statuses = [(await lane.ask(user))[0] for user in ("x", "y", "x", "y")]
        assert statuses == [200, 200, 200, 429]

    play(token, scene)
    assert len(server.client.keys("rs-rate:*")) == 1
