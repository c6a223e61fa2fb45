"""What is computed before anyone asks: the same entry, not counted, first to leave."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_app.core.freshness import Freshness
from cache_app.core.generations import Generations
from cache_app.core.lease_waits import KeyLease
from cache_app.core.levels import Levels
from cache_app.core.memory import MemoryLevel
from cache_app.core.negative import NegativeEntries
from plugins import InvalidInput, ModelNotFound, Priority, QueueFull
from plugins.eviction.lru import LRU
from serving_app.core.live_models import LiveModels
from serving_app.core.recommender import Recommender
from tests.fakes import FakeClock, FakeLevel
from tests.serving_app.core.test_recommender import FakeVersion, request

pytestmark = pytest.mark.contract("W4")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def version():
    return FakeVersion()


@pytest.fixture
def below(clock):
    return FakeLevel()


@pytest.fixture
def make(version, clock, below):
    def make(*, capacity=100, **changes):
        live = LiveModels(lambda name: False)
        live.swap("default", version)
        given = {
            "fallback": lambda request, error: pytest.fail("a warm-up has no fallback"),
            "namespace": "t",
            "freshness": Freshness(60.0, jitter=0, early=0, stale_while_revalidate=30),
            "depth": 10,
            "rng": Random(1),
        }
        levels = Levels([MemoryLevel(LRU, capacity=capacity, clock=clock), below], clock=clock)
        generations = Generations(lambda _: [], hint=lambda: 0)
        generations.refresh()
        return Recommender(live, levels, generations, clock=clock, **{**given, **changes})

    return make


def test_what_was_warmed_is_what_the_request_finds(make, version, below):
    asked = []
    recommender = make(asked=lambda *each: asked.append(each))
    question = request(context={"page": "home", "slot": 1})
    warming = recommender.warm(question)
    assert warming.known is None
    assert warming.flight.result(0).items[:3] == ("i0", "i1", "i2")
    assert version.asked == [(10.0, Priority.WARM_UP)]
    assert list(below.table) == [recommender.key(question)]
    assert set(below.origins.values()) == {"warmup"}
    assert (recommender.stats(), asked) == ({}, []), "it is no request"
    answer = recommender.recommend(request(context={"slot": 1, "page": "home"}))
    assert (answer.source, answer.items) == ("l1", ("i0", "i1", "i2"))
    assert len(version.submitted) == 1


CONTEXTS = st.dictionaries(
    st.text(max_size=5),
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5), st.floats(0, 1)),
    max_size=3,
)


@given(context=CONTEXTS, user=st.one_of(st.integers(0, 99), st.text(min_size=1, max_size=5)))
def test_whatever_the_question_the_key_is_the_requests(context, user):
    version, clock = FakeVersion(), FakeClock()
    live = LiveModels(lambda name: False)
    live.swap("default", version)
    below = FakeLevel()
    recommender = Recommender(
        live,
        Levels([below], clock=clock),
        Generations(lambda _: [], hint=lambda: 0),
        fallback=lambda request, error: None,
        namespace="t",
        freshness=Freshness(60.0),
        depth=10,
        clock=clock,
    )
    recommender.warm(request(user_id=user, context=context)).flight.result(0)
    answer = recommender.recommend(request(user_id=user, context=dict(reversed(context.items()))))
    assert answer.cached
    assert len(below.table) == 1


@pytest.mark.contract("W2")
def test_what_is_fresh_is_not_computed_unless_it_is_to_be_renewed(make, version, clock):
    recommender = make()
    recommender.warm(request())
    clock.advance(50)
    again = recommender.warm(request())
    assert again.flight is None
    assert again.known.fresh_for == pytest.approx(10, abs=1)
    assert recommender.warm(request(), renew_before=5).flight is None
    assert recommender.warm(request(), renew_before=20).flight is not None
    assert len(version.submitted) == 2
    assert recommender.known(request()).fresh_for == pytest.approx(60, abs=1)


def test_a_stale_answer_is_computed_anew(make, version, clock):
    recommender = make()
    recommender.recommend(request())
    clock.advance(65)
    warming = recommender.warm(request())
    assert warming.flight is not None
    assert warming.known.fresh_for < 0
    assert recommender.recommend(request()).stale_for == 0


def test_looking_is_no_use_of_an_entry(make, clock):
    recommender = make()
    recommender.warm(request())
    recommender.warm(request())
    recommender.known(request())
    (memory, _) = recommender._levels._levels
    assert memory.peek(recommender.key(request())).uses == 0
    assert memory.stats().hits == 0


def test_what_nobody_asked_for_leaves_first(make):
    recommender = make(capacity=3)
    recommender.recommend(request(user_id="asked"))
    recommender.warm(request(user_id="warmed"))
    recommender.recommend(request(user_id="warmed"))
    recommender.warm(request(user_id="unused"))
    recommender.recommend(request(user_id="newcomer"))
    (memory, _) = recommender._levels._levels
    held = {
        u
        for u in ("asked", "warmed", "unused", "newcomer")
        if memory.peek(recommender.key(request(user_id=u)))
    }
    assert held == {"asked", "warmed", "newcomer"}


def test_who_joins_a_warm_up_makes_it_a_request(make, version, clock, below):
    version.held = True
    recommender = make()
    recommender.warm(request())
    pending = recommender.start(request(), clock())
    assert version.raised == [(Priority.LIVE, 10.0)]
    version.answer_all()
    assert pending.result(clock()).source == "model"
    assert set(below.origins.values()) == {"miss"}


def test_a_warm_up_that_is_left_is_not_computed(make, version):
    version.held = True
    recommender = make()
    warming = recommender.warm(request())
    warming.leave()
    ((_, _, work),) = version.submitted
    assert work.cancelled()


def test_what_is_wrong_is_raised_and_no_fallback_stands_in(make, version):
    recommender = make(negative=NegativeEntries(60.0))
    for _ in range(2):  # the second time out of memory
        with pytest.raises(InvalidInput):
            recommender.warm(request(user_id="stranger"))
    with pytest.raises(ModelNotFound):
        recommender.warm(request(model_name="none"))
    version.refuses = QueueFull("full", retry_after=1.0)
    with pytest.raises(QueueFull):
        recommender.warm(request())
    assert recommender.stats() == {}


class StoredElsewhere:
    """Key leases of a level where every key is stored already."""

    def take(self, key, begin, *, within):
        begin(KeyLease(key, "token", stored=True))

    def release(self, lease):
        pass


def test_a_renewal_does_not_take_the_value_it_replaces_for_its_own(make, version, clock):
    make().warm(request())
    recommender = make(leases=StoredElsewhere())  # shares L2
    clock.advance(50)
    recommender.warm(request(), renew_before=20).flight.result(0)
    assert len(version.submitted) == 2
    assert recommender.known(request()).fresh_for == pytest.approx(60, abs=1)
