"""No stale read after an invalidation has been acknowledged: histories with injected faults."""

import contextlib
import threading
import time
from random import Random

import pytest
from hypothesis import given as over
from hypothesis import strategies as st

from cache_app import wiring
from cache_app.core.generations import Generations
from cache_app.epoch_authority import EpochAuthority
from cache_app.models import Epoch, Invalidation
from plugins.errors import LevelUnavailable
from tests import servers
from tests.histories import Event, Worker, is_enough, prepare, stale_reads
from tests.proxies import proxy
from tests.servers import wait_for

pytestmark = [pytest.mark.contract("C8"), pytest.mark.xdist_group("redis")]

PROCESSES, THREADS = 3, 3
FAULTS = ("cut", "delay", "hold", "refuse", "restart")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("histories"))


class Hosts:
    """Processes that share a database and a Redis, each of which it sees through its own proxy."""

    def __init__(self, stack, prepared, coherence, count):
        self.redis = stack.enter_context(servers.one())
        self.proxies = [stack.enter_context(proxy(self.redis.port)) for _ in range(count)]
        self.workers = []
        for each in self.proxies:
            l2 = {"BACKEND": "redis", "URL": f"redis://127.0.0.1:{each.port}/0"}
            cache = {"L2": l2, "COHERENCE": coherence, "NAMESPACE": f"h{self.redis.port}"}
            worker = Worker({**prepared, "CACHE": cache})
            stack.callback(worker.close)
            self.workers.append(worker)
        for worker in self.workers:
            assert worker.wait() == "ready"
        for worker in self.workers:
            wait_for(lambda worker=worker: worker.ask("connected"), what="the bus is connected")


@pytest.fixture
def hosts(prepared):
    with contextlib.ExitStack() as stack:
        yield lambda coherence, count=2: Hosts(stack, prepared, coherence, count)


def inject(hosts, rng):
    """Inject each fault three times, and then let everything flow again."""
    for fault in rng.sample(FAULTS, len(FAULTS)) * 3:
        victim = rng.choice(hosts.proxies)
        lasts = rng.random() * 0.2
        if fault == "cut":
            victim.cut()
        elif fault == "delay":
            victim.delay = rng.random() * 0.06  # about the level's time-out
            time.sleep(lasts)
            victim.delay = 0.0
        elif fault == "hold":
            victim.hold()
            time.sleep(lasts)
            victim.go_on()
        elif fault == "refuse":
            victim.refuses = True
            victim.cut()
            time.sleep(lasts)
            victim.refuses = False
        else:
            hosts.redis.kill()
            hosts.redis.start()
            hosts.redis.wait()
        time.sleep(rng.random() * 0.05)  # the next one may meet what this one has left


@pytest.mark.contract("C12")
@pytest.mark.parametrize("seed", [1, 2])
def test_no_read_is_stale_in_strict_mode_whatever_befalls_redis(hosts, seed, tmp_path):
    together = hosts("strict", PROCESSES)
    end = tmp_path / "end"
    for number, worker in enumerate(together.workers):
        worker.tell("run", f"{seed}-{number}", THREADS, 0.2, str(end))
    inject(together, Random(seed))
    end.touch()
    histories = [[Event(*each) for each in worker.wait()] for worker in together.workers]
    # It was worth checking: there were many writes, and hits of both levels.
    assert all(is_enough(history) for history in histories)
    assert stale_reads([event for history in histories for event in history]) == []


def test_a_message_that_is_held_up_makes_a_stale_read_in_bounded_mode_and_none_in_strict(hosts):
    """The checker finds what there is to find, and strict mode is what makes the difference."""
    for coherence, stale in (("bounded", True), ("strict", False)):
        together = hosts(coherence)
        here, there = together.workers
        history = there.events("read", 0)  # it is in the other's L1 now
        together.proxies[1].hold()
        history += here.events("write", 0)
        history += there.events("read", 0)
        together.proxies[1].go_on()
        assert bool(stale_reads(history)) is stale, coherence
        if not stale:
            continue
        ((read, write),) = stale_reads(history)
        assert (read.source, read.number) == ("l1", write.number - 1)
        servers.wait_for(
            lambda there=there, write=write: there.events("read", 0)[0].number == write.number,
            what="the message comes",
        )


# --- The checker ---


def test_what_a_stale_read_is():
    write = Event("write", 1, 5, 10.0, 11.0)
    old = Event("read", 1, 4, 11.5, 12.0)
    assert stale_reads([old, write]) == [(old, write)]
    assert stale_reads([old._replace(number=5), write]) == []
    assert stale_reads([old._replace(number=6), write]) == []  # of a write under way
    assert stale_reads([old._replace(began=10.5), write]) == []  # before it was acknowledged
    assert stale_reads([old._replace(user=2), write]) == []


@over(st.lists(st.tuples(st.booleans(), st.integers(0, 1)), max_size=40))
def test_one_operation_after_the_other_is_stale_exactly_when_it_returns_less(steps):
    numbers, history, expected = [0, 0], [], []
    for at, (writes, user) in enumerate(steps):
        if writes:
            numbers[user] += 1
            history.append(Event("write", user, numbers[user], at, at + 0.5))
        else:
            lags = at % 3 == 0 and numbers[user] > 0
            read = Event("read", user, numbers[user] - lags, at, at + 0.5)
            history.append(read)
            expected += [read] if lags else []
    assert [read for read, _ in stale_reads(history)] == expected


# --- Strict mode itself ---


@pytest.mark.django_db
def test_strict_mode_asks_the_database_and_without_it_trusts_nothing(settings, monkeypatch):
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": {"COHERENCE": "strict"}}
    wiring.reset()
    try:
        generations = wiring.get_generations()
        before = generations.of(["all", "u:x"])
        row = Epoch.objects.get()
        # Another host did this, and nothing told of it.
        Invalidation.objects.create(epoch=row.latest + 1, scope="u:x")
        Epoch.objects.update(latest=row.latest + 1)
        assert generations.of(["all", "u:x"]) == str(row.latest + 1)
        assert generations.of(["all", "u:y"]) == before

        def away():
            raise LevelUnavailable("away")

        monkeypatch.setattr(generations, "_load", lambda _: away())
        Epoch.objects.all().delete()
        doubted = {generations.of(["all"]) for _ in range(3)}
        assert all(each.startswith("doubt-") for each in doubted)
    finally:
        wiring.reset()


def test_threads_share_a_question_only_if_it_was_put_after_they_came():
    latest, asked, go_on = [1], [], threading.Semaphore(0)

    def slow():
        asked.append(latest[0])
        assert go_on.acquire(timeout=20)
        return asked[-1]

    authority = EpochAuthority(slow)
    generations = []

    def ask():
        generations.append(authority.hint())

    first = threading.Thread(target=ask)
    first.start()
    wait_for(lambda: asked, what="the first asks")
    latest[0] = 2  # an invalidation returns while the first's question is under way
    others = [threading.Thread(target=ask) for _ in range(5)]
    for number, other in enumerate(others, 1):
        other.start()
        wait_for(lambda n=number: len(authority._reads._queue) == n)
    go_on.release()
    first.join(20)
    go_on.release()
    for other in others:
        other.join(20)
    assert generations == [1, 2, 2, 2, 2, 2]
    assert asked == [1, 2]


def test_an_epoch_that_cannot_be_known_equals_nothing():
    def away():
        raise LevelUnavailable("away")

    hint = EpochAuthority(away).hint
    assert hint() != hint()
    loads = []

    def load(epoch):
        loads.append(epoch)
        raise LevelUnavailable("away")

    generations = Generations(load, hint=hint)
    assert generations.of(["all"]) != generations.of(["all"])
    assert len(loads) == 2
