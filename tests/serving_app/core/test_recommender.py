"""The main path, with a real cache and fake models."""

import dataclasses
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from cache_app.core.freshness import Freshness
from cache_app.core.generations import EVERYTHING, Generations, scope
from cache_app.core.levels import Levels
from cache_app.core.memory import MemoryLevel
from cache_app.core.negative import NegativeEntries, NegativeStats
from plugins import (
    DeadlineExceeded,
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    Priority,
    QueueFull,
    Recommendation,
    RecommendationRequest,
)
from plugins.eviction.lru import LRU
from serving_app.core.features import FeatureLayout
from serving_app.core.live_models import LiveModels
from serving_app.core.ranking import Catalogue, Ranking
from serving_app.core.recommender import Recommender
from serving_app.core.renewals import FailedRenewals
from serving_app.core.version_record import VersionRecord
from tests.fakes import FakeClock

ITEMS = tuple(f"i{n}" for n in range(300))


class FakeVersion:
    """A version whose answers come when the test says so."""

    def __init__(self, number=1, *, held=False):
        self.record = VersionRecord(
            "default", number, "m.npz", "0" * 64, "fake", "c.csv", "0" * 64, ("a", "b")
        )
        self.fingerprint = "f00d"
        self.source_waits = True
        self.layout = FeatureLayout(("a", "b"))
        self.catalogue = Catalogue(ITEMS, ITEMS)
        self.submitted = []
        self.asked = []
        self.raised = []
        self.held = held
        self.error = None
        self.refuses = None

    def features_of(self, user_id, context):
        if user_id == "stranger":
            raise InvalidInput("unknown", field="user_id")
        return (np.zeros(2, np.float32),)

    def submit(self, row, depth, *, seconds, priority, key):
        self.asked.append((round(seconds, 3), priority))
        if self.refuses:
            raise self.refuses
        future = Future()
        self.submitted.append((row[0].tolist(), depth, future))
        if not self.held:
            self.answer(future, depth)
        return future

    def raise_priority(self, future, priority, *, seconds):
        self.raised.append((priority, round(seconds, 3)))

    def answer(self, future, depth):
        if self.error:
            future.set_exception(self.error)
            return
        n = min(depth, len(ITEMS))
        scores = tuple(float(-i) for i in range(n))
        future.set_result(Ranking(ITEMS[:n], scores, n == len(ITEMS)))

    def answer_all_new(self):
        for _, depth, future in self.submitted:
            if not future.done():
                self.answer(future, depth)

    def answer_all(self):
        for _, depth, future in self.submitted:
            self.answer(future, depth)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def version():
    return FakeVersion()


@pytest.fixture
def live(version):
    models = LiveModels(lambda name: name == "sleeping")
    models.swap("default", version)
    return models


@pytest.fixture
def invalidations():
    return []


@pytest.fixture
def generations(invalidations):
    return Generations(
        lambda after: [each for each in invalidations if each[0] > after],
        hint=lambda: len(invalidations),
    )


@pytest.fixture
def make(live, clock, generations):
    def make(**changes):
        levels = Levels([MemoryLevel(LRU, capacity=100, clock=clock)], clock=clock)
        given = {
            "fallback": lambda request, error: None,
            "namespace": "t",
            "freshness": Freshness(60.0, jitter=0, early=0, stale_while_revalidate=0),
            "depth": 10,
        }
        return Recommender(live, levels, generations, **{**given, **changes})

    return make


def request(**changes):
    return RecommendationRequest(**{"user_id": "u", "k": 3, **changes})


def test_a_miss_is_computed_and_a_hit_is_not(make, version, clock):
    recommender = make()
    first = recommender.recommend(request())
    assert (first.items, first.source, first.cached) == (("i0", "i1", "i2"), "model", False)
    second = recommender.recommend(request())
    assert (second.items, second.scores) == (first.items, first.scores)
    assert (second.source, second.cached) == ("l1", True)
    clock.advance(61)
    assert recommender.recommend(request()).cached is False
    assert len(version.submitted) == 2


@pytest.mark.contract("C11")
def test_a_stale_answer_is_given_at_once_while_one_computation_renews_it(make, version, clock):
    recommender = make(freshness=Freshness(60.0, jitter=0, early=0, stale_while_revalidate=30))
    first = recommender.recommend(request())
    version.held = True
    clock.advance(65)
    for _ in range(3):
        stale = recommender.recommend(request())
        assert (stale.items, stale.source, stale.degraded) == (first.items, "l1", False)
        assert stale.stale_for == pytest.approx(5)
    assert len(version.submitted) == 2
    version.answer(version.submitted[1][2], 10)
    fresh = recommender.recommend(request())
    assert (fresh.source, fresh.stale_for) == ("l1", 0)
    assert recommender.stats()["default"].stale == 3


@pytest.mark.contract("C12")
def test_a_stale_answer_stands_in_for_a_model_that_fails_but_not_for_ever(make, version, clock):
    freshness = Freshness(60.0, jitter=0, early=0, stale_while_revalidate=0, stale_if_error=600)
    recommender = make(freshness=freshness)
    first = recommender.recommend(request())
    version.error = InferenceError("broken")
    clock.advance(100)
    stale = recommender.recommend(request())
    assert (stale.items, stale.source, stale.degraded) == (first.items, "l1", True)
    version.held, version.error = True, None
    late = recommender.recommend(request(timeout=0.01))
    assert (late.source, late.degraded) == ("l1", True)
    version.error = InferenceError("broken")
    version.answer(version.submitted[-1][2], 10)
    version.held = False
    version.refuses = QueueFull("full", retry_after=1.0)
    assert recommender.recommend(request()).degraded is True
    assert recommender.stats()["default"].degraded == 3
    clock.advance(600)
    with pytest.raises(QueueFull):
        recommender.recommend(request())


@pytest.mark.contract("C12")
def test_a_stale_answer_says_that_its_last_renewal_failed(make, version, clock):
    recommender = make(freshness=Freshness(60.0, jitter=0, early=0, stale_while_revalidate=30))
    recommender.recommend(request())
    clock.advance(65)
    version.held = True
    assert recommender.recommend(request()).degraded is False
    version.error = InferenceError("broken")
    version.answer(version.submitted[-1][2], 10)
    version.error = None
    assert recommender.recommend(request()).degraded is True  # and is renewed once more
    version.answer(version.submitted[-1][2], 10)
    assert recommender.recommend(request()).stale_for == 0
    clock.advance(65)
    assert recommender.recommend(request()).degraded is False
    version.answer_all_new()


def test_failed_renewals_are_remembered_of_the_latest_keys_only():
    failed, renewed = Future(), Future()
    failed.set_exception(InferenceError("broken"))
    renewed.set_result(None)
    renewals = FailedRenewals()
    for n in range(1001):
        renewals.note(str(n), 5.0, failed)
    assert not renewals.includes("0", 5.0)
    assert renewals.includes("1", 5.0)
    assert not renewals.includes("1", 6.0)  # another process has renewed it
    renewals.note("1", 5.0, renewed)
    assert not renewals.includes("1", 5.0)


def test_a_stale_answer_hides_no_bad_request(make, version, clock):
    recommender = make()
    recommender.recommend(request())
    clock.advance(100)
    with pytest.raises(InvalidInput):
        recommender.recommend(request(features=[1]))


@pytest.mark.contract("C4")
def test_an_entry_too_shallow_for_a_request_is_computed_deeper_and_replaced(make, version):
    recommender = make()
    recommender.recommend(request(k=10))
    exclude = frozenset(ITEMS[:8])
    deep = recommender.recommend(request(k=5, exclude=exclude))
    assert (deep.items, deep.cached) == (ITEMS[8:13], False)
    assert recommender.recommend(request(k=12)).cached is True
    assert [depth for _, depth, _ in version.submitted] == [10, 20]
    everything = recommender.recommend(request(k=1000))
    assert everything.items == ITEMS
    assert recommender.recommend(request(k=999)).cached is True


@pytest.mark.contract("C11")
def test_one_computation_serves_all_that_ask_while_it_runs(make, version, live):
    version.held = True
    recommender = make()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(recommender.recommend, request(k=k)) for k in range(1, 9)]
        wait_for(lambda: len(version.submitted) == 1)
        version.answer_all()
        answers = [each.result(10) for each in asked]
    assert [len(answer.items) for answer in answers] == list(range(1, 9))
    assert len(version.submitted) == 1


def wait_for(condition, timeout=10.0):
    waiting = threading.Event()
    for _ in range(int(timeout / 0.002)):
        if condition():
            return
        waiting.wait(0.002)
    raise AssertionError("the condition did not come true")


@pytest.mark.contract("C11")
def test_all_that_wait_get_the_leaders_error_and_the_next_request_tries_again(make, version):
    version.held = True
    recommender = make()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(recommender.recommend, request()) for _ in range(4)]
        wait_for(lambda: len(version.submitted) == 1)
        version.error = InferenceError("broken")
        version.answer_all()
        for each in asked:
            with pytest.raises(InferenceError, match="broken"):
                each.result(10)
    version.held, version.error = False, None
    assert recommender.recommend(request()).source == "model"


@pytest.mark.contract("S5")
def test_a_deadline_ends_the_wait_but_not_the_computation(make, version):
    version.held = True
    recommender = make()
    with pytest.raises(DeadlineExceeded):
        recommender.recommend(request(timeout=0.01))
    version.answer_all()
    assert recommender.recommend(request()).cached is True


@pytest.mark.contract("C12")
def test_a_fallback_answers_what_is_our_fault_and_never_the_callers(make, version):
    popular = Recommendation("u", ("p",), (0.0,), "default", None, "fallback")
    seen = []

    def fallback(request, error):
        seen.append(type(error))
        return popular

    recommender = make(fallback=fallback)
    version.error = InferenceError("broken")
    expected = dataclasses.replace(popular, degraded=True)
    assert recommender.recommend(request()) == expected
    assert recommender.recommend(request(model_name="sleeping")) == expected
    assert seen == [InferenceError, ModelNotReady]
    for bad in ({"features": [1]}, {"user_id": "stranger"}):
        with pytest.raises(InvalidInput):
            recommender.recommend(request(**bad))
    with pytest.raises(ModelNotFound):
        recommender.recommend(request(model_name="nowhere"))
    assert len(seen) == 2


def test_many_are_answered_in_order_each_with_its_own_outcome(make, version):
    outcomes = make().recommend_many(
        [request(), request(features=[1]), request(user_id="v"), request(model_name="nowhere")]
    )
    assert [type(o) for o in outcomes] == [
        Recommendation,
        InvalidInput,
        Recommendation,
        ModelNotFound,
    ]


@pytest.mark.contract("C11")
def test_a_flood_for_an_unknown_user_asks_the_feature_source_once(
    make, version, clock, invalidations
):
    asked = []
    features_of = version.features_of
    version.features_of = lambda user, context: asked.append(user) or features_of(user, context)

    def refused(recommender):
        with pytest.raises(InvalidInput, match="unknown") as caught:
            recommender.recommend(request(user_id="stranger"))
        return caught.value.source

    recommender = make(negative=NegativeEntries(10.0, clock=clock))
    assert [refused(recommender) for _ in range(4)] == ["", *["negative"] * 3]
    assert asked == ["stranger"]
    assert recommender.negative_stats() == NegativeStats(entries=1, hits=3, insertions=1)
    assert recommender.stats()["default"].errors == {"InvalidInput": 4}
    invalidations.append((7, scope(user_id="stranger")))
    assert refused(recommender) == ""
    assert refused(recommender) == "negative"
    clock.advance(10)
    assert refused(recommender) == ""
    assert [refused(make()) for _ in range(2)] == ["", ""]  # not asked for


@pytest.mark.contract("C11")
def test_what_is_our_fault_is_never_a_negative_entry(make, version):
    recommender = make(negative=NegativeEntries(10.0))
    version.error = InferenceError("broken")
    with pytest.raises(InferenceError):
        recommender.recommend(request())
    version.error = None
    assert recommender.recommend(request()).source == "model"
    version.error = InvalidInput("no such colour", field="context.colour")
    for source in ("", "negative"):
        with pytest.raises(InvalidInput, match="colour") as caught:
            recommender.recommend(request(context={"colour": "none"}))
        assert caught.value.source == source
    assert len(version.submitted) == 3


@pytest.mark.contract("S9")
def test_an_answer_under_way_keeps_its_version_open_until_it_lands(make, version, live):
    version.held = True
    recommender = make()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(recommender.recommend, request())
        wait_for(lambda: len(version.submitted) == 1)
        drained = live.swap("default", FakeVersion(2))
        assert not drained.is_set()
        assert recommender.recommend(request()).model_version == 2
        version.answer_all()
        assert asked.result(10).model_version == 1
    assert drained.wait(10)


def test_every_lease_comes_back_whatever_happens(make, version, live):
    recommender = make()
    recommender.recommend(request())
    recommender.recommend(request())
    for bad in ({"features": [1]}, {"user_id": "stranger"}):
        with pytest.raises(InvalidInput):
            recommender.recommend(request(**bad))
    version.error = InferenceError("broken")
    with pytest.raises(InferenceError):
        recommender.recommend(request(user_id="w"))
    assert live.swap("default", None).is_set()


@pytest.mark.contract("S10")
def test_stats_count_sources_and_errors(make, version):
    recommender = make()
    recommender.recommend(request())
    recommender.recommend(request())
    with pytest.raises(InvalidInput):
        recommender.recommend(request(features=[1]))
    stats = recommender.stats()["default"]
    assert (stats.requests, stats.by_source) == (3, {"model": 1, "l1": 1})
    assert stats.errors == {"InvalidInput": 1}
    assert stats.seconds.count == 3


@pytest.mark.contract("C7")
def test_look_ups_are_counted_by_how_they_ended_and_only_where_there_was_one(
    make, version, live, clock
):
    recommender = make(
        negative=NegativeEntries(10.0, clock=clock),
        fallback=lambda request, error: Recommendation("u", (), (), "default", None, "fallback"),
    )

    def lookups():
        return recommender.stats()["default"].lookups.get("all", {})

    with pytest.raises(InvalidInput):
        recommender.recommend(request(features=[1]))  # refused before
    recommender.recommend_many([request(), request(), request(user_id="v")])
    assert lookups() == {"miss": 2, "l1": 1}
    recommender.recommend(request())
    assert lookups() == {"miss": 2, "l1": 2}
    for _ in range(3):
        with pytest.raises(InvalidInput):
            recommender.recommend(request(user_id="stranger"))
    assert lookups() == {"miss": 3, "l1": 2, "negative": 2}
    version.error = InferenceError("broken")
    assert recommender.recommend(request(user_id="w")).source == "fallback"
    version.refuses = QueueFull("full", retry_after=1.0)
    assert recommender.recommend(request(user_id="x")).source == "fallback"
    assert lookups() == {"miss": 5, "l1": 2, "negative": 2}
    clock.advance(100)
    assert recommender.recommend(request()).degraded is True  # stale, and answers
    assert lookups() == {"miss": 5, "l1": 3, "negative": 2}
    live.swap("default", None)
    live.swap("sleeping", None)
    assert recommender.recommend(request(model_name="sleeping")).source == "fallback"
    assert recommender.stats()["sleeping"].lookups == {}


@pytest.mark.contract("C8")
@pytest.mark.parametrize(
    ("what", "forgotten"),
    [
        (EVERYTHING, True),
        (scope(user_id="u"), True),
        (scope(user_id="v"), False),
        (scope(model_name="default"), True),
        (scope(model_name="other"), False),
        (scope(model_name="default", version=1), True),
        (scope(model_name="default", version=2), False),
        (scope(model_name="default", user_id="u"), True),
        (scope(model_name="default", user_id="v"), False),
    ],
)
def test_an_invalidation_forgets_what_it_names(make, invalidations, what, forgotten):
    recommender = make()
    recommender.recommend(request())
    invalidations.append((7, what))
    assert recommender.recommend(request()).cached is not forgotten
    assert recommender.recommend(request()).cached is True


@pytest.mark.contract("C8")
def test_what_was_being_computed_during_an_invalidation_is_not_served_after_it(
    make, version, invalidations
):
    version.held = True
    recommender = make()
    with ThreadPoolExecutor(2) as pool:
        before = pool.submit(recommender.recommend, request())
        wait_for(lambda: len(version.submitted) == 1)
        invalidations.append((7, EVERYTHING))
        after = pool.submit(recommender.recommend, request())
        wait_for(lambda: len(version.submitted) == 2)
        version.answer(version.submitted[0][2], 10)
        assert before.result(10).source == "model"
        assert not after.done()
        version.answer(version.submitted[1][2], 10)
        assert after.result(10).source == "model"


@pytest.mark.contract("S5")
def test_a_computation_is_as_urgent_as_the_most_urgent_who_waits_for_it(make, version, clock):
    version.held = True
    recommender = make(clock=clock)
    warm = request(priority=Priority.WARM_UP, timeout=2.0)
    recommender.start(warm, clock())
    recommender.start(request(timeout=1.0), clock())
    recommender.start(request(timeout=0.5), clock())
    recommender.start(request(timeout=5.0), clock())
    assert version.asked == [(2.0, Priority.WARM_UP)]
    assert version.raised == [(Priority.LIVE, 2.0), (Priority.LIVE, 5.0)]
    version.answer_all()
    assert recommender._computations._under_way == {}


@pytest.mark.contract("S5")
def test_a_renewal_waits_for_live_requests_and_has_the_models_time(make, version, clock):
    freshness = Freshness(60.0, jitter=0, early=0, stale_while_revalidate=30)
    recommender = make(clock=clock, freshness=freshness)
    recommender.recommend(request(timeout=1.0))
    clock.advance(61)
    assert recommender.recommend(request(timeout=1.0)).stale_for
    assert version.asked == [(1.0, Priority.LIVE), (10.0, Priority.REFRESH)]
