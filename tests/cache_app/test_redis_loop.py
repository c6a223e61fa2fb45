"""An event loop that asks real servers itself: what it is told, by whom, and when they fail."""

import asyncio
import contextlib
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_app import redis_loop
from cache_app.core.breaker import Breaker, GuardedLevel, PoolExhausted
from cache_app.core.codec import Codec
from cache_app.core.lease_waits import LeaseWaits
from cache_app.core.levels import Levels
from cache_app.core.memory import MemoryLevel
from cache_app.core.steps import Runner, run
from cache_app.redis_cluster import ClusterNodes
from cache_app.redis_lease import RedisLeases
from cache_app.redis_level import RedisLevel
from cache_app.redis_loop import LoopLines
from cache_app.redis_rates import RedisRates
from cache_app.redis_ring import RingNodes
from cache_app.redis_servers import OneServer, SentinelMaster
from plugins.errors import LevelUnavailable
from plugins.eviction.lru import LRU
from serving_app.core.ranking import Ranking
from tests import proxies, servers
from tests.cache_app.test_redis_level import KEY, addresses, server, shared, stored

__all__ = ["server", "shared"]

pytestmark = [
    pytest.mark.contract("C12"),
    pytest.mark.xdist_group("redis"),  # one worker has the servers
]


class OnLoop:
    """An event loop with what it asks through."""

    def __init__(self):
        self.runner = Runner()

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.lines = LoopLines(loop)
        self.runner.attach(loop, self.lines)
        return self

    async def __aexit__(self, *_):
        self.runner.detach()

    def begin(self, steps):
        waiter = asyncio.get_running_loop().create_future()

        def then(result, error):
            assert threading.get_ident() == here, "never another thread"
            if error is None:
                waiter.set_result(result)
            else:
                waiter.set_exception(error)

        here = threading.get_ident()
        self.runner.run(steps, then)
        return waiter

    async def take(self, steps):
        return await asyncio.wait_for(self.begin(steps), 20)

    async def until(self, condition, what):
        """Return what the condition's steps return, once that is true; no answer is none."""
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(LevelUnavailable):
                if last := await self.take(condition()):
                    return last
            assert time.monotonic() < deadline, what
            await asyncio.sleep(0.01)


def play(scene):
    """Run a coroutine function that is given an `OnLoop`."""

    async def main():
        async with OnLoop() as on:
            await scene(on)

    asyncio.run(asyncio.wait_for(main(), 60))


def calls(server, name):
    return server.client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0)


def test_what_is_asked_in_one_pass_of_the_loop_is_one_question(server):
    behind = OneServer("l2", server.url, timeout=2.0)
    for n in range(300):
        server.client.set(b"k%d" % n, b"v%d" % n)
    server.client.config_resetstat()

    async def scene(on):
        begun = [on.begin(behind.getting(b"k%d" % n)) for n in range(300)]
        assert [await each for each in begun] == [b"v%d" % n for n in range(300)]
        assert await on.take(behind.getting(b"none")) is None

    play(scene)
    assert (calls(server, "mget"), calls(server, "get")) == (3, 1)


def test_who_looks_up_what_is_stored_in_the_same_pass_finds_it(server):
    behind = OneServer("l2", server.url, timeout=2.0)

    async def scene(on):
        looked = on.begin(behind.getting(b"k"))
        on.begin(behind.asking(b"k", b"SET", b"k", b"v"))
        assert await looked == b"v"

    play(scene)


def test_a_level_does_on_the_loop_what_it_does_on_a_thread(server):
    level = RedisLevel("l2", OneServer("l2", server.url, timeout=2.0), Codec(Ranking))

    async def scene(on):
        assert await on.take(level.getting(KEY)) is None
        await on.take(level.putting(KEY, stored(), "miss"))
        found = await on.take(level.getting(KEY))
        assert found == await asyncio.to_thread(level.get, KEY)
        server.client.set(b"rs:" + KEY.encode(), b"rubbish")
        assert await on.take(level.getting(KEY)) is None
        assert not server.client.exists(b"rs:" + KEY.encode())
        server.client.rpush(b"rs:" + KEY.encode(), b"x")  # of another type
        assert await on.take(level.getting(KEY)) is None
        assert not server.client.exists(b"rs:" + KEY.encode())
        await on.take(level.putting(KEY, stored(ttl=-1.0), "miss"))
        await on.take(level.putting(KEY, stored(), "miss"))
        assert await on.take(level.removing(KEY)) is True

    play(scene)
    stats = level.stats()
    assert (stats.hits, stats.misses, stats.rejected, stats.removals) == (2, 3, 1, 1)
    level.close()


def test_what_is_found_is_promoted_and_a_level_that_fails_is_counted(server):
    memory = MemoryLevel(LRU, capacity=10)
    level = RedisLevel("l2", OneServer("l2", server.url, timeout=2.0), Codec(Ranking))
    away = OneServer("l3", f"redis://127.0.0.1:{servers.free_ports(1)[0]}/0")
    levels = Levels([memory, level, RedisLevel("l3", away, Codec(Ranking))])

    async def scene(on):
        value = stored().value
        await on.take(levels.storing(KEY, value, ttl=60.0, stale=0.0, origin="miss", cost=None))
        assert levels.peek(KEY).value == value
        memory.remove(KEY)
        assert (await on.take(levels.finding(KEY, among=levels.slow))).level == "l2"
        assert levels.peek(KEY).level == "l1"
        assert await on.take(levels.finding("another")) is None

    play(scene)
    stats = levels.stats()
    assert (stats["l1"].promotions, stats["l3"].errors) == (1, 3)
    level.close()


def test_a_server_that_stands_still_costs_the_time_out_and_then_nothing(server):
    with servers.one() as own:
        guarded = GuardedLevel(
            RedisLevel("l2", OneServer("l2", own.url), Codec(Ranking)),
            Breaker(failures=5, open_seconds=0.2),
        )

        async def scene(on):
            await on.until(lambda: _stores(guarded), "the first connection")
            own.stop()
            begun = [on.begin(guarded.getting(KEY)) for _ in range(20)]
            for each in begun:
                with pytest.raises(LevelUnavailable, match="no answer within"):
                    await each
            assert guarded.breaker.state == "open"
            with pytest.raises(LevelUnavailable, match="failed a moment ago"):
                await on.take(guarded.getting(KEY))
            own.go_on()
            found = await on.until(lambda: guarded.getting(KEY), "it answers again")
            assert found.value == stored().value
            assert guarded.breaker.state == "closed"
            own.kill()
            with pytest.raises(LevelUnavailable):
                await on.take(guarded.getting(KEY))
            own.start()
            own.wait()
            await on.until(lambda: _stores(guarded), "a new one takes values")

        play(scene)


def _stores(level):
    yield from level.putting(KEY, stored(), "miss")
    return True


def test_a_probe_is_one_call_though_all_are_of_one_thread(server):
    breaker = Breaker(failures=1, open_seconds=0.0)
    breaker.failed()  # half open from now on
    level = GuardedLevel(RedisLevel("l2", OneServer("l2", server.url), Codec(Ranking)), breaker)

    async def scene(on):
        probe, other = on.begin(level.getting(KEY)), on.begin(level.getting(KEY))
        with pytest.raises(LevelUnavailable, match="failed a moment ago"):
            await other
        assert await probe is None
        assert breaker.state == "closed"

    play(scene)


def test_an_answer_that_came_while_the_loop_did_other_things_is_not_late(server):
    behind = OneServer("l2", server.url, timeout=0.05)
    server.client.set(b"k", b"v")

    async def scene(on):
        assert await on.take(behind.getting(b"k")) == b"v"
        for _ in range(5):
            begun = on.begin(behind.getting(b"k"))
            await asyncio.sleep(0)  # it is sent
            time.sleep(0.1)  # noqa: ASYNC251  (the loop is busy)
            assert await begun == b"v"

    play(scene)


def test_too_many_questions_are_refused_and_say_nothing_about_the_server(server, monkeypatch):
    monkeypatch.setattr(redis_loop, "_MOST_WAITING", 3)
    breaker = Breaker(failures=1)
    level = GuardedLevel(RedisLevel("l2", OneServer("l2", server.url), Codec(Ranking)), breaker)

    async def scene(on):
        begun = [on.begin(level.getting(KEY)) for _ in range(5)]
        assert [await each for each in begun[:3]] == [None] * 3
        for each in begun[3:]:
            with pytest.raises(PoolExhausted):
                await each

    play(scene)
    assert breaker.state == "closed"


def test_leaving_the_loop_fails_what_is_under_way_and_threads_go_on(server):
    behind = OneServer("l2", server.url, timeout=2.0)

    async def main():
        async with OnLoop() as on:
            begun = [on.begin(behind.getting(b"k")) for _ in range(3)]
        for each in begun:
            with pytest.raises(LevelUnavailable, match="closed"):
                await each
        assert not on.runner.here()

    asyncio.run(main())
    assert behind.get(b"k") is None
    behind.close()


def test_connections_to_servers_that_nobody_asks_any_more_are_closed(server):
    async def scene(on):
        for _ in range(10):  # as Sentinels name masters, one after the other
            behind = OneServer("l3", server.url, timeout=2.0)
            await on.take(behind.getting(b"k"))
            del behind
        assert len(on.lines._made) <= 2  # the last one, and one that was just in use

    play(scene)


@pytest.mark.parametrize("by", ["setting", "url"])
def test_the_loop_says_who_it_is_and_uses_the_database_that_is_meant(by):
    with servers.one("--requirepass", "secret", password="secret") as own:
        if by == "url":
            url = f"redis://default:secret@127.0.0.1:{own.port}/3"
            behind = OneServer("l2", url, timeout=2.0)
        else:
            access = {"username": "default", "password": "secret", "db": 3}
            behind = OneServer("l2", own.url, timeout=2.0, access=access)
        wrong = OneServer("l2", f"redis://:wrong@127.0.0.1:{own.port}/0", timeout=2.0)

        async def scene(on):
            await on.take(behind.asking(b"k", b"SET", b"k", b"v"))
            assert await on.take(behind.getting(b"k")) == b"v"
            with pytest.raises(LevelUnavailable, match="Auth"):
                await on.take(wrong.getting(b"k"))

        play(scene)
        assert behind.get(b"k") == b"v"
        behind.close()


def test_the_loop_speaks_tls_and_checks_who_answers(server, tmp_path):
    chain, key = proxies.certificate(tmp_path, "server")
    with proxies.proxy(server.port, proxies.server_side(chain, key)) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0"
        trusting = OneServer("l2", url, timeout=2.0, access={"ssl_ca_certs": str(chain)})
        doubting = OneServer("l2", url, timeout=2.0)

        async def scene(on):
            assert await on.take(trusting.asking(b"k", b"SET", b"k", b"v")) == b"OK"
            assert await on.take(trusting.getting(b"k")) == b"v"
            with pytest.raises(LevelUnavailable, match=r"(?i)certificate"):
                await on.take(doubting.getting(b"k"))

        play(scene)


# --- Nobody gets another's answer ---

READ, WRITE, CUT, PASS, HOLD = "read", "write", "cut", "pass", "hold"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from([READ, READ, READ, WRITE, WRITE, PASS, PASS, HOLD, CUT]),
            st.integers(0, 9),
        ),
        max_size=60,
    )
)
def test_no_answer_is_anothers_whatever_is_cut_in_between(server, events):
    server.client.flushall()
    for n in range(10):
        server.client.set(b"k%d" % n, b"k%d:" % n)
    with proxies.proxy(server.port) as proxy:
        behind = OneServer("l2", f"redis://127.0.0.1:{proxy.port}/0", timeout=0.2)

        async def scene(on):
            begun = []
            for event, n in events:
                key = b"k%d" % n
                if event == READ:
                    begun.append((key, on.begin(behind.getting(key))))
                elif event == WRITE:
                    command = (b"SET", key, key + b":more", b"GET")
                    begun.append((key, on.begin(behind.asking(key, *command))))
                elif event == CUT:
                    proxy.cut()
                elif event == HOLD:
                    proxy.hold()
                    await asyncio.sleep(0)
                    proxy.go_on()
                else:
                    await asyncio.sleep(0.002 * (n % 3))
            for key, waiter in begun:  # each ends, one way or the other
                try:
                    answer = await asyncio.wait_for(waiter, 20)
                except LevelUnavailable:
                    continue
                assert answer.startswith(key + b":"), f"{key} has got {answer}"
            found = await on.until(lambda: behind.getting(b"k1"), "it goes on")
            assert found.startswith(b"k1:")

        play(scene)


@pytest.mark.parametrize(
    "said",
    [b"*1\r\n$1\r\na\r\n", b"+OK\r\n", b"?what\r\n", b"$3\r\nabc\r\n$3\r\ndef\r\n", b""],
    ids=["too few", "another kind", "rubbish", "what nobody asked", "nothing, and the end"],
)
def test_a_server_that_answers_nonsense_harms_nobody(said):
    async def main():
        async def answer(reader, writer):
            await reader.read(100)
            writer.write(said)
            await writer.drain()
            writer.close()

        listening = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        behind = OneServer("l2", f"redis://127.0.0.1:{port}/0", timeout=0.5)
        async with OnLoop() as on:
            begun = [on.begin(behind.getting(b"k%d" % n)) for n in range(2)]
            for each in begun:
                with pytest.raises(LevelUnavailable):
                    await asyncio.wait_for(each, 20)
        listening.close()
        await listening.wait_closed()

    asyncio.run(main())


# --- Leases and rates ---


@pytest.mark.contract("C11")
def test_leases_are_taken_waited_for_and_given_back_on_the_loop(server):
    level_breaker = Breaker()
    mine, others = (
        RedisLeases(OneServer("l2", server.url, timeout=2.0), level_breaker) for _ in range(2)
    )

    async def scene(on):
        waits = LeaseWaits(mine, on.runner)
        (held,) = await on.take(others.taking([KEY]))
        got, here = [], threading.get_ident()
        for key in (KEY, "free"):
            waits.take(key, lambda lease: got.append((lease, threading.get_ident())), within=60)
        await _until(lambda: got)
        assert [lease.key for lease, _ in got] == ["free"]
        assert await on.take(others.releasing([held]))
        await _until(lambda: len(got) == 2)
        assert {thread for _, thread in got} == {here}
        for lease, _ in got:
            waits.release(lease)
        for key in (KEY, "free"):
            await on.until(lambda key=key: _lease_of(others, key), "they are given back")
        # From other threads, too; and who waits when the loop leaves goes on on a thread.
        await asyncio.to_thread(waits.take, "more", lambda lease: got.append((lease, 0)), within=60)
        await _until(lambda: len(got) == 3)
        waits.take(KEY, lambda lease: got.append((lease, threading.get_ident())), within=60)
        await asyncio.sleep(0.05)
        on.runner.detach()
        waits.moved()
        await asyncio.to_thread(server.client.delete, b"rs-lease:" + KEY.encode())
        await _until(lambda: len(got) == 4)
        assert got[3][1] != here
        await asyncio.to_thread(waits.close)

    play(scene)
    mine.close()
    others.close()


def _lease_of(leases, key):
    return (yield from leases.taking([key]))[0]


async def _until(condition):
    while not condition():  # noqa: ASYNC110  (the test's own patience ends it)
        await asyncio.sleep(0.005)


def test_rates_hold_over_loop_and_threads_and_a_new_server_knows_the_script_anew(server):
    rates = RedisRates(OneServer("rates", server.url, timeout=2.0), "test")
    rate = {"interval": 60.0, "requests": 3}

    async def scene(on):
        assert [await on.take(rates.taking("a", **rate)) for _ in range(2)] == [0, 0]
        assert await asyncio.to_thread(rates.take, "a", **rate) == 0
        assert await on.take(rates.taking("a", **rate)) > 0
        server.client.script_flush()
        assert await on.take(rates.taking("b", **rate)) == 0

    play(scene)
    rates.close()


# --- Several servers ---


@pytest.mark.contract("C13")
def test_a_ring_a_cluster_and_sentinels_answer_the_loop_and_outlive_a_server():
    with servers.one() as one, servers.one() as another:
        ring = RingNodes("l3", {one.url: 1.0, another.url: 1.0}, replicas=2, timeout=1.0)

        async def scene(on):
            for n in range(20):
                await on.take(ring.asking(b"k%d" % n, b"SET", b"k%d" % n, b"v%d" % n))
            one.kill()
            for n in range(20):
                assert await on.take(ring.getting(b"k%d" % n)) == b"v%d" % n

        play(scene)
        ring.close()


@pytest.mark.contract("C13")
def test_a_cluster_redirects_the_loop_and_outlives_a_node():
    with servers.cluster() as cluster:
        behind = ClusterNodes("l3", addresses(cluster.addresses[:2]), timeout=1.0)

        async def scene(on):
            begun = [
                on.begin(behind.asking(b"k%d" % n, b"SET", b"k%d" % n, b"v%d" % n))
                for n in range(50)
            ]
            await asyncio.gather(*begun)
            # As if the slots had moved: every node is taken for the owner of another's.
            behind._table = behind._table[8192:] + behind._table[:8192]
            begun = [on.begin(behind.getting(b"k%d" % n)) for n in range(50)]
            assert await asyncio.gather(*begun) == [b"v%d" % n for n in range(50)]

        play(scene)
        behind.close()


@pytest.mark.contract("C13")
def test_sentinels_name_a_new_master_to_the_loop():
    with servers.sentinels() as group:
        behind = SentinelMaster("l3", addresses(group.addresses), group.service, timeout=1.0)

        async def scene(on):
            def stores():
                return behind.asking(b"k", b"SET", b"k", b"v")

            await on.until(stores, "the first connection")
            group.master().kill()
            with pytest.raises(LevelUnavailable):
                await on.take(behind.getting(b"k"))
            await on.until(stores, "a new master takes values")
            assert await on.take(behind.getting(b"k")) == b"v"

        play(scene)
        behind.close()


def test_a_thread_that_takes_steps_waits_as_ever(server):
    behind = OneServer("l2", server.url, timeout=2.0)
    runner, heard = Runner(), []
    runner.run(behind.asking(b"k", b"SET", b"k", b"v"), lambda *of: heard.append(of))
    assert heard == [(b"OK", None)]
    assert run(behind.getting(b"k")) == b"v"
    behind.close()
