"""The short way finds what the main path would find, under the same key, or nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache_app.core.freshness import Freshness
from cache_app.core.generations import Generations, scope
from cache_app.core.levels import Levels
from cache_app.core.memory import MemoryLevel
from cache_app.core.steps import run
from plugins import InvalidInput, RecommendationRequest
from plugins.eviction.lru import LRU
from serving_app.core.features import NoLayout
from serving_app.core.hit_path import Hit, Wanted
from serving_app.core.live_models import LiveModels, Routes
from serving_app.core.recommender import Recommender
from serving_app.core.segment_table import SegmentPlan, SegmentTerms
from tests.cache_app.core.test_keys import CONTEXTS, USERS
from tests.fakes import FakeClock
from tests.serving_app.core.test_recommender import FakeVersion

FLOAT32_MAX = float(np.finfo(np.float32).max)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=32, allow_nan=False)


class World:
    """A recommender, its short way, and what both are made of."""

    def __init__(self, **changes):
        self.clock = FakeClock()
        self.version = FakeVersion()
        self.live = LiveModels(lambda name: False)
        self.live.swap("default", self.version)
        self.invalidated, self.asked, self.may_wait = [], [], False
        self.plans = {}
        self.level = MemoryLevel(LRU, capacity=1000, clock=self.clock)
        self.generations = Generations(
            lambda after: [each for each in self.invalidated if each[0] > after],
            hint=lambda: len(self.invalidated),
            **changes,
        )
        self.recommender = Recommender(
            self.live,
            Levels([self.level], clock=self.clock),
            self.generations,
            fallback=lambda request, error: None,
            namespace="t",
            freshness=Freshness(60.0, jitter=0, early=0, stale_while_revalidate=30.0),
            depth=10,
            plan_of=self.plans.get,
            clock=self.clock,
        )
        self.hits = self.recommender.hit_path(lambda *asked: self.asked.append(asked))

    def hit(self, asked):
        """Return what is at hand, or None."""
        found = self.hits.find(asked)
        return found if isinstance(found, Hit) else None


def wanted(user="u", features=(1.0, 2.0), context=None, k=3, exclude=(), model="default", alias=""):
    return Wanted(model, alias, user, context or {}, features, k, exclude)


def request(of):
    return RecommendationRequest(
        user_id=of.user_id,
        model_name=of.model_name,
        alias=of.alias,
        context=of.context,
        features=of.features,
        k=of.k,
        exclude=frozenset(of.exclude),
    )


WORLD = World()
LAYOUT = WORLD.version.layout


@given(
    USERS, CONTEXTS, st.none() | st.lists(NUMBERS, min_size=1, max_size=3) | st.just([0.0, -0.0])
)
@example("u", {}, [FLOAT32_MAX, 1.0])
@example("u", {}, [FLOAT32_MAX * (1 + 2**-26), 1.0])  # rounds to a float32, and is out of range
@example("u", {}, [0.0, 3.402823364973241e38])  # is in range, and rounds to the largest
@example("u", {}, [1e39, -1e39])
@example("u", {}, [0.0, math.inf])
@example("u", {"tags": ["a"]}, None)
@example("u", {"tags": "a"}, None)
def test_its_key_is_the_main_paths_or_none(user, context, features):
    asked = wanted(user, features, context)
    found = WORLD.hits.find(asked)
    try:
        expected = WORLD.recommender.key(request(asked))
    except InvalidInput:
        assert found is None
        return
    if found is None:
        assert np.abs(np.float32(features)).max() >= FLOAT32_MAX
        return
    assert found.key == expected
    (row,) = WORLD.version.layout.row(features) if features is not None else (None,)
    looked = run(WORLD.hits.looking(asked, found))
    assert (looked.key, looked.segment, looked.version) == (expected, "all", WORLD.version)
    if features is None:
        assert looked.row is None
    else:
        assert looked.row[0].dtype == row.dtype == np.float32
        assert looked.row[0].tobytes() == row.tobytes(), "the model gets what it would get"


def test_what_was_looked_for_is_computed_without_making_the_key_once_more():
    world = World()
    asked = wanted()
    world.generations.refresh()
    looked = run(world.hits.looking(asked, world.hits.find(asked)))
    world.version.layout = None  # whoever makes the row anew fails
    pending = world.recommender.start_at_once(request(asked), world.clock(), looked)
    answer = world.recommender.finish(request(asked), pending, world.clock())
    world.version.layout = LAYOUT
    assert answer == replace(world.recommender.recommend(request(asked)), source="model")
    assert world.hit(asked).items == answer.items


@pytest.mark.parametrize("why", ["another version", "another segment"])
def test_what_was_looked_for_under_another_key_is_looked_for_anew(why):
    world = World()
    asked = wanted()
    world.generations.refresh()
    looked = run(world.hits.looking(asked, world.hits.find(asked)))
    if why == "another version":
        world.live.swap("default", FakeVersion(2))
    else:
        world.plans["u"] = SegmentPlan(SegmentTerms("power"))
    there = world.recommender.recommend(request(asked))
    pending = world.recommender.start_at_once(request(asked), world.clock(), looked)
    answer = world.recommender.finish(request(asked), pending, world.clock())
    assert answer == replace(there, source="l1"), "what is stored there is found"


def test_features_by_name_are_in_the_models_order():
    world = World()
    world.recommender.recommend(request(wanted(features=[1, 2])))
    assert world.hit(wanted(features={"b": 2.0, "a": 1.0})) is not None
    for other in (
        {"a": 2.0, "b": 1.0},
        {"a": 1.0},
        {"a": 1.0, "b": 2.0, "c": 3.0},
        {"a": 1.0, "c": 2.0},
    ):
        assert world.hit(wanted(features=other)) is None


def test_only_what_is_used_is_counted():
    world, other = World(), World()
    for each in (world, other):
        each.recommender.recommend(request(wanted()))
    for _ in range(300):
        assert world.hit(wanted(user="nobody")) is None
        hit = world.hit(wanted())
    assert world.level.stats() == other.level.stats()
    assert world.recommender.stats() == other.recommender.stats()
    for _ in range(300):
        world.hits.used(hit, wanted(), 0.0)
        answer = other.recommender.recommend(request(wanted()))
    assert (hit.items, hit.scores, hit.level) == (answer.items, answer.scores, answer.source)
    assert world.level.stats() == other.level.stats()
    assert world.level.stats().hits == 300
    counted = world.recommender.stats()["default"]
    assert counted == other.recommender.stats()["default"]
    assert counted.lookups == {"all": {"miss": 1, "l1": 300}}
    assert world.asked == [("default", "", "u", {}, True, True)] * 300


@pytest.mark.contract("C10")
def test_a_users_segment_is_in_its_key_and_may_choose_who_answers():
    world = World()
    world.recommender.recommend(request(wanted()))
    world.plans["u"] = SegmentPlan(SegmentTerms("power"))
    assert world.hit(wanted()) is None, "that answer was everyone's"
    world.recommender.recommend(request(wanted()))
    hit = world.hit(wanted())
    assert (hit.segment, hit.model_version) == ("power", 1)
    world.hits.used(hit, wanted(), 0.0)
    assert world.recommender.stats()["default"].lookups["power"] == {"miss": 1, "l1": 1}
    other = FakeVersion(2)
    world.live.route("default", Routes({"production": world.version, "rich": other}))
    world.plans["u"].terms = SegmentTerms("power", alias="rich")
    world.recommender.recommend(request(wanted()))
    assert world.hit(wanted()).model_version == 2
    world.plans["u"].terms = SegmentTerms("power", alias="none such")
    assert world.hit(wanted()).model_version == 1


def test_what_was_invalidated_is_found_no_more():
    world = World()
    world.recommender.recommend(request(wanted()))
    assert world.hit(wanted()) is not None
    world.invalidated.append((1, scope(user_id="u")))
    assert world.hit(wanted()) is None, "the news must be read first, which may wait"
    world.generations.refresh()
    assert world.hit(wanted()) is None
    world.recommender.recommend(request(wanted()))
    assert world.hit(wanted()) is not None


@pytest.mark.parametrize(
    "why",
    ["stale", "expired", "too few", "all excluded", "another alias", "gone", "asks a database"],
)
def test_whatever_is_no_plain_hit_is_left_to_the_main_path(why):
    world = World(waits=why == "asks a database")
    world.recommender.recommend(request(wanted()))
    asked = wanted()
    if why == "stale":
        world.clock.now += 61
    elif why == "expired":
        world.clock.now += 100_000
    elif why == "too few":
        asked = wanted(k=11)
    elif why == "all excluded":
        asked = wanted(k=3, exclude=frozenset(f"i{n}" for n in range(8)))
    elif why == "another alias":
        asked = wanted(alias="canary")
    elif why == "gone":
        world.live.swap("default", None)
    before = world.level.stats()
    assert world.hit(asked) is None
    assert world.level.stats() == before


def test_a_version_of_another_layout_is_left_to_the_main_path():
    world = World()
    other = FakeVersion(2)
    other.layout = NoLayout("default@2")
    world.live.route("default", Routes({"production": other}))
    assert world.hit(wanted()) is None


def test_exclusions_and_k_cut_as_the_main_path_does():
    world = World()
    world.recommender.recommend(request(wanted(k=10)))
    for each in (wanted(k=2), wanted(k=2, exclude=frozenset({"i0", "i2"})), wanted(k=7)):
        answer = world.recommender.recommend(request(each))
        hit = world.hit(each)
        assert (hit.items, hit.scores) == (answer.items, answer.scores)


def test_a_version_that_is_gone_is_forgotten():
    world = World()
    world.hits.find(wanted())
    world.live.swap("default", FakeVersion(2))
    world.hits.find(wanted())
    world.version = None
    import gc

    gc.collect()
    assert [each.record.version for each in world.hits._known] == [2]
