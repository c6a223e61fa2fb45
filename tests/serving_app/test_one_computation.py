"""One cold key, many processes with many threads each, and a slow model."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cache_app.core.codec import Codec
from cache_app.core.freshness import Freshness
from cache_app.core.generations import Generations
from cache_app.core.lease_waits import KeyLease, LeaseWaits
from cache_app.core.levels import Levels
from cache_app.redis_level import RedisLevel
from cache_app.redis_servers import OneServer
from plugins import QueueFull, RecommendationRequest
from serving_app.core.live_models import LiveModels
from serving_app.core.ranking import Ranking
from serving_app.core.recommender import Recommender
from tests import servers
from tests.fakes import FakeClock, FakeLevel
from tests.journeys.conftest import ROOT
from tests.servers import wait_for
from tests.serving_app.core.test_recommender import FakeVersion

pytestmark = [pytest.mark.contract("C11"), pytest.mark.xdist_group("redis")]

PROCESSES, THREADS = 4, 250

SERVE = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
from tests import settings as module

given = json.loads(sys.argv[1])
module.RECSERVE = given["RECSERVE"]
sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": given["database"]}
sqlite["OPTIONS"] = {"timeout": 20, "transaction_mode": "IMMEDIATE"}
module.DATABASES = {"default": sqlite}
import django
django.setup()
from plugins import RecommendationRequest, RecserveError
from plugins.frameworks import numpy_linear
from serving_app import wiring

if given["first"]:
    from django.core.management import call_command
    from serving_app.registration import promote, register
    from tests.conftest import linear_draft

    call_command("migrate", verbosity=0)
    promote(register("default", linear_draft(Path(given["store"]))))
    sys.exit()

wiring.get_serving().reconciler.reconcile()
predict = numpy_linear._Linear.predict
seconds, fails, gate = 0.0, False, None

def slowly(self, inputs):
    rows = len(next(iter(inputs.values())))
    with open(given["log"], "a") as log:  # one write, at the end of the file
        log.write(f"{os.getpid()} {rows}\\n")
    time.sleep(seconds)
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    if fails:
        raise ValueError("broken on purpose")
    return predict(self, inputs)

numpy_linear._Linear.predict = slowly

def ask(user):
    request = RecommendationRequest(
        user_id=user, model_name="default", k=3, exclude=frozenset(), context={},
        features={"age": 1, "visits": 2, "spend": 3}, timeout=wanted["timeout"],
    )
    try:
        return list(wiring.get_recommender().recommend(request).items)
    except RecserveError as error:
        return type(error).__name__

with ThreadPoolExecutor(given["threads"]) as pool:
    print("ready", flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        seconds, fails, gate = wanted["seconds"], wanted["fails"], wanted["gate"]
        started = time.monotonic()
        answers = list(pool.map(ask, wanted["users"]))
        print(json.dumps([answers, time.monotonic() - started]), flush=True)
wiring.stop()
"""


class Fleet:
    """Processes that serve the same model from the same L2."""

    def __init__(self, given):
        self.log = Path(given["log"])
        self.log.touch()
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", SERVE, json.dumps(given)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]

    def wait(self):
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"

    def ask(self, users, *, seconds=0.0, fails=False, gate=None, timeout=20.0):
        """Let all ask at once: each user of the list by a thread of its own.

        A computation takes the seconds, and as long as there is no file ``gate``.
        """
        wanted = {"users": users, "seconds": seconds, "fails": fails, "timeout": timeout}
        wanted["gate"] = gate
        for process in self.processes:
            process.stdin.write(json.dumps(wanted) + "\n")
            process.stdin.flush()

    def answers(self):
        """Return each process's answers, and its seconds; None for one that died."""
        lines = [process.stdout.readline() for process in self.processes]
        return [json.loads(line) if line else None for line in lines]

    def batches(self):
        """Return the process and the rows of each batch since the last call."""
        lines = self.log.read_text("utf-8").split("\n")[:-1]
        self.log.write_text("", "utf-8")
        return [tuple(map(int, line.split())) for line in lines]

    def kill(self, pid):
        (process,) = (process for process in self.processes if process.pid == pid)
        process.kill()

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


@pytest.fixture(scope="module")
def server():
    with servers.one() as server:
        yield server


@pytest.fixture(scope="module")
def given(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-computation")
    (folder / "models").mkdir()
    given = {
        "RECSERVE": {
            "SERVING": {"MODEL_STORE": str(folder / "models")},
            "CACHE": {"L2": {"BACKEND": "redis", "URL": server.url, "TIMEOUT": 0.5}},
        },
        "database": str(folder / "db.sqlite3"),
        "store": str(folder / "models"),
        "threads": THREADS,
        "log": str(folder / "log"),
    }
    first = json.dumps({**given, "first": True})
    subprocess.run([sys.executable, "-c", SERVE, first], cwd=ROOT, check=True, timeout=120)
    return {**given, "first": False}


@pytest.fixture
def fleet(given):
    fleet = Fleet(given)
    with contextlib.closing(fleet):
        fleet.wait()
        fleet.batches()
        yield fleet


def test_one_process_of_all_computes_a_cold_key(fleet):
    for user in range(3):
        fleet.ask([user] * THREADS, seconds=0.5)
        answers = fleet.answers()
        assert [rows for _, rows in fleet.batches()] == [1], f"user {user}"
        assert len({json.dumps(each) for some, _ in answers for each in some}) == 1
        assert isinstance(answers[0][0][0], list), answers[0][0][0]
    # Many keys at once share batches in whoever has their leases, and each is computed once.
    fleet.ask([f"u{n}" for n in range(THREADS)], seconds=0.2)
    answers = fleet.answers()
    batches = fleet.batches()
    assert sum(rows for _, rows in batches) == THREADS
    assert len(batches) <= THREADS / 5  # how many depends on how fast the threads come
    assert all(isinstance(each, list) for some, _ in answers for each in some)


def test_who_waits_for_a_leader_that_fails_gets_its_own_outcome(fleet):
    fleet.ask(["x"] * THREADS, seconds=0.1, fails=True)
    answers = fleet.answers()
    assert {each for some, _ in answers for each in some} == {"InferenceError"}
    computed = [pid for pid, _ in fleet.batches()]
    assert len(computed) >= PROCESSES  # one after the other
    assert set(computed) == {process.pid for process in fleet.processes}
    fleet.ask(["x"] * THREADS, seconds=0.1)
    assert all(isinstance(each, list) for some, _ in fleet.answers() for each in some)
    assert len(fleet.batches()) == 1


def test_others_answer_within_their_deadline_if_the_leader_is_killed(fleet):
    fleet.ask(["y"] * THREADS, seconds=0.5, timeout=6.0)
    wait_for(lambda: fleet.log.read_text("utf-8"), what="somebody computes")
    ((leader, _),) = fleet.batches()
    fleet.kill(leader)
    answers = [each for each in fleet.answers() if each is not None]
    assert len(answers) == PROCESSES - 1
    assert all(isinstance(each, list) for some, _ in answers for each in some)
    assert all(seconds < 6.0 for _, seconds in answers)
    assert len(fleet.batches()) <= PROCESSES - 1


@pytest.mark.contract("C12")
def test_without_redis_each_process_computes_once(fleet, server):
    fleet.ask(["z"] * THREADS, seconds=1.0)
    wait_for(lambda: fleet.log.read_text("utf-8"), what="somebody computes")
    server.kill()
    try:
        answers = fleet.answers()
        assert all(isinstance(each, list) for some, _ in answers for each in some)
        # Those who waited for the leader have computed, too.
        assert sorted(pid for pid, _ in fleet.batches()) == sorted(p.pid for p in fleet.processes)
        fleet.ask(["zz"] * THREADS, seconds=0.3)
        answers = fleet.answers()
        assert all(isinstance(each, list) for some, _ in answers for each in some)
        assert sorted(pid for pid, _ in fleet.batches()) == sorted(p.pid for p in fleet.processes)
    finally:
        server.start()
        server.wait()


def test_nobody_waits_while_a_stale_value_exists(given, server, tmp_path):
    cache = {**given["RECSERVE"]["CACHE"], "TTL": 0.5, "JITTER": 0, "EARLY": 0}
    cache["STALE_WHILE_REVALIDATE"] = 300
    recserve = {**given["RECSERVE"], "CACHE": {**cache, "NAMESPACE": "stale"}}
    with contextlib.closing(Fleet({**given, "RECSERVE": recserve})) as fleet:
        fleet.wait()
        fleet.ask(["s"] * THREADS)
        old = fleet.answers()
        fleet.batches()
        level = RedisLevel("l2", OneServer("l2", server.url, timeout=2.0), Codec(Ranking))
        (key,) = (key for key in server.client.keys("rs:stale:*"))
        stored = level.get(key.decode().removeprefix("rs:"))
        level.close()
        wait_for(lambda: stored.fresh_until < time.time(), what="it is stale")
        gate = tmp_path / "gate"
        fleet.ask(["s"] * THREADS, gate=str(gate))
        # They have answered although no computation can have ended.
        assert [some for some, _ in fleet.answers()] == [some for some, _ in old]
        wait_for(lambda: fleet.log.read_text("utf-8"), what="somebody renews it")
        gate.touch()
        assert [rows for _, rows in fleet.batches()] == [1]


class OthersLeases:
    """Leases that another process has until the test frees them."""

    available = True

    def __init__(self):
        self.held = False
        self.stored = False
        self.taken = 0
        self.released = 0

    def taking(self, keys):
        if self.held:
            return [None] * len(keys)
        self.taken += len(keys)
        return [KeyLease(key, b"t", self.stored) for key in keys]
        yield  # it asks nobody

    def releasing(self, leases):
        self.released += len(leases)
        return True
        yield


class Alone:
    """The recommender of one process, with a fake model and fake leases."""

    def __init__(self):
        self.version, self.clock, self.leases = FakeVersion(), FakeClock(), OthersLeases()
        self.live = LiveModels(lambda _: False)
        self.live.swap("default", self.version)
        self.levels = Levels([FakeLevel("l1"), FakeLevel("l2")], clock=self.clock)
        self.waits = LeaseWaits(self.leases)
        self.recommender = Recommender(
            self.live,
            self.levels,
            Generations(lambda _: [], hint=lambda: 0),
            fallback=lambda request, error: None,
            namespace="t",
            freshness=Freshness(60.0, jitter=0, early=1, stale_while_revalidate=30),
            depth=10,
            leases=self.waits,
            clock=self.clock,
        )

    def recommend(self, **changes):
        return self.recommender.recommend(RecommendationRequest(user_id="u", k=3, **changes))


@pytest.fixture
def alone():
    alone = Alone()
    yield alone
    alone.waits.close()
    assert alone.leases.released == alone.leases.taken
    assert alone.live.swap("default", None).is_set()  # every use of the version has ended


def test_a_stale_answer_does_not_wait_for_another_process(alone):
    alone.recommend()
    alone.clock.advance(65)
    alone.leases.held = True
    started = time.monotonic()
    for _ in range(10):
        assert alone.recommend().stale_for == pytest.approx(5)
    assert time.monotonic() - started < 1.0  # and not half of its 10 s
    assert len(alone.version.submitted) == 1
    alone.leases.held = False
    wait_for(lambda: alone.recommend().stale_for == 0, what="it is renewed")
    assert len(alone.version.submitted) == 2


@pytest.mark.contract("C12")
def test_a_renewal_that_is_refused_after_the_lease_makes_the_stale_answer_degraded(alone):
    alone.recommend()
    alone.clock.advance(65)
    alone.version.refuses = QueueFull("full", retry_after=1.0)
    wait_for(lambda: alone.recommend().degraded, what="the stale answer says so")
    assert alone.recommend(timeout=5.0).stale_for == pytest.approx(5)
    assert alone.recommender.stats()["default"].degraded >= 2
    alone.version.refuses = None
    wait_for(lambda: alone.recommend().stale_for == 0, what="it is renewed")
    alone.clock.advance(65)
    alone.version.held = True
    computed = len(alone.version.submitted)
    assert alone.recommend().degraded is False
    wait_for(lambda: len(alone.version.submitted) > computed, what="it computes")
    alone.version.answer_all_new()


def test_time_spent_waiting_for_a_lease_is_no_computing_time(alone):
    alone.leases.held = True
    thread = threading.Thread(target=lambda: alone.recommend(timeout=600.0))
    thread.start()
    wait_for(lambda: len(alone.waits) == 1, what="it waits")
    alone.clock.advance(50)
    alone.leases.held = False
    thread.join(10)
    (stored,) = alone.levels._levels[1].table.values()
    assert stored.fresh_until == alone.clock() + 60
    # The model's own time does count: it is renewed earlier by that.
    alone.levels.clear()
    alone.version.held = True
    thread = threading.Thread(target=lambda: alone.recommend(timeout=600.0))
    thread.start()
    wait_for(lambda: len(alone.version.submitted) == 2, what="it computes")
    alone.clock.advance(5)
    alone.version.answer_all_new()
    thread.join(10)
    (stored,) = alone.levels._levels[1].table.values()
    assert stored.fresh_until < alone.clock() + 60


def test_what_another_process_stored_is_used_if_it_is_deep_enough(alone):
    alone.recommend()
    ((key, stored),) = alone.levels._levels[1].table.items()
    alone.levels.clear()
    for exclude, computed in ((frozenset(), 1), (frozenset(f"i{n}" for n in range(12)), 2)):
        alone.leases.held = alone.leases.stored = True
        answers = []
        thread = threading.Thread(
            target=lambda e=exclude, a=answers: a.append(alone.recommend(exclude=e))
        )
        thread.start()
        wait_for(lambda: len(alone.waits) == 1, what="it waits")
        alone.levels._levels[1].table[key] = stored
        alone.leases.held = False
        thread.join(10)
        assert len(answers[0].items) == 3
        assert len(alone.version.submitted) == computed


def test_an_error_after_waiting_is_everyones_and_patience_is_half_the_deadline(alone):
    alone.leases.held = True
    alone.version.refuses = QueueFull("full", retry_after=1.0)
    started = time.monotonic()
    with pytest.raises(QueueFull):
        alone.recommend(timeout=0.4)
    assert 0.2 <= time.monotonic() - started < 0.4
    alone.version.refuses = None
    assert alone.recommend(timeout=0.4).source == "model"
