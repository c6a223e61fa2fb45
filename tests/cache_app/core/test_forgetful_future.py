"""A future that lets go of its callbacks, and of what they hold."""

import gc
import weakref
from concurrent.futures import CancelledError

import pytest

from cache_app.core.forgetful_future import ForgetfulFuture


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
        future = ForgetfulFuture()
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
    future = ForgetfulFuture()
    first = Waiter(future)
    future.set_result(1)
    assert Waiter(future).told == [future]
    assert first.told == [future]


def test_it_is_a_future_otherwise():
    future = ForgetfulFuture()
    future.cancel()
    with pytest.raises(CancelledError):
        future.result(0)
