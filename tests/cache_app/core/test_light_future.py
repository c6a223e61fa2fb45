"""A future as the standard library's, which lets go of its callbacks, and of what they hold."""

import asyncio
import gc
import queue
import threading
import time
import weakref
from concurrent.futures import (
    CancelledError,
    Future,
    InvalidStateError,
    ThreadPoolExecutor,
    as_completed,
    wait,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_app.core.light_future import LightFuture


class Waiter:
    def __init__(self, future):
        self.future = future
        self.told = []
        future.add_done_callback(self.hear)

    def hear(self, done):
        self.told.append(done)


@pytest.mark.parametrize("end", ["result", "error", "cancelled"])
def test_what_has_been_told_is_held_no_more(end):
    gc.disable()
    try:
        future = LightFuture()
        waiter = Waiter(future)
        if end == "result":
            future.set_result(1)
        elif end == "error":
            future.set_exception(ValueError("x"))
        else:
            assert future.cancel()
        assert waiter.told == [future]
        waiter.told.clear()
        gone = weakref.ref(waiter)
        del waiter
        assert gone() is None
    finally:
        gc.enable()


def test_who_comes_late_is_told_at_once():
    future = LightFuture()
    first = Waiter(future)
    future.set_result(1)
    assert Waiter(future).told == [future]
    assert first.told == [future]


def test_it_is_a_future_otherwise():
    future = LightFuture()
    future.cancel()
    with pytest.raises(CancelledError):
        future.result(0)


def what_comes(future, steps):
    """Return what each step of somebody's returns or raises, and what was told when."""
    told, seen = [], []

    def tried(call):
        try:
            return call()
        except (CancelledError, InvalidStateError, RuntimeError, TimeoutError, ValueError) as error:
            return type(error)

    for step in steps:
        seen.append(
            tried(
                {
                    "cancel": future.cancel,
                    "run": future.set_running_or_notify_cancel,
                    "set": lambda: future.set_result(7),
                    "fail": lambda: future.set_exception(ValueError("x")),
                    "hear": lambda: future.add_done_callback(told.append),
                    "break": lambda: future.add_done_callback(lambda _: 1 / 0),
                }[step]
            )
        )
        seen.append((len(told), future.done(), future.running(), future.cancelled()))
        seen.append(tried(lambda: future.result(0)))
        seen.append(type(tried(lambda: future.exception(0))))
    assert all(each is future for each in told)
    return seen


@given(
    st.lists(st.sampled_from(["cancel", "set", "fail", "hear", "break"]), max_size=6),
    st.none() | st.integers(0, 6),
)
def test_it_does_as_the_standard_one(steps, started):
    if started is not None:
        steps.insert(started, "run")  # which a standard one takes once
    assert what_comes(LightFuture(), steps) == what_comes(Future(), steps)


@pytest.mark.parametrize("end", ["result", "error", "cancelled"])
def test_threads_wait_for_it_as_for_any(end):
    lock = threading.Lock()
    futures = [LightFuture(lock), LightFuture(lock), Future()]
    outcomes = queue.SimpleQueue()

    def blocked(future):
        try:
            outcomes.put(future.result(20))
        except (ValueError, CancelledError) as error:
            outcomes.put(type(error))

    with ThreadPoolExecutor(6) as threads:
        for future in futures:
            threads.submit(blocked, future)
        waiting = threads.submit(wait, futures, 20)
        listed = threads.submit(lambda: set(as_completed(futures, 20)))
        while not all(future._condition._waiters for future in futures):
            time.sleep(0)  # until all block
        with lock:
            for future in futures[:2]:
                if end == "result":
                    future.settle(1)
                elif end == "error":
                    future.settle(None, ValueError("x"))
                else:
                    future.settle_cancelled()
        for future in futures[:2]:
            future.announce()
        futures[2].set_result(2)
        assert waiting.result(20).done == listed.result(20) == set(futures)
    told = sorted([str(outcomes.get(timeout=20)) for _ in futures])
    expected = {"result": 1, "error": ValueError, "cancelled": CancelledError}[end]
    assert told == sorted([str(expected), str(expected), "2"])


def test_an_event_loop_waits_for_it():
    async def scene():
        future = LightFuture()
        waiter = asyncio.wrap_future(future)
        future.set_result(3)
        return await waiter

    assert asyncio.run(scene()) == 3
