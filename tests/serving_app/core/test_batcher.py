import threading
from concurrent.futures import wait

import pytest

from plugins import InferenceError, ModelNotReady, QueueFull
from serving_app.core.batcher import Batcher


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
    batcher = make(threads=2, max_batch=1)
    futures = [batcher.submit(n) for n in (1, 2)]
    assert gate.entered.acquire(timeout=10)
    assert gate.entered.acquire(timeout=10)
    assert batcher.stats().running == 2
    gate.open.set()
    assert sorted(f.result(10) for f in futures) == [10, 20]


@pytest.mark.contract("S5")
def test_whatever_many_threads_submit_is_answered_once_and_to_the_right_caller():
    batcher = Batcher(lambda works: [-w for w in works], name="m", max_batch=7, threads=3)
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
