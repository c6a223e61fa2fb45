"""Look-ups that are merged: each gets the value of its key, whatever the order of events."""

import threading
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_app.core import merged_reads
from cache_app.core.merged_reads import MergedReads
from plugins.errors import LevelUnavailable
from tests.servers import wait_for

pytestmark = pytest.mark.contract("C1")


class Gated:
    """Answers a round trip when the test lets it, and as the test says."""

    def __init__(self):
        self.asked = deque()
        self.rounds = []
        self.under_way = 0

    def __call__(self, keys):
        self.under_way += 1
        assert self.under_way == 1, "one at a time"
        self.rounds.append(list(keys))
        done, how = threading.Event(), []
        self.asked.append((done, how))
        assert done.wait(20)
        self.under_way -= 1
        outcome = how[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome([b"value of " + key for key in keys])

    def answer(self, how=lambda values: values):
        wait_for(lambda: self.asked, what="somebody asks")
        done, into = self.asked.popleft()
        into.append(how)
        done.set()


class Asking(threading.Thread):
    def __init__(self, reads, key):
        super().__init__(daemon=True)
        self.reads, self.key, self.outcome = reads, key, None
        self.start()

    def run(self):
        try:
            self.outcome = self.reads.get(self.key)
        except BaseException as error:  # noqa: BLE001  (the test looks at it)
            self.outcome = error

    def result(self):
        self.join(20)
        assert not self.is_alive(), f"{self.key} hangs"
        return self.outcome


def queued(reads, count):
    wait_for(lambda: len(reads._queue) == count, what=f"{count} are queued")


ASK, ANSWER, FAIL, SHORT, LONG, EXIT = "ask", "answer", "fail", "short", "long", "exit"
BROKEN = {
    FAIL: ConnectionError("the connection broke"),
    SHORT: lambda values: values[:-1],
    LONG: lambda values: [*values, b"another's"],
    EXIT: SystemExit(),
}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([ASK, ASK, ASK, ANSWER, FAIL, SHORT, LONG, EXIT]), max_size=40),
    st.integers(1, 4),
)
def test_each_gets_the_value_of_its_key_or_an_error(events, most):
    real, merged_reads._MOST = merged_reads._MOST, most
    try:
        gated = Gated()
        reads = MergedReads(gated)
        threads, ended = [], 0

        def end_a_round_trip(how):
            rounds, more = len(gated.rounds), bool(reads._queue)
            gated.answer(how)
            wait_for(lambda: len(gated.rounds) > rounds if more else not reads._reading)
            return len(gated.rounds[rounds - 1])

        for number, event in enumerate(events):
            if event == ASK:
                threads.append(Asking(reads, b"%d" % (number % 7)))
                # In a known order: it asks, or it is queued.
                wait_for(lambda: sum(map(len, gated.rounds)) + len(reads._queue) == len(threads))
            elif ended < len(threads):
                ended += end_a_round_trip(BROKEN.get(event, lambda values: values))
        while ended < len(threads):
            ended += end_a_round_trip(lambda values: values)
        for thread in threads:
            outcome = thread.result()
            if not isinstance(outcome, BaseException):
                assert outcome == b"value of " + thread.key
            else:
                assert isinstance(outcome, ConnectionError | LevelUnavailable | SystemExit)
        assert all(len(keys) <= most for keys in gated.rounds)
        assert not reads._reading
    finally:
        merged_reads._MOST = real


def test_what_queued_during_a_round_trip_is_the_next_one():
    gated = Gated()
    reads = MergedReads(gated)
    first = Asking(reads, b"a")
    wait_for(lambda: gated.rounds)
    others = []
    for number in range(10):
        others.append(Asking(reads, b"%d" % number))
        queued(reads, number + 1)
    gated.answer()
    assert first.result() == b"value of a"
    gated.answer()
    assert [each.result() for each in others] == [b"value of %d" % n for n in range(10)]
    assert [len(keys) for keys in gated.rounds] == [1, 10]


def test_all_of_a_round_trip_that_fails_get_its_error_and_the_next_are_asked():
    gated = Gated()
    reads = MergedReads(gated)
    first = Asking(reads, b"a")
    wait_for(lambda: gated.rounds)
    second, third = Asking(reads, b"b"), Asking(reads, b"c")
    queued(reads, 2)
    gated.answer(LevelUnavailable("gone"))
    assert isinstance(first.result(), LevelUnavailable)
    wait_for(lambda: len(gated.rounds) == 2)
    fourth = Asking(reads, b"d")
    queued(reads, 1)
    gated.answer(LevelUnavailable("gone, too"))
    assert {str(each.result()) for each in (second, third)} == {"gone, too"}
    gated.answer()
    assert fourth.result() == b"value of d"


class Interrupted:
    """In place of a lock: a signal ends the wait for it."""

    def acquire(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize("its_turn", [False, True], ids=["still queued", "just then its turn"])
def test_who_is_interrupted_while_waiting_lets_the_others_go_on(its_turn):
    gated = Gated()
    reads = MergedReads(gated)
    first = Asking(reads, b"a")
    wait_for(lambda: gated.rounds)
    gone = merged_reads._Read(b"b")
    reads._queue.append(gone)
    third = Asking(reads, b"c")
    queued(reads, 2)
    if its_turn:
        gated.answer()
        wait_for(lambda: gone.leads, what="it is its turn")
    gone.turn = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        reads._wait(gone)
    if not its_turn:
        gated.answer()
    assert first.result() == b"value of a"
    gated.answer()
    assert third.result() == b"value of c"
    assert gated.rounds == [[b"a"], [b"c"]]
