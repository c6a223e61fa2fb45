"""Who waits, who leaves, and what an event loop may do itself."""

from concurrent.futures import CancelledError

import pytest

from cache_app.core.freshness import Freshness
from cache_app.core.generations import Generations
from cache_app.core.lease_waits import KeyLease
from cache_app.core.levels import Levels
from cache_app.core.memory import MemoryLevel
from plugins import ModelNotFound, Recommendation, Unavailable
from plugins.eviction.lru import LRU
from serving_app.core.live_models import LiveModels
from serving_app.core.pending import Pending
from serving_app.core.recommender import Recommender
from tests.fakes import FakeClock, FakeLevel
from tests.serving_app.core.test_recommender import FakeVersion, request

pytestmark = pytest.mark.contract("C11")


class SlowLevel(FakeLevel):
    """A level that an event loop must not ask."""

    waits = True
    asked = 0

    def get(self, key):
        self.asked += 1
        return super().get(key)


@pytest.fixture
def version():
    return FakeVersion(held=True)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(version, clock):
    def make(*below, **changes):
        live = LiveModels(lambda name: False)
        live.swap("default", version)
        memory = MemoryLevel(LRU, capacity=100, clock=clock)
        given = {
            "fallback": lambda request, error: None,
            "namespace": "t",
            "freshness": Freshness(60.0, jitter=0, early=0, stale_while_revalidate=30),
            "depth": 10,
        }
        generations = changes.pop("generations", Generations(lambda _: [], hint=lambda: 0))
        generations.refresh()
        levels = Levels([memory, *below], clock=clock)
        return Recommender(live, levels, generations, clock=clock, **{**given, **changes})

    return make


def test_what_nobody_waits_for_is_taken_out_of_the_queue(make, version, clock):
    recommender = make()
    one, another = (recommender.start(request(), clock()) for _ in range(2))
    ((_, _, work),) = version.submitted
    one.cancel()
    assert not work.cancelled(), "another one waits"
    another.cancel()
    assert work.cancelled()
    assert isinstance(one.flight.exception(0), CancelledError)
    assert len(recommender._computations) == 0
    assert recommender._computations._under_way == {}
    again = recommender.start(request(), clock())
    version.answer_all_new()
    assert again.result(clock()).source == "model"


def test_what_runs_already_is_finished_and_stored(make, version, clock):
    recommender = make()
    pending = recommender.start(request(), clock())
    ((_, _, work),) = version.submitted
    work.set_running_or_notify_cancel()
    pending.cancel()
    joined = recommender.start(request(), clock())
    assert joined.flight is pending.flight
    version.answer_all()
    assert recommender.recommend(request()).source == "l1"


def test_the_renewal_of_a_stale_answer_goes_on(make, version, clock):
    recommender = make()
    recommender.start(request(), clock())
    version.answer_all_new()
    clock.advance(70)
    stale = recommender.start(request(), clock())
    assert stale.waits_for is None
    stale.cancel()
    version.answer_all_new()
    assert recommender.recommend(request()).stale_for == 0


def test_whoever_leaves_while_another_process_computes_is_not_computed_for(make, version, clock):
    class Leases:
        def take(self, key, then, *, within):
            self.then = then

        def release(self, lease):
            self.released = lease

    leases = Leases()
    recommender = make(leases=leases)
    pending = recommender.start(request(), clock())
    pending.cancel()
    lease = KeyLease("k", b"token")
    leases.then(lease)
    assert (version.submitted, leases.released) == ([], lease)
    assert isinstance(pending.flight.exception(0), CancelledError)


def test_at_once_the_quick_levels_are_asked_and_the_rest_is_for_a_thread(make, version, clock):
    slow = SlowLevel()
    recommender = make(slow)
    rest = recommender.start_at_once(request(), clock())
    assert callable(rest)
    assert (slow.asked, version.submitted) == (0, [])
    pending = rest()
    assert slow.asked == 1
    version.answer_all_new()
    assert pending.result(clock()).source == "model"
    assert isinstance(recommender.start_at_once(request(), clock()), Pending)
    assert slow.asked == 1
    stats = recommender._levels.stats()["l1"]
    assert (stats.hits, stats.misses) == (1, 1), "no level is asked twice"


def test_at_once_a_feature_source_that_may_wait_is_not_asked(make, version, clock):
    recommender = make()
    assert callable(recommender.start_at_once(request(), clock()))
    given = recommender.start_at_once(request(features=[1, 2]), clock())
    assert isinstance(given, Pending)
    version.source_waits = False
    assert isinstance(recommender.start_at_once(request(user_id="v"), clock()), Pending)


@pytest.mark.parametrize("waits", [False, True])
def test_at_once_nothing_reads_the_database(make, version, clock, waits):
    version.source_waits = False
    hints, loads = [0], []

    def load(after):
        loads.append(after)
        return []

    recommender = make(generations=Generations(load, hint=lambda: hints[0], waits=waits))
    hints[0] += not waits
    loads.clear()
    rest = recommender.start_at_once(request(), clock())
    assert (callable(rest), loads) == (True, [])
    assert isinstance(rest(), Pending)
    assert callable(recommender.start_at_once(request(), clock())) is waits
    unknown = recommender.start_at_once(request(model_name="nobody's"), clock())
    assert isinstance(unknown(), ModelNotFound)


def test_at_once_no_fallback_is_asked(make, version, clock):
    asked = []

    def fallback(request, error):
        asked.append(error)
        return Recommendation(request.user_id, (), (), request.model_name, None, "fallback")

    version.refuses = Unavailable("down")
    recommender = make(fallback=fallback)
    pending = recommender.start(request(), clock())
    rest = recommender.finish_at_once(request(), pending, clock())
    assert (callable(rest), asked) == (True, [])
    assert rest().source == "fallback"
