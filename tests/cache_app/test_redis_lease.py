"""Leases in a real server, and those who wait for them."""

import json
import threading
import time

import msgspec
import pytest

from cache_app.core.breaker import Breaker
from cache_app.core.lease_waits import KeyLease, LeaseStats, LeaseWaits
from cache_app.core.steps import run
from cache_app.redis_lease import RedisLeases
from cache_app.redis_level import RedisLevel
from cache_app.redis_servers import OneServer
from tests import servers
from tests.cache_app.test_redis_level import KEY, level_at, server, shared, stored
from tests.servers import wait_for

__all__ = ["server", "shared"]


def take(leases, key=KEY):
    return run(leases.taking([key]))[0]


def release(leases, lease):
    return run(leases.releasing([lease]))


pytestmark = [pytest.mark.contract("C11"), pytest.mark.xdist_group("redis")]


@pytest.fixture
def make(server):
    """Return a function that makes what one process has."""
    made = []

    def make(*, url=server.url, timeout=2.0, **more):
        one = OneServer("l2", url, timeout=timeout)
        made.append(one)
        return RedisLeases(one, Breaker(open_seconds=0.2), **more)

    yield make
    for one in made:
        one.close()


@pytest.fixture
def waiting(make):
    """Return a function that makes the waits of one process."""
    made = []

    def waiting(**more):
        waits = LeaseWaits(make(**more))
        made.append(waits)
        return waits

    yield waiting
    for waits in made:
        waits.close()


def test_a_key_is_one_takers_until_it_is_released(make):
    one, two = make(), make()
    lease = take(one)
    assert lease.token
    assert not lease.stored
    assert take(two) is None
    assert take(one) is None
    assert take(two, "another").token
    assert release(one, lease)
    assert take(two).token
    assert one.errors == two.errors == 0


def test_a_lease_runs_out_and_its_former_taker_cannot_release_it(make):
    one, two = make(seconds=0.05), make()
    old = take(one)
    new = wait_for(lambda: take(two), what="the lease has run out")
    assert release(one, old)
    assert take(one) is None
    assert release(two, new)
    assert take(one) is not None


def test_a_lease_says_whether_the_level_has_the_key_and_is_none_of_its_keys(server, make):
    level: RedisLevel = level_at(OneServer("l2", server.url, timeout=2.0))
    leases = make()
    level.put(KEY, stored(), "miss")
    lease = take(leases)
    assert lease.stored
    assert level.clear() == 1
    assert take(leases) is None
    assert release(leases, lease)
    assert not take(leases).stored
    assert level.sample(10) == []
    level.close()


def test_any_text_is_a_key(make):
    leases = make()
    for key in ("", "é€😀", "\ud800", "a" * 5000):
        lease = take(leases, key)
        assert lease.token
        assert take(leases, key) is None
        assert release(leases, lease)
        assert take(leases, key) is not None


@pytest.mark.contract("C12")
@pytest.mark.parametrize("kind", ["text", "list"])
def test_rubbish_in_place_of_a_lease_is_waited_for_once(server, make, kind):
    at = b"rs-lease:" + KEY.encode()
    if kind == "text":
        server.client.set(at, b"rubbish")  # it never runs out
    else:
        server.client.rpush(at, b"rubbish")
    leases = make()
    assert take(leases) is None
    lease = take(leases)
    assert lease.token
    assert server.client.pttl(at) > 0
    server.client.delete(at)
    server.client.rpush(at, b"rubbish")
    release(leases, lease)  # it is not there to be released
    assert take(leases) is None
    assert take(leases).token


@pytest.mark.contract("C12")
def test_without_a_server_nobody_waits_and_soon_nobody_asks(make):
    with servers.one() as server:
        leases = make(url=server.url, timeout=0.05)
        lease = take(leases)
        assert lease.token
        server.stop()
        started = time.monotonic()
        for _ in range(100):
            assert take(leases) is not None
        assert time.monotonic() - started < 2.0  # 5 time-outs, and not 101
        assert take(leases) == KeyLease(KEY)
        assert not leases.available
        assert not release(leases, lease)
        assert leases.errors == 6
        server.go_on()
        time.sleep(0.3)
        assert leases._breaker.allow()  # as the level does
        leases._breaker.succeeded()
        wait_for(lambda: take(leases, "another").token, what="leases are kept again")
        assert release(leases, lease)


@pytest.mark.contract("C12")
def test_a_full_server_keeps_no_leases_but_is_not_down(server, make):
    leases = make()
    server.client.config_set("maxmemory", 1)
    try:
        for _ in range(10):
            lease = take(leases)
            assert lease is not None
            assert release(leases, lease)
    finally:
        server.client.config_set("maxmemory", 0)
    assert leases.errors == 10
    assert leases.available
    assert take(leases).token


@pytest.mark.contract("C12")
def test_a_release_that_nobody_answers_is_tried_again(waiting, make):
    with servers.one() as server:
        waits = waiting(url=server.url, timeout=0.05)
        got = []
        waits.take(KEY, got.append, within=60)
        wait_for(lambda: got, 5)
        errors = waits.stats().errors
        server.stop()
        waits.release(got[0])
        wait_for(lambda: waits.stats().errors > errors, 5, what="nobody answers")
        server.go_on()
        leases = make(url=server.url)
        wait_for(lambda: take(leases), 5, what="the lease is free")


@pytest.mark.contract("S10")
def test_what_a_process_tells_of_its_leases_is_read_by_the_others(waiting):
    stats = waiting().stats()
    told = json.loads(msgspec.json.encode(stats))
    assert msgspec.convert(told, LeaseStats) == stats == LeaseStats(0, 0, 0)


def test_a_waiter_has_the_lease_soon_after_it_is_free(make, waiting):
    leases, waits = make(), waiting()
    lease = take(leases)
    got = []
    waits.take(KEY, lambda mine: got.append((mine, threading.current_thread().name)), within=60)
    time.sleep(0.1)
    assert got == []
    assert release(leases, lease)
    wait_for(lambda: got, 5)
    ((mine, thread),) = got
    assert mine.token
    assert thread == "lease-waits"
    assert take(leases) is None
    waits.release(mine)
    wait_for(lambda: take(leases), 5, what="the lease is free")


def test_patience_ends_and_each_wait_ends_once(make, waiting):
    leases, waits = make(), waiting()
    keys = [f"k{n}" for n in range(50)]
    for key in keys:
        assert take(leases, key)
    got = []
    started = time.monotonic()
    for key in keys:
        waits.take(key, got.append, within=0.2)
    assert time.monotonic() - started < 0.2  # none waits for another
    wait_for(lambda: len(got) == 50, 5)
    assert time.monotonic() - started >= 0.2
    assert sorted(lease.key for lease in got) == sorted(keys)
    assert not any(lease.token for lease in got)
    assert len(waits) == 0


def test_one_that_fails_harms_no_other_and_closing_leaves_none_waiting(make, waiting):
    leases, waits = make(), waiting()
    first, second = take(leases, "a"), take(leases, "b")
    assert take(leases, "c")
    got = []
    waits.take("a", lambda lease: 1 / 0, within=60)
    waits.take("b", got.append, within=60)
    waits.take("c", got.append, within=60)
    assert release(leases, first)
    wait_for(lambda: len(waits) <= 2, 5)
    assert release(leases, second)
    wait_for(lambda: got, 5)
    waits.close()
    assert [(lease.key, bool(lease.token)) for lease in got] == [("b", True), ("c", False)]
    waits.take("c", got.append, within=60)  # closed: nobody waits any more
    assert len(got) == 3
