"""What strategies see: all of it, in order, page by page; and what they ask is what was asked."""

from datetime import UTC

import pytest
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins import Asking, RecommendationRequest, question_of
from plugins.warmup.popular import Popular
from serving_app import warmup_activity, wiring
from serving_app.activity import add_counts, record_events
from serving_app.activity_models import ActivityCount
from serving_app.core.activity import Asked, Counted, NewEvent, context_text
from serving_app.warmup_activity import ModelActivity
from tests.serving_app.core.test_activity import contexts as all_contexts

pytestmark = [pytest.mark.contract("W1"), pytest.mark.django_db]

HOUR = 3600
NOW = 500_000 * HOUR + 1800.0


def view(model="m", alias="", **more):
    nothing = {"freshness": lambda request: None, "rest": lambda seconds: None}
    given = {"now": NOW, "zone": UTC, **nothing, **more}
    return ModelActivity(model, alias, **given)


def asked(user="u", hour=-1, **more):
    given = {"kind": "request", "model": "m", "alias": "", "context": "{}", "own_features": False}
    return Asked(hour=(500_000 + hour) * HOUR, user=user, **{**given, **more})


def rows(*given):
    add_counts({each: Counted(1, each.hour + 5.0) for each in given})


def users(askings):
    return [each.user_id for each in askings]


def test_a_strategy_sees_one_model_and_alias_and_no_features_of_others():
    rows(
        asked("here"),
        asked("elsewhere", model="other"),
        asked("by alias", alias="canary"),
        asked("by features", own_features=True),
    )
    record_events([NewEvent("buys", "i", "purchase", "m", NOW - 60)])
    assert users(view().askings(0, NOW)) == ["here", "buys"]
    assert users(view(alias="canary").askings(0, NOW)) == ["by alias"]
    assert users(view("nothing").askings(0, NOW)) == []


def test_an_asking_is_what_was_asked():
    text = context_text({"page": "home", "n": [1, 1.5, None]})
    add_counts({asked(7, context=text): Counted(3, NOW - 1000.0)})
    (asking,) = view().askings(0, NOW)
    assert asking == Asking(
        *(7, "m", "", {"page": "home", "n": [1, 1.5, None]}),
        hour=499_999 * HOUR,
        count=3,
        last=NOW - 1000.0,
    )
    assert type(asking.user_id) is int


def test_nothing_was_asked_after_now():
    add_counts({asked(hour=0): Counted(1, NOW + 60)})
    assert [each.last for each in view().askings(0, NOW)] == [NOW]


def test_hours_that_begin_within_the_time_are_read():
    rows(*(asked(f"{hour}", hour) for hour in (-3, -2, -1, 0)))
    began = view().now // HOUR * HOUR
    assert users(view().askings(began - 2 * HOUR, began)) == ["-2", "-1"]
    assert users(view().askings(began - 2 * HOUR + 1, began + 1)) == ["-1", "0"]


@pytest.mark.parametrize("page", [1, 2, 3, 7, 50])
def test_pages_join_without_gap_and_without_repetition(monkeypatch, page):
    monkeypatch.setattr(warmup_activity, "_PAGE", page)
    counts = {
        asked(f"{i}", hour=-1 - i % 3): Counted(1 + i, (500_000 - 1 - i % 3) * HOUR + i // 9)
        for i in range(20)
    }
    add_counts(counts)
    read = list(view().askings(0, NOW))
    assert [(each.hour, each.last) for each in read] == sorted(
        (each.hour, counted.last) for each, counted in counts.items()
    )
    assert {each.user_id for each in read} == {f"{i}" for i in range(20)}


def test_a_page_is_read_when_it_is_needed(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(warmup_activity, "_PAGE", 5)
    rows(*(asked(f"{i}") for i in range(12)))
    with django_assert_num_queries(1):
        reading = view().askings(0, NOW)
        for _ in range(5):
            next(reading)
    with django_assert_num_queries(2):
        assert len(list(reading)) == 7


def test_it_pauses_between_pages_and_can_be_ended_there(monkeypatch):
    monkeypatch.setattr(warmup_activity, "_PAGE", 5)
    rows(*(asked(f"{i}") for i in range(12)))
    pauses = []
    assert len(list(view(rest=pauses.append).askings(0, NOW))) == 12
    assert len(pauses) == 2
    assert min(pauses) > 0

    def stop(_):
        raise InterruptedError

    reading = view(rest=stop).askings(0, NOW)
    with pytest.raises(InterruptedError):
        list(reading)


def test_the_index_by_model_and_hour_is_used():
    rows(asked())
    plan = ActivityCount.objects.filter(model="m", hour__gte="2020-01-01T00:00Z").order_by(
        "hour", "last", "digest"
    )
    if connection.vendor == "postgresql":  # which reads one row without an index
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
    assert "activity_by_model" in plan.explain()


def test_how_fresh_an_answer_is_the_cache_says():
    seen = []
    told = view(freshness=lambda request: seen.append(request) or 5.0)
    assert told.fresh_for(RecommendationRequest("u", "m")) == 5.0
    assert seen == [RecommendationRequest("u", "m")]


requests = st.builds(
    RecommendationRequest,
    user_id=st.sampled_from([1, "1", -5, "ann", "Zoë", "a:b", 10**30]),
    model_name=st.just("default"),
    alias=st.sampled_from(["", "1", "production"]),
    context=all_contexts.filter(lambda context: len(context_text(context).encode()) <= 1024)
    | st.fixed_dictionaries({"tags": st.lists(st.sampled_from(["x", "y"]), max_size=3)}),
)


@pytest.mark.contract("W4")
def test_a_strategy_asks_what_makes_the_key_of_the_client(live_model):
    serving = wiring.get_serving()
    key = serving.recommender.key

    @settings(max_examples=60, deadline=None)
    @given(st.lists(requests, min_size=1, max_size=8))
    def check(given):
        ActivityCount.objects.all().delete()
        for each in given:
            serving.activity.asked(each)
        serving.activity.flush(at_once=True)
        assert serving.activity.dropped == 0
        warmed = set()
        for alias in ("", "1", "production"):
            seen = view("default", alias, now=serving.activity._clock() + 1)
            warmed |= {key(each.request) for each in Popular(minimum=1).candidates(seen, 100)}
        assert warmed == {key(each) for each in given}

    check()


@given(st.lists(requests, max_size=8, unique_by=question_of))
def test_questions_that_differ_stay_apart(given):
    ActivityCount.objects.all().delete()
    given = [RecommendationRequest(each.user_id, "m", context=each.context) for each in given]
    rows(*(asked(each.user_id, context=context_text(each.context)) for each in given))
    read = [question_of(each.request()) for each in view().askings(0, NOW)]
    assert set(read) == set(map(question_of, given))
