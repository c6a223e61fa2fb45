"""Shadows: compared after the answer, dropped when busy, and never in anybody's way."""

import threading
from random import Random

import numpy as np
import pytest

from plugins import InferenceError, Priority, QueueFull
from serving_app.core import shadow as module
from serving_app.core.features import FeatureLayout
from serving_app.core.live_models import CANARY, PRODUCTION, SHADOW, LiveModels, Routes
from serving_app.core.ranking import Ranking
from serving_app.core.shadow import Shadows
from tests.servers import wait_for
from tests.serving_app.core.test_recommender import ITEMS, FakeVersion

pytestmark = pytest.mark.contract("S14")

ROW = (np.array([1.0, 2.0], np.float32),)


class Shadow(FakeVersion):
    """A version whose ranking begins with production's second item."""

    def __init__(self, names=("a", "b")):
        super().__init__(2, held=True)
        self.layout = FeatureLayout(names)
        self.priorities = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def submit(self, row, depth, *, priority):
        self.priorities.append(priority)
        self.may_answer.wait(10)
        future = super().submit(row, depth, seconds=10.0, priority=priority, key=None)
        if self.error:
            future.set_exception(self.error)
        else:
            items = (ITEMS[1], ITEMS[0], *ITEMS[2 : depth - 1], "x")
            future.set_result(Ranking(items, tuple(float(-n) for n in range(depth)), False))
        return future


@pytest.fixture
def production():
    return FakeVersion(1)


@pytest.fixture
def live(production):
    return LiveModels(lambda label: True)


@pytest.fixture
def shadows(live):
    shadows = Shadows(live, rng=Random(1))
    yield shadows
    shadows.close()


def route(live, production, shadow, share=10_000, **others):
    live.route("default", Routes({PRODUCTION: production, SHADOW: shadow, **others}, 0, share))


def offer(live, shadows, alias=""):
    lease = live.lease("default", "u", alias)
    shadows.offer(lease, ROW, 10, Ranking(ITEMS[:10], tuple(range(10)), False))
    lease.release()


def stats(shadows, pair=("default", 1, 2)):
    return shadows.stats()[pair]


def test_a_shadow_computes_the_same_row_at_the_lowest_priority_and_is_compared(
    live, shadows, production
):
    shadow = Shadow()
    route(live, production, shadow)
    offer(live, shadows)
    wait_for(lambda: shadows.stats() and stats(shadows).compared == 1)
    counted = stats(shadows)
    assert shadow.submitted[0][:2] == ([1.0, 2.0], 10)
    assert shadow.priorities == [Priority.WARM_UP]
    assert (counted.overlap, counted.same_first, counted.errors) == (0.9, 0, 0)
    assert 0.7 < counted.rank_biased_overlap < 0.9
    assert counted.seconds.count == 1


def test_features_are_put_in_the_shadows_order_or_it_is_not_compared(live, shadows, production):
    route(live, production, Shadow(("b", "a")))
    offer(live, shadows)
    wait_for(lambda: shadows.stats() and stats(shadows).compared == 1)
    assert live.routes()["default"].aliases[SHADOW].submitted[0][0] == [2.0, 1.0]
    route(live, production, Shadow(("a", "c")))
    offer(live, shadows)
    wait_for(lambda: stats(shadows).dropped == 1)


@pytest.mark.parametrize("how", ["error", "refuses"])
def test_what_a_shadow_fails_at_is_counted_and_nothing_else(live, shadows, production, how):
    shadow = Shadow()
    route(live, production, shadow)
    setattr(shadow, how, QueueFull("", retry_after=1) if how == "refuses" else InferenceError(""))
    offer(live, shadows)
    wait_for(lambda: shadows.stats() and stats(shadows).errors == 1)
    shadow.error = shadow.refuses = None
    offer(live, shadows)
    wait_for(lambda: stats(shadows).compared == 1)


def test_a_shadow_that_is_slow_makes_nobody_wait(live, shadows, production):
    shadow = Shadow()
    shadow.may_answer.clear()
    route(live, production, shadow)
    offer(live, shadows)
    wait_for(lambda: shadow.priorities)  # it has begun, and does not end
    for _ in range(module.MOST_WAITING + 5):
        offer(live, shadows)
    assert stats(shadows).dropped == 5
    shadow.may_answer.set()
    wait_for(lambda: stats(shadows).compared == module.MOST_WAITING + 1)


def test_a_share_is_sampled_and_only_production_is_compared(live, shadows, production):
    route(live, production, Shadow(), share=2500, **{CANARY: FakeVersion(3)})
    for _ in range(60):
        for _ in range(10):
            offer(live, shadows)
        offer(live, shadows, CANARY)
        wait_for(shadows._jobs.empty)
    wait_for(lambda: stats(shadows).compared + stats(shadows).dropped > 100)
    assert set(shadows.stats()) == {("default", 1, 2)}
    assert stats(shadows).compared + stats(shadows).dropped == pytest.approx(150, abs=40)


def test_without_a_shadow_there_is_no_thread(live, shadows, production):
    live.swap("default", production)
    offer(live, shadows)
    assert shadows._thread is None


def test_a_shadow_that_has_gone_is_not_waited_for_and_is_not_held(live, shadows, production):
    shadow = Shadow()
    route(live, production, shadow)
    offer(live, shadows)
    wait_for(lambda: shadows.stats() and stats(shadows).compared == 1)
    ((drained, gone),) = live.route("default", Routes({PRODUCTION: production}))
    assert gone is shadow
    assert drained.wait(10)


def test_closing_drops_what_waits(live, production):
    shadows, shadow = Shadows(live), Shadow()
    shadow.may_answer.clear()
    route(live, production, shadow)
    for _ in range(10):
        offer(live, shadows)
    wait_for(lambda: shadow.priorities)
    closing = threading.Thread(target=shadows.close)
    closing.start()
    wait_for(shadows._jobs.empty)
    shadow.may_answer.set()
    closing.join(10)
    assert not closing.is_alive()
    assert len(shadow.priorities) <= 2
