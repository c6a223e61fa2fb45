"""What is submitted is settled, exactly once, under any interleaving: stepped without threads."""

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plugins import DeadlineExceeded, InferenceError, ModelNotReady, PoolCounts, Priority, QueueFull
from serving_app.core.admission import Admission
from serving_app.core.batch_scheduler import BatchScheduler
from serving_app.core.work_queue import LargeWork


def make(*, instances=1, max_batch=4, max_queue=8, max_wait=0.0):
    """Return a scheduler as a batcher has it."""

    def cancel(work):
        return scheduler.cancel(work)

    scheduler = BatchScheduler(
        "m@1",
        lock=threading.Lock(),
        cancel=cancel,
        max_batch=max_batch,
        max_queue=max_queue,
        max_wait=max_wait,
        instances=lambda: instances,
        admission=Admission(max_batch=max_batch),
    )
    return scheduler


def submit(scheduler, *parts, now=0.0, seconds=10.0, priority=Priority.LIVE, sizes=None, key=None):
    given = {"now": now, "seconds": seconds, "priority": priority, "key": key}
    if len(parts) == 1 and sizes is None:
        return scheduler.submit(parts[0], **given)
    return scheduler.submit_large(parts, sizes, single=len(parts) == 1, **given)


def run(scheduler, now=0.0, took=0.001):
    """Run the next batch, and return what was in it."""
    scheduler.expire(now)
    batch = scheduler.take(now)
    if batch is None:
        return None
    scheduler.finish(batch, batch.payloads, now=now + took)
    scheduler.leave(batch, now + took)
    return batch.payloads


@pytest.mark.contract("S5")
def test_priority_goes_first_and_then_the_earliest_deadline():
    scheduler = make(max_batch=2)
    submit(scheduler, "warm", priority=Priority.WARM_UP, seconds=1)
    submit(scheduler, "refresh", priority=Priority.REFRESH, seconds=1)
    submit(scheduler, "late", seconds=9)
    submit(scheduler, "soon", seconds=2)
    submit(scheduler, "later", seconds=9)
    assert [run(scheduler) for _ in range(3)] == [["soon", "late"], ["later", "refresh"], ["warm"]]


@pytest.mark.contract("S5")
def test_a_raised_work_goes_with_those_of_its_new_priority():
    scheduler = make(max_batch=1)
    warm = [submit(scheduler, n, priority=Priority.WARM_UP) for n in range(3)]
    submit(scheduler, "live", seconds=99)
    assert scheduler.raise_priority(warm[2], Priority.LIVE)
    assert not scheduler.raise_priority(warm[2], Priority.REFRESH), "never lowered"
    assert [run(scheduler) for _ in range(5)] == [[2], ["live"], [0], [1], None]


@pytest.mark.contract("S10")
def test_what_failed_is_counted_apart_with_its_time():
    scheduler = make(max_batch=2)
    submit(scheduler, "good")
    submit(scheduler, "bad")
    batch = scheduler.take(1.0)
    submit(scheduler, "late", seconds=4)
    scheduler.finish(batch, ["good", InferenceError("bad")], now=2.0)
    scheduler.leave(batch, 2.0)
    scheduler.expire(4.0)
    submit(scheduler, "stuck", now=4.0)
    submit(scheduler, "stuck, too", now=4.0)
    taken = scheduler.take(4.0)
    scheduler.abandon(9.0, 4.0)
    scheduler.finish(taken, taken.payloads, now=10.0)  # too late for anyone
    waiting = submit(scheduler, "cancelled", now=9.0)
    assert scheduler.cancel(waiting)
    stats = scheduler.stats(PoolCounts())
    assert (stats.total_seconds.count, stats.total_seconds.total) == (1, 2.0)
    # 2 s until the model's error, 4 s until its time was over, twice 5 s in a batch that hung
    assert (stats.failed_seconds.count, stats.failed_seconds.total) == (4, 2.0 + 4.0 + 2 * 5.0)


@pytest.mark.contract("S5")
def test_an_expired_work_is_never_run():
    scheduler = make()
    gone = submit(scheduler, "gone", seconds=1)
    kept = submit(scheduler, "kept", seconds=3)
    assert run(scheduler, now=2.0) == ["kept"]
    assert kept.result(0) == "kept"
    with pytest.raises(DeadlineExceeded):
        gone.result(0)
    assert scheduler.stats(PoolCounts()).expired == 1


@pytest.mark.contract("S5")
def test_works_are_batched_by_size():
    scheduler = make(max_batch=10)
    for size in (4, 5, 3, 30, 1):
        submit(scheduler, size, sizes=(size,))
    assert [run(scheduler) for _ in range(4)] == [[4, 5], [3], [30], [1]]
    assert scheduler.stats(PoolCounts()).batch_sizes == {1: 1, 4: 1, 16: 1, 32: 1}


@pytest.mark.contract("S5")
def test_a_work_larger_than_a_batch_is_split_interleaved_and_joined():
    scheduler = make(max_batch=4)
    large = submit(scheduler, *range(7), seconds=1)
    small = [submit(scheduler, name, seconds=2) for name in "ab"]
    assert run(scheduler) == [0, 1, "a", "b"], "half of the batch is left to others"
    assert all(work.done() for work in small)
    assert run(scheduler) == [2, 3, 4, 5], "alone, it has all of it"
    assert not large.done()
    assert run(scheduler) == [6]
    assert large.result(0) == list(range(7))


def test_a_part_that_fails_fails_its_work_and_takes_the_rest_out():
    scheduler = make(max_batch=2)
    work = submit(scheduler, *range(4))
    batch = scheduler.take(0.0)
    assert scheduler.finish(batch, [InferenceError("bad"), 1], now=0.0) == [work]
    scheduler.leave(batch, 0.0)
    assert run(scheduler) is None
    with pytest.raises(InferenceError, match="bad"):
        work.result(0)


def test_a_batch_that_waits_goes_when_it_is_full_or_its_oldest_has_waited():
    scheduler = make(max_batch=2, max_wait=0.5)
    assert scheduler.ready_in(0.0) is None
    first = submit(scheduler, 1, now=1.0)
    assert scheduler.ready_in(1.2) == pytest.approx(0.3)
    submit(scheduler, 2, now=1.2)
    assert scheduler.ready_in(1.2) == 0.0
    assert first.cancel()
    assert scheduler.ready_in(1.2) == pytest.approx(0.5)
    assert scheduler.ready_in(9.0) == 0.0


def test_low_priorities_do_not_fill_the_queue_for_others():
    scheduler = make(max_queue=2)
    for n in range(2):
        submit(scheduler, n, priority=Priority.WARM_UP)
    with pytest.raises(QueueFull):
        submit(scheduler, 2, priority=Priority.WARM_UP)
    submit(scheduler, 3)
    assert scheduler.stats(PoolCounts()).rejected_by == {"queue_full": 1}


def test_cancelled_works_leave_no_entries_behind():
    scheduler = make(max_queue=10_000)
    submit(scheduler, "kept", priority=Priority.WARM_UP)
    for n in range(1000):
        assert submit(scheduler, n, priority=Priority.WARM_UP, seconds=20).cancel()
    lane = scheduler._queue._lanes[Priority.WARM_UP]
    assert len(lane.line) < 200
    assert len(lane.by_slot) == 1
    assert run(scheduler) == ["kept"]


@pytest.mark.contract("S3")
def test_a_batch_that_hangs_is_given_up_and_late_results_are_ignored():
    scheduler = make()
    work = submit(scheduler, 1)
    batch = scheduler.take(0.0)
    assert not scheduler.has_room()
    assert scheduler.abandon(5.0, limit=5.0) == []
    assert scheduler.abandon(5.1, limit=5.0) == [(batch, [work])]
    assert scheduler.has_room()
    assert scheduler.finish(batch, [1], now=6.0) == []
    scheduler.leave(batch, 6.0)
    with pytest.raises(InferenceError, match="did not answer within 5 s"):
        work.result(0)


class Interleavings(RuleBasedStateMachine):
    """Any order of submissions, cancellations, batches, failures, hangs and closing."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.instances = 2
        self.works = []
        self.ran = {}
        self.batches = []
        self.settled = []
        self.cancelled = []
        self.scheduler = BatchScheduler(
            "m@1",
            lock=threading.Lock(),
            cancel=self.cancel_work,
            max_batch=4,
            max_queue=12,
            max_wait=0.0,
            instances=lambda: self.instances,
            admission=Admission(max_batch=4),
        )

    def cancel_work(self, work):
        return self.scheduler.cancel(work)

    def note(self, works):
        for work in works:
            assert work.done()
            self.settled.append(work)

    @rule(
        sizes=st.none() | st.lists(st.integers(1, 6), min_size=1, max_size=7),
        seconds=st.sampled_from([0.05, 0.5, 5.0]),
        priority=st.sampled_from(Priority),
        key=st.none() | st.integers(0, 3),
    )
    def submit(self, sizes, seconds, priority, key):
        name = len(self.works)
        parts = [(name, i) for i in range(len(sizes or [1]))]
        try:
            work = submit(
                self.scheduler,
                *parts,
                sizes=sizes,
                now=self.now,
                seconds=seconds,
                priority=priority,
                key=key,
            )
        except QueueFull:
            return
        except ModelNotReady:
            assert self.scheduler.closed
            return
        self.works.append(work)

    @rule(choice=st.integers(0, 10**6))
    def cancel(self, choice):
        if not self.works:
            return
        work = self.works[choice % len(self.works)]
        if work.cancel():
            self.settled.append(work)
            self.cancelled.append(work)

    @rule(
        choice=st.integers(0, 10**6),
        priority=st.sampled_from(Priority),
        seconds=st.sampled_from([0.0, 0.7, 9.0]),
    )
    def raise_priority(self, choice, priority, seconds):
        if self.works:
            work = self.works[choice % len(self.works)]
            self.scheduler.raise_priority(work, priority, self.now + seconds)

    @rule()
    def take(self):
        self.note(self.scheduler.expire(self.now))
        if not self.scheduler.has_room():
            return
        ready = self.scheduler.ready_in(self.now)
        batch = self.scheduler.take(self.now)
        assert (batch is None) == (ready is None)
        if batch is None:
            return
        assert batch.size <= 4 or len(batch.works) == 1
        for work, part in zip(batch.works, batch.payloads, strict=True):
            assert part not in self.ran, "a part was run twice"
            self.ran[part] = self.now
            assert not work.done(), "a work was run that had its outcome"
            assert work.deadline > self.now
        self.batches.append(batch)

    @rule(choice=st.integers(0, 10**6), bad=st.sets(st.integers(0, 3)), seconds=st.floats(0, 0.2))
    def finish(self, choice, bad, seconds):
        if not self.batches:
            return
        self.now += seconds
        batch = self.batches.pop(choice % len(self.batches))
        results = [
            InferenceError("bad") if i in bad else ("result", part)
            for i, part in enumerate(batch.payloads)
        ]
        self.note(self.scheduler.finish(batch, results, now=self.now))
        self.scheduler.leave(batch, self.now)

    @rule()
    def give_up(self):
        for _, works in self.scheduler.abandon(self.now, limit=0.3):
            self.note(works)

    @rule(seconds=st.floats(0.0, 0.5), instances=st.integers(1, 3))
    def pass_time(self, seconds, instances):
        self.now += seconds
        self.instances = instances

    @rule()
    def close(self):
        self.scheduler.closed = True

    @invariant()
    def counts_agree(self):
        queue = self.scheduler._queue
        waiting = [work for work in self.works if work.waits()]
        assert len(queue) == len(waiting)
        for priority in Priority:
            lane = queue._lanes[priority]
            mine = [work for work in waiting if work.priority == priority]
            assert lane.size == sum(work.size() for work in mine) == sum(lane.by_slot.values())
            assert lane.stale == len(lane.line) + len(lane.beside) - len(mine)

    @invariant()
    def settled_once(self):
        assert len(self.settled) == len(set(map(id, self.settled)))
        assert {id(work) for work in self.settled} == {id(w) for w in self.works if w.done()}

    def teardown(self):
        while self.batches or len(self.scheduler._queue):
            self.take()
            self.instances = 3
            if self.batches:
                self.finish(0, set(), 0.0)
        for name, work in enumerate(self.works):
            assert work.done()
            if work.cancelled() or work.exception(0) is not None:
                continue
            parts = len(work.parts) if isinstance(work, LargeWork) else 1
            expected = [("result", (name, i)) for i in range(parts)]
            assert work.result(0) == (expected[0] if parts == 1 else expected)
        stats = self.scheduler.stats(PoolCounts())
        assert stats.submitted == len(self.works)
        assert stats.cancelled == len(self.cancelled)
        assert stats.queued == stats.running == 0


TestInterleavings = pytest.mark.contract("S5")(Interleavings.TestCase)
TestInterleavings.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
