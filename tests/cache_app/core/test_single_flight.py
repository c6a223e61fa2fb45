"""One computation per key."""

import asyncio
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError

import pytest

from cache_app.core.single_flight import SingleFlight

pytestmark = pytest.mark.contract("C11")


def gather(flights, waiters):
    """Let many threads join and wait; return the leaders' count and a function for outcomes."""
    start = threading.Barrier(waiters)
    joined = threading.Barrier(waiters + 1)
    outcomes, leads = [], []

    def wait():
        start.wait()
        future, leader = flights.join("key")
        leads.append(leader)
        joined.wait()
        try:
            outcomes.append(future.result(10))
        except ZeroDivisionError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=wait) for _ in range(waiters)]
    for thread in threads:
        thread.start()
    joined.wait(10)

    def landed():
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        return outcomes

    return sum(leads), landed


def test_every_waiter_gets_the_result_of_one_leader():
    flights = SingleFlight()
    leaders, landed = gather(flights, 8)
    assert leaders == 1
    flights.resolve("key", 42)
    assert landed() == [42] * 8
    assert len(flights) == 0


def test_every_waiter_gets_the_leaders_error():
    flights = SingleFlight()
    leaders, landed = gather(flights, 8)
    assert leaders == 1
    error = ZeroDivisionError("the leader failed")
    flights.fail("key", error)
    assert landed() == [error] * 8
    assert flights.join("key")[1], "the next one may try again"


def test_keys_are_independent_and_forgotten():
    flights = SingleFlight()
    assert flights.join("a")[1]
    assert flights.join("b")[1]
    future, leads = flights.join("a")
    assert not leads
    flights.resolve("a", 1)
    assert future.result(0) == 1
    again, leads = flights.join("a")
    assert leads
    assert again is not future
    assert len(flights) == 2


def test_a_waiter_that_gives_up_takes_nobody_along():
    flights = SingleFlight()
    future, _ = flights.join("a")
    waiter, _ = flights.join("a")
    with pytest.raises(FutureTimeoutError):
        waiter.result(0)
    assert not waiter.cancel()

    async def impatient():
        wrapped = asyncio.wrap_future(waiter)
        wrapped.cancel()
        await asyncio.wait([wrapped])

    asyncio.run(impatient())
    flights.resolve("a", 1)
    assert future.result(0) == 1


def test_a_key_that_is_not_under_way_cannot_land():
    with pytest.raises(KeyError):
        SingleFlight().resolve("a", 1)
    with pytest.raises(KeyError):
        SingleFlight().fail("a", ValueError())


def test_a_result_that_landed_since_the_caller_looked_is_not_computed_again():
    flights = SingleFlight()
    early = flights.moment()
    assert flights.join("a", since=early)[1]
    flights.resolve("a", 1)
    future, leads = flights.join("a", since=early)
    assert (future.result(0), leads) == (1, False)
    assert flights.join("a", since=flights.moment())[1], "who looked afterwards computes"


def test_a_failure_is_not_remembered_and_results_only_for_a_while():
    flights = SingleFlight()
    early = flights.moment()
    flights.join("a")
    flights.fail("a", ValueError())
    assert flights.join("a", since=early)[1]
    for n in range(1100):
        flights.join(n)
        flights.resolve(n, n)
    assert not flights.join(1099, since=early)[1]
    assert flights.join(5, since=early)[1]


def test_however_many_threads_ask_for_a_cold_key_it_is_computed_once():
    for _ in range(20):
        flights, cache, computed = SingleFlight(), {}, []
        together = threading.Barrier(60)

        def ask(flights=flights, cache=cache, computed=computed, together=together):
            together.wait(10)
            moment = flights.moment()
            if "key" in cache:
                return
            future, leads = flights.join("key", since=moment)
            if leads:
                computed.append(1)
                cache["key"] = 1
                flights.resolve("key", 1)
            assert future.result(10) == 1

        threads = [threading.Thread(target=ask) for _ in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert computed == [1]


def test_the_last_who_leaves_takes_the_key_along():
    flights = SingleFlight()
    first, _ = flights.join("key")
    assert flights.join("key") == (first, False)
    assert not flights.leave("key", first), "another one waits"
    assert flights.leave("key", first)
    assert len(flights) == 0
    second, leads = flights.join("key")
    assert leads, "whoever comes after that computes anew"
    assert not flights.leave("key", first), "that flight is not the key's any more"
    flights.resolve("key", 1, flight=first)
    assert (first.result(0), second.done()) == (1, False)
    flights.fail("key", ZeroDivisionError(), flight=second)
    assert isinstance(second.exception(0), ZeroDivisionError)
    assert len(flights) == 0
