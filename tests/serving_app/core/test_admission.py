"""Who is accepted, who is refused, and whether those told to come back are accepted then."""

import heapq
import threading
from random import Random
from statistics import median

import pytest

from plugins import Priority, QueueFull
from serving_app.core.admission import Admission, Appointments
from serving_app.core.batch_scheduler import BatchScheduler

A, B, MAX_BATCH, SECONDS = 420e-6, 2.5e-3, 64, 0.2  # seconds
CAPACITY = MAX_BATCH / (B + A * MAX_BATCH)


def fitted(**options):
    """Return an admission that knows a model of 1 ms a batch and 10 µs a row."""
    admission = Admission(max_batch=64, **options)
    for size in (1, 8, 16, 32, 64) * 20:
        admission.cost.observe(size, 1e-3 + 1e-5 * size)
    return admission


def ask(admission, *, seconds=0.02, ahead=0, free_in=0.001, now=0.0, key=None, instances=1):
    return admission.refusal(
        now=now,
        seconds=seconds,
        ahead=ahead,
        size=1,
        free_in=free_in,
        instances=instances,
        key=key,
    )


@pytest.mark.contract("S6")
def test_only_what_would_be_late_is_refused():
    admission = fitted()
    assert ask(admission, ahead=64) is None
    assert ask(admission, ahead=64 * 20) is not None
    assert ask(admission, ahead=64 * 20, seconds=1.0) is None
    assert ask(admission, ahead=64 * 20, instances=4) is None, "four instances share the queue"


@pytest.mark.contract("S6")
def test_nobody_is_refused_who_waits_for_nobody():
    admission = fitted()
    assert ask(admission, seconds=1e-4, free_in=0.0) is None
    assert ask(admission, seconds=1e-4, free_in=0.001) is not None


@pytest.mark.contract("S6")
def test_all_are_accepted_until_the_cost_is_known():
    assert ask(Admission(max_batch=64), ahead=10**6) is None


@pytest.mark.contract("S6")
def test_who_comes_back_as_told_goes_before_newcomers():
    admission = fitted()
    told = ask(admission, ahead=64 * 20, key="early bird")
    nearly_full = {"ahead": 64 * 8 - 1, "now": told}
    assert ask(admission, **nearly_full, key="newcomer") is not None
    assert ask(admission, **nearly_full, key="early bird") is None
    assert ask(admission, **nearly_full, key="early bird") is not None, "a promise holds once"


@pytest.mark.contract("S6")
def test_no_more_are_told_to_come_at_a_time_than_can_be_served():
    book = Appointments(step=1.0, share=0.5)
    told = [book.make(n, 0.0, earliest=0.01, seconds=0.001) for n in range(6)]
    assert told == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_who_needs_much_time_to_come_back_leaves_the_near_places_to_others():
    book = Appointments(step=1.0, share=0.5)
    assert [book.make(n, 0.0, earliest=3.5, seconds=0.001) for n in "ab"] == [4.0, 4.0]
    assert [book.make(n, 0.0, earliest=0.5, seconds=0.001) for n in "cd"] == [1.0, 1.0]
    assert [book.make(n, 0.0, earliest=0.5, seconds=0.001) for n in "ef"] == [2.0, 2.0]
    assert book.make("g", 1.0, earliest=0.5, seconds=0.001) == 2.0, "1.0 + 1.0 is taken"


def test_nobody_is_told_to_come_later_than_the_furthest_time():
    book = Appointments(step=1.0, share=0.5)
    for n in range(400):
        wait = book.make(n, 0.0, earliest=0.0, seconds=0.01)
    assert wait <= 121.0


def test_whole_steps_from_the_earliest_on():
    book = Appointments(step=1.0)
    assert book.make("a", 5.0, earliest=2.3, seconds=0.001) == 3.0
    fine = Appointments(step=0.1)
    assert fine.make("a", 5.0, earliest=0.23, seconds=0.001) == pytest.approx(0.3)


def test_promises_that_nobody_keeps_are_forgotten_and_count_less():
    book = Appointments(step=1.0, share=0.5, grace=1.0)
    for n in range(60):
        book.make(n, 0.0, earliest=0.0, seconds=1e-6)
    book.make("later", 10.0, earliest=0.0, seconds=1e-6)
    assert len(book) == 1
    assert book._kept < 0.5
    assert len(book._table) == 1


class Client:
    """Open-loop arrivals at a scheduler whose model takes what it is said to, in virtual time."""

    def __init__(self, load, *, seed=1, obeys=True, seconds=6.0, slower_from=None):
        self.rng = Random(seed)
        self.scheduler = BatchScheduler(
            "m@1",
            lock=threading.Lock(),
            cancel=lambda work: False,
            max_batch=MAX_BATCH,
            max_queue=1024,
            max_wait=0.0,
            instances=lambda: 1,
            admission=Admission(max_batch=MAX_BATCH),
        )
        self.events = []
        self.obeys, self.seconds, self.slower_from = obeys, seconds, slower_from
        self.good = self.new = self.refused = self.returned = self.accepted = 0
        self.waits = []
        now = 0.0
        while (now := now + self.rng.expovariate(load * CAPACITY)) < seconds:
            self.add(now, "come", self.new)
            self.new += 1
        while self.events:
            now, _, event, what = heapq.heappop(self.events)
            getattr(self, event)(now, what)

    def add(self, now, event, what):
        heapq.heappush(self.events, (now, self.rng.random(), event, what))

    def ask(self, now, key, *, back):
        self.returned += back
        try:
            self.scheduler.submit(
                key,
                now=now,
                seconds=SECONDS,
                priority=Priority.LIVE,
                key=key,
            )
        except QueueFull as refusal:
            self.refused += not back
            if self.obeys and now + refusal.retry_after < self.seconds:
                self.add(now + refusal.retry_after + self.rng.uniform(0, 0.01), "back", key)
            return
        self.accepted += back
        self.start(now)

    def come(self, now, key):
        self.ask(now, key, back=False)

    def back(self, now, key):
        self.ask(now, key, back=True)

    def start(self, now):
        if not self.scheduler.has_room():
            return
        self.scheduler.expire(now)
        if (batch := self.scheduler.take(now)) is not None:
            slower = 5 if self.slower_from is not None and now > self.slower_from else 1
            took = slower * (B + A * batch.size) * self.rng.lognormvariate(0, 0.15)
            self.add(now + took, "end", batch)

    def end(self, now, batch):
        for work in self.scheduler.finish(batch, batch.payloads, now=now):
            self.good += now <= work.deadline
            self.waits.append(now - work.queued_at)
        self.scheduler.leave(batch, now)
        self.start(now)

    @property
    def goodput(self):
        return self.good / min(self.new, CAPACITY * self.seconds)


@pytest.mark.contract("S6")
@pytest.mark.parametrize(("load", "least"), [(1.3, 0.95), (2.0, 0.90)])
@pytest.mark.parametrize("obeys", [True, False])
def test_under_overload_what_is_accepted_is_in_time(load, least, obeys):
    client = Client(load, obeys=obeys)
    assert client.goodput >= least
    if obeys:
        assert client.returned > 1000
        assert client.accepted >= 0.9 * client.returned


@pytest.mark.contract("S6")
@pytest.mark.parametrize("load", [0.02, 0.85])
def test_without_overload_nobody_is_refused(load):
    client = Client(load)
    assert client.refused == 0
    assert client.goodput == 1.0
    if load < 0.1:
        assert median(client.waits) < 1.1 * (B + A), "a lone request waits for nobody"


@pytest.mark.contract("S6")
def test_a_model_that_becomes_five_times_slower_is_still_answered_in_time():
    client = Client(0.85, obeys=False, slower_from=1.0)
    ideal = 0.85 * CAPACITY * 1.0 + CAPACITY / 5 * 5.0
    assert client.good >= 0.65 * ideal  # one batch of it takes three quarters of the deadline


@pytest.mark.contract("S6")
def test_headroom_is_the_part_of_its_time_that_a_request_may_be_expected_to_take():
    waiting = {"ahead": 256, "seconds": 0.015}  # 7.6 ms: about half of its time
    assert ask(fitted(headroom=0.3), **waiting) is not None
    assert ask(fitted(headroom=0.6), **waiting) is None
