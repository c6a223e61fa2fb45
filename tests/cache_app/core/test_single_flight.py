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
