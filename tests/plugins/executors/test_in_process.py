import threading

import numpy as np
import pytest

from plugins import ElasticModel, InferenceError, ModelNotReady, ModelSpec
from plugins.executors.in_process import InProcess, Pool
from tests.fakes import FakeClock


class Model:
    """A model that doubles its input, fails when told to, and can be held inside a call."""

    signature = None

    def __init__(self):
        self.fails = False
        self.closed = 0
        self.hold = None
        self.inside = threading.Event()

    def predict(self, inputs):
        self.inside.set()
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.fails:
            raise ValueError("broken")
        return {"scores": inputs["x"] * 2}

    def close(self):
        self.closed += 1


class Made:
    """A pool with a clock that stands still, whose loads run when told to."""

    def __init__(self, **options):
        self.clock = FakeClock()
        self.models = []
        self.tasks = []
        self.broken = False
        limits = InProcess(**options)._limits
        self.pool = Pool("m@1", self.load, limits, clock=self.clock, spawn=self.tasks.append)

    def load(self):
        if self.broken:
            raise MemoryError("no room")
        self.clock.advance(0.25)
        self.models.append(Model())
        return self.models[-1]

    def do(self):
        while self.tasks:
            self.tasks.pop(0)()

    def run(self):
        return self.pool.run({"x": np.ones(1)})

    def fail(self, times):
        for _ in range(times):
            with pytest.raises(InferenceError, match="broken"):
                self.run()

    def wait_in_queue(self, batches=3, seconds=0.1):
        for _ in range(batches):
            self.pool.queued(seconds)
        self.do()


@pytest.mark.contract("S3")
def test_the_floor_is_loaded_before_the_first_batch():
    made = Made(min_instances=2)
    assert len(made.models) == made.pool.instances == 2
    assert made.run()["scores"] == 2
    counts = made.pool.counts()
    assert (counts.least, counts.most, counts.load_seconds) == (2, 2, 0.25)
    assert isinstance(made.pool, ElasticModel)


@pytest.mark.contract("S3")
def test_it_grows_to_the_ceiling_while_requests_wait():
    made = Made(max_instances=2, grow_wait=0.05)
    made.wait_in_queue(2)
    made.pool.queued(0.01)
    made.wait_in_queue(2)
    assert made.pool.instances == 1, "three in a row"
    made.wait_in_queue(1)
    assert made.pool.instances == 2
    made.wait_in_queue(9)
    assert made.pool.instances == 2
    assert made.pool.counts().grown == 1


@pytest.mark.contract("S3")
def test_an_added_instance_leaves_when_it_has_been_idle():
    made = Made(max_instances=3, idle_seconds=60)
    made.wait_in_queue()
    made.wait_in_queue()
    made.clock.advance(59)
    made.run()
    made.pool.tend()
    assert made.pool.instances == 3
    made.clock.advance(1)
    made.pool.tend()
    assert [model.closed for model in made.models] == [1, 1, 0], "the one that was used stays"
    made.clock.advance(99)
    made.pool.tend()
    assert made.pool.instances == 1, "the floor stays"
    assert made.pool.counts().shrunk == 2


@pytest.mark.contract("S3")
def test_an_exhausted_pool_refuses_after_its_time_out():
    made = Made(checkout_timeout=0.01)
    made.models[0].hold = threading.Event()
    thread = threading.Thread(target=made.run)
    thread.start()
    assert made.models[0].inside.wait(10)
    with pytest.raises(ModelNotReady, match=r"No instance of m@1 came free within 0.01 s"):
        made.run()
    made.models[0].hold.set()
    thread.join()


@pytest.mark.contract("S3")
def test_an_instance_that_fails_again_and_again_is_replaced():
    made = Made(max_failures=3)
    made.models[0].fails = True
    made.fail(2)
    assert made.tasks == []
    made.fail(1)
    made.fail(1)
    assert len(made.tasks) == 1, "one at a time; until it is there, the old one goes on"
    made.do()
    assert made.run()["scores"] == 2
    assert [model.closed for model in made.models] == [1, 0]
    made.models[1].fails = True
    made.fail(5)
    assert made.tasks == [], "not again so soon: it may be the rows that are bad"
    made.clock.advance(10)
    made.fail(1)
    made.do()
    assert made.run()["scores"] == 2
    assert made.pool.counts().replaced == 2


@pytest.mark.contract("S3")
def test_an_instance_that_cannot_be_replaced_goes_on(caplog):
    made = Made(max_failures=1)
    made.models[0].fails = True
    made.broken = True
    made.fail(1)
    made.do()
    assert "cannot be loaded" in caplog.text
    made.models[0].fails = False
    assert made.run()["scores"] == 2


@pytest.mark.contract("S3")
def test_one_that_is_replaced_while_in_use_is_freed_when_it_comes_back():
    made = Made(max_failures=1)
    old = made.models[0]
    old.fails = True
    made.fail(1)
    old.fails, old.hold = False, threading.Event()
    old.inside.clear()
    thread = threading.Thread(target=made.run)
    thread.start()
    assert old.inside.wait(10)
    made.do()
    assert old.closed == 0
    old.hold.set()
    thread.join()
    assert old.closed == 1
    assert made.pool.instances == 1
    assert made.run()["scores"] == 2
    made.pool.close()
    assert [model.closed for model in made.models] == [1, 1]


@pytest.mark.contract("S3")
def test_a_thread_that_hangs_is_left_behind_and_counted():
    made = Made()
    stuck = made.models[0]
    stuck.hold = threading.Event()
    thread = threading.Thread(target=made.run)
    thread.start()
    assert stuck.inside.wait(10)
    made.pool.abandon(thread.ident)
    assert made.pool.instances == 0
    made.do()
    assert made.run()["scores"] == 2
    counts = made.pool.counts()
    assert (counts.instances, counts.stuck, counts.replaced) == (1, 1, 1)
    stuck.hold.set()  # it comes back after all
    thread.join()
    assert made.pool.counts().stuck == 0
    assert stuck.closed == 1
    assert made.pool.instances == 1


def test_closing_does_not_wait_for_what_hangs():
    made = Made()
    made.models[0].hold = threading.Event()
    thread = threading.Thread(target=made.run)
    thread.start()
    assert made.models[0].inside.wait(10)
    made.broken = True
    made.pool.abandon(thread.ident)
    made.do()
    made.pool.close()
    with pytest.raises(ModelNotReady, match="closed"):
        made.run()
    made.models[0].hold.set()
    thread.join()


def test_what_was_loaded_is_freed_if_the_floor_cannot_be_reached():
    loaded = []

    def load():
        if len(loaded) == 2:
            raise MemoryError("no room")
        loaded.append(Model())
        return loaded[-1]

    spec = ModelSpec("m", 1, "numpy_linear", path=None)
    with pytest.raises(MemoryError):
        InProcess(min_instances=3).host(spec, load)
    assert [model.closed for model in loaded] == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_instances": 0}, "min_instances must be at least 1"),
        ({"min_instances": 3, "max_instances": 2}, r"at least min_instances \(3\)"),
        ({"max_failures": 0}, "max_failures must be at least 1"),
        ({"batch_seconds": 0.0}, "batch_seconds must be above 0"),
        ({"idle_seconds": -1.0}, "idle_seconds must be above 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        InProcess(**options)
