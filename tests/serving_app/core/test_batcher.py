import asyncio
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed, wait
from random import Random

import pytest

from plugins import DeadlineExceeded, InferenceError, ModelNotReady, Priority, QueueFull
from serving_app.core.batcher import Batcher, Instances
from tests.fakes import FakeClock


class Gate:
    """A model that answers ``work * 10``, holds each batch until told, and keeps them all."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches = []

    def run(self, works):
        self.batches.append(list(works))
        self.entered.release()
        assert self.open.wait(10)
        if "poison" in works:
            raise ValueError("poisoned")
        return [work * 10 for work in works]


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def make(gate):
    made = []

    def make(**options):
        batcher = Batcher(gate.run, name="m@1", **options)
        made.append(batcher)
        return batcher

    yield make
    gate.open.set()
    for batcher in made:
        batcher.close()


@pytest.mark.contract("S5")
def test_what_queued_while_the_last_batch_ran_is_the_next_batch(gate, make):
    batcher = make()
    first = batcher.submit(1)
    assert gate.entered.acquire(timeout=10)
    rest = [batcher.submit(n) for n in (2, 3, 4)]
    gate.open.set()
    assert [f.result(10) for f in (first, *rest)] == [10, 20, 30, 40]
    assert gate.batches == [[1], [2, 3, 4]]


@pytest.mark.contract("S5")
def test_a_batch_is_never_larger_than_the_limit(gate, make):
    batcher = make(max_batch=2)
    first = batcher.submit(0)
    assert gate.entered.acquire(timeout=10)
    rest = [batcher.submit(n) for n in range(1, 6)]
    gate.open.set()
    wait([first, *rest], 10)
    assert gate.batches == [[0], [1, 2], [3, 4], [5]]
    assert batcher.stats().batch_sizes == {1: 2, 2: 2}


@pytest.mark.contract("S5")
def test_a_full_queue_refuses_and_says_when_to_come_back(gate, make):
    batcher = make(max_queue=2)
    batcher.submit(0)
    assert gate.entered.acquire(timeout=10)
    batcher.submit(1)
    batcher.submit(2)
    with pytest.raises(QueueFull, match="2 requests wait for m@1") as caught:
        batcher.submit(3)
    assert caught.value.retry_after > 0
    assert batcher.stats().rejected == 1


@pytest.mark.contract("S5")
def test_a_cancelled_request_is_never_run_and_disturbs_nobody(gate, make):
    batcher = make()
    first = batcher.submit(1)
    assert gate.entered.acquire(timeout=10)
    gone, kept = batcher.submit(2), batcher.submit(3)
    assert gone.cancel()
    gate.open.set()
    assert (first.result(10), kept.result(10)) == (10, 30)
    assert gate.batches == [[1], [3]]


@pytest.mark.contract("S5")
def test_one_bad_row_fails_alone(gate, make):
    batcher = make()
    first = batcher.submit(1)
    assert gate.entered.acquire(timeout=10)
    good, bad, also_good = batcher.submit(2), batcher.submit("poison"), batcher.submit(3)
    gate.open.set()
    assert (first.result(10), good.result(10), also_good.result(10)) == (10, 20, 30)
    with pytest.raises(InferenceError, match="m@1 failed: ValueError: poisoned") as caught:
        bad.result(10)
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_in_the_results_fails_that_request_alone(make):
    with_error = Batcher(
        lambda works: [InferenceError("nan") if w == 2 else w for w in works], name="m"
    )
    futures = [with_error.submit(n) for n in (1, 2, 3)]
    assert (futures[0].result(10), futures[2].result(10)) == (1, 3)
    with pytest.raises(InferenceError, match="nan"):
        futures[1].result(10)
    with_error.close()


def test_a_model_that_loses_rows_is_an_error_and_not_a_shifted_answer():
    short = Batcher(lambda works: [], name="m")
    with pytest.raises(InferenceError, match="returned 0 results for a batch of 1"):
        short.submit(1).result(10)
    short.close()


@pytest.mark.contract("S9")
def test_closing_finishes_what_is_queued_and_refuses_more(gate, make):
    batcher = make()
    first = batcher.submit(1)
    assert gate.entered.acquire(timeout=10)
    second = batcher.submit(2)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.open.set()
    closing.join(10)
    assert not closing.is_alive()
    assert (first.result(0), second.result(0)) == (10, 20)
    with pytest.raises(ModelNotReady):
        batcher.submit(3)


@pytest.mark.contract("S3")
def test_as_many_batches_run_at_once_as_there_are_threads(gate, make):
    batcher = make(instances=Instances(2), max_batch=1)
    futures = [batcher.submit(n) for n in (1, 2)]
    assert gate.entered.acquire(timeout=10)
    assert gate.entered.acquire(timeout=10)
    assert batcher.stats().running == 2
    gate.open.set()
    assert sorted(f.result(10) for f in futures) == [10, 20]


@pytest.mark.contract("S5")
def test_whatever_many_threads_submit_is_answered_once_and_to_the_right_caller():
    batcher = Batcher(
        lambda works: [-w for w in works], name="m", max_batch=7, instances=Instances(3)
    )
    wrong = []

    def client(start):
        for n in range(start, start + 300):
            answer = batcher.submit(n).result(10)
            wrong.extend([n] if answer != -n else [])

    clients = [threading.Thread(target=client, args=(i * 1000,)) for i in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(30)
    assert wrong == []
    assert batcher.stats().submitted == 2400
    batcher.close()


@pytest.mark.contract("S5")
def test_a_poisoned_row_costs_few_runs_and_only_its_own_caller(gate, make):
    batcher = make()
    first = batcher.submit(0)
    gate.entered.acquire(timeout=10)
    works = [batcher.submit("poison" if n == 11 else n) for n in range(64)]
    gate.open.set()
    assert first.result(10) == 0
    for n, work in enumerate(works):
        if n == 11:
            with pytest.raises(InferenceError, match="poisoned"):
                work.result(10)
        else:
            assert work.result(10) == n * 10
    assert len(gate.batches) - 1 == 13, "the batch, and two halves at each of six levels"


@pytest.mark.contract("S5")
def test_an_error_that_is_no_rows_fault_is_not_tried_again():
    calls = []

    def run(works):
        calls.append(len(works))
        raise ModelNotReady("no instance")

    batcher = Batcher(run, name="m")
    with pytest.raises(ModelNotReady):
        batcher.submit_many([1, 2, 3]).result(10)
    batcher.close()
    assert calls == [3]


@pytest.mark.contract("S5")
def test_works_of_many_parts_are_joined(make, gate):
    gate.open.set()
    batcher = make(max_batch=4)
    assert batcher.submit_many(list(range(10))).result(10) == [n * 10 for n in range(10)]
    with pytest.raises(ValueError, match="at least one part"):
        batcher.submit_many([])


@pytest.mark.contract("S5")
def test_a_raised_work_overtakes(gate, make):
    batcher = make(max_batch=1)
    batcher.submit(0)
    gate.entered.acquire(timeout=10)
    warm = [batcher.submit(n, priority=Priority.WARM_UP) for n in (1, 2)]
    batcher.raise_priority(warm[1], Priority.LIVE)
    gate.open.set()
    wait(warm, 10)
    assert gate.batches == [[0], [2], [1]]


@pytest.mark.contract("S3")
def test_a_model_that_hangs_is_left_behind_and_others_go_on(gate):
    clock = FakeClock()
    instances = Instances(1)
    instances.limit = 5.0
    stuck = []
    instances.abandon = stuck.append
    batcher = Batcher(gate.run, name="m", instances=instances, clock=clock, max_batch=1)
    first, second = batcher.submit(1, seconds=99), batcher.submit(2, seconds=99)
    gate.entered.acquire(timeout=10)
    clock.advance(5.1)
    batcher.tend()
    with pytest.raises(InferenceError, match="did not answer within 5 s"):
        first.result(10)
    gate.entered.acquire(timeout=10)  # another thread runs the second
    gate.open.set()
    assert second.result(10) == 20
    batcher.close()
    assert len(stuck) == 1
    assert batcher.stats().abandoned_batches == 1


def test_expired_works_fail_without_a_batch_that_ends(gate):
    clock = FakeClock()
    batcher = Batcher(gate.run, name="m", clock=clock)
    batcher.submit(1)
    gate.entered.acquire(timeout=10)
    late = batcher.submit(2, seconds=1.0)
    clock.advance(1.0)
    batcher.tend()
    with pytest.raises(DeadlineExceeded):
        late.result(10)
    gate.open.set()
    batcher.close()
    assert gate.batches == [[1]]


@pytest.mark.contract("S5")
def test_a_future_is_one_of_the_standard_library(gate, make):
    batcher = make()
    future = batcher.submit(1)
    gate.entered.acquire(timeout=10)
    queued = batcher.submit(2)
    called = []
    queued.add_done_callback(called.append)
    assert future.running()
    assert not future.cancel()
    with pytest.raises(TimeoutError):
        future.result(0.001)
    assert queued.cancel()
    assert queued.cancelled()
    assert called == [queued]
    queued.add_done_callback(called.append)
    assert len(called) == 2, "a late callback is called at once"
    with pytest.raises(CancelledError):
        queued.result(1)
    gate.open.set()
    assert set(as_completed([future, queued], 10)) == {future, queued}
    assert wait([future, queued], 10).done == {future, queued}

    async def awaited():
        return await asyncio.wrap_future(batcher.submit(7))

    assert asyncio.run(awaited()) == 70


def test_a_callback_that_fails_is_logged_and_harms_no_one(gate, make, caplog):
    batcher = make()
    first = batcher.submit(1)
    gate.entered.acquire(timeout=10)
    first.add_done_callback(lambda _: 1 / 0)
    gate.open.set()
    assert first.result(10) == 10
    assert batcher.submit(2).result(10) == 20
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.contract("S5")
def test_callers_that_go_away_harm_no_one_and_cost_no_run():
    ran = []

    def run(works):
        ran.extend(works)
        return [-w for w in works]

    batcher = Batcher(run, name="m", max_batch=16, max_queue=10**6)
    rng = Random(5)
    cancelled = set()

    def caller(numbers):
        rng = Random(numbers[0])
        futures = [(n, batcher.submit(n, seconds=60)) for n in numbers]
        for n, future in futures:
            if rng.random() < 0.3 and future.cancel():
                cancelled.add(n)
        for n, future in futures:
            if n not in cancelled:
                assert future.result(30) == -n

    starts = list(range(1, 4001, 100))
    rng.shuffle(starts)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(caller, range(start, start + 100)) for start in starts]:
            done.result()
    batcher.close()
    assert cancelled
    assert not cancelled & set(ran)
    assert len(ran) == 4000 - len(cancelled)
