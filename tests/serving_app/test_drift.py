"""Drift: significant changes refresh or drop a user's answers; others change nothing."""

import csv
import lzma
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import OperationalError
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from plugins import DriftVerdict, RecommendationRequest
from plugins.apps import get_registry
from serving_app import wiring
from serving_app.activity import add_counts, record_events
from serving_app.activity_models import ActivityCount, Event
from serving_app.checks import check_settings
from serving_app.core.activity import Asked, Counted, NewEvent
from serving_app.core.profiles import TitleTerms, prefix_terms
from serving_app.drift_conf import DriftSettings, drift_settings
from serving_app.drift_facts import questions_of
from serving_app.drift_models import DriftDecision, DriftProgress, UserProfile
from serving_app.drift_watch import DriftWatch, prune_drift
from serving_app.segment_evaluation import Evaluator
from serving_app.wiring import get_recommender, get_serving
from tests.serving_app.test_segments import Time, seen, segment

pytestmark = [pytest.mark.contract("C9"), pytest.mark.django_db]

URL = "/api/v1/drift"
TEA = [f"tea{n}" for n in range(9)]
TOYS = [f"toy{n}" for n in range(9)]


@pytest.fixture(autouse=True)
def _commits_at_once(monkeypatch):
    """Let what waits for the commit happen now: a test's transaction never commits."""
    monkeypatch.setattr("django.db.transaction.on_commit", lambda then, **_: then())


def with_drift(settings, **values):
    settings.RECSERVE = {**settings.RECSERVE, "DRIFT": {"TERMS": 3, **values}}


@pytest.fixture
def time():
    return Time()


class Renewals(list):
    def __call__(self, requests):
        self.append(requests)


@pytest.fixture
def renewed():
    return Renewals()


@pytest.fixture
def watch(settings, time, renewed):
    with_drift(settings)
    watch = DriftWatch("here", terms=lambda _, item: prefix_terms(3)(item), renew=renewed, now=time)
    watch.watch()
    return watch


def buys(user, items, time, model="m"):
    """Let a user buy things, one after the other."""
    time.now += timedelta(minutes=len(items))
    at = time.now.timestamp()
    record_events(
        [NewEvent(user, item, "purchase", model, at - n, 1.0) for n, item in enumerate(items)]
    )


def decisions():
    return [(row.user_id, row.action) for row in DriftDecision.objects.order_by("pk")]


def test_who_buys_more_of_the_same_is_left_alone(watch, time):
    for _ in range(6):
        buys("u", TEA, time)
        assert watch.watch() == 1
    assert decisions() == []
    assert watch.counts() == {("all", "keep"): 6}
    row = UserProfile.objects.get()
    assert (row.user_id, row.now, row.distance) == ("u", {"tea": 1.0}, 0.0)


def test_who_changes_is_refreshed_once_it_is_confirmed(watch, time, renewed):
    buys("u", TEA, time)
    watch.watch()
    buys("u", [*TOYS, *TOYS], time)
    watch.watch()
    row = UserProfile.objects.get()
    assert (decisions(), row.suspected) == ([], 1)
    assert "suspected 1 times" in row.reason
    buys("u", TOYS, time)
    watch.watch()
    assert decisions() == [("u", "refresh")]
    decision = DriftDecision.objects.get()
    assert (decision.segment, decision.rule, decision.events) == ("all", "cosine", 27)
    assert 0.5 < decision.distance < 0.9
    assert "or more" in decision.reason
    assert len(renewed) == 1
    row.refresh_from_db()
    assert (row.suspected, row.events, row.before) == (0, 0, row.now)
    for _ in range(3):
        buys("u", TOYS, time)
        watch.watch()
    assert decisions() == [("u", "refresh")], "from there on, it is more of the same"


def test_one_odd_purchase_is_no_change(watch, time, settings):
    with_drift(settings, OPTIONS={"confirm": 2})
    buys("u", TEA, time)
    watch.watch()
    for items in ([*TOYS, *TOYS], [*TEA, *TEA, *TEA], [*TOYS, *TOYS, *TOYS], TEA * 4):
        buys("u", items, time)
        watch.watch()
    assert decisions() == []


def test_the_same_events_are_judged_once(watch, time, settings):
    buys("u", TEA, time)
    watch.watch()
    buys("u", [*TOYS, *TOYS], time)
    watch.watch()
    another = DriftWatch("other", terms=watch._terms, renew=print, now=time)
    assert another.watch() == 0
    DriftProgress.objects.update(event=0, until=None)
    another.watch()
    assert UserProfile.objects.get().suspected == 1


def test_history_before_the_watch_is_what_new_events_are_compared_with(settings, time, renewed):
    with_drift(settings, OPTIONS={"confirm": 0, "drop_at": 2.0})
    buys("u", TEA, time)
    watch = DriftWatch("here", terms=lambda _, i: prefix_terms(3)(i), renew=renewed, now=time)
    watch.watch()
    assert not UserProfile.objects.exists(), "what was there is not judged"
    buys("u", [*TOYS, *TOYS], time)
    buys("new", TOYS, time)
    watch.watch()
    assert decisions() == [("u", "refresh")]
    assert UserProfile.objects.get(user="new").reason == "the first that is known"


def test_one_and_its_text_are_two_users(watch, time):
    buys(1, TEA, time)
    buys("1", TOYS, time)
    watch.watch()
    assert {row.user_id: row.now for row in UserProfile.objects.all()} == {
        1: {"tea": 1.0},
        "1": {"toy": 1.0},
    }


def test_one_process_at_a_time_watches(watch, time):
    other = DriftWatch("other", terms=watch._terms, renew=print, now=time)
    buys("u", TEA, time)
    assert watch.watch() == 1
    record_events([NewEvent("u", "tea", "view", "m", time.now.timestamp())])
    assert other.watch() is None
    watch.release()
    assert other.watch() == 1


def test_a_segment_has_thresholds_of_its_own(watch, time):
    segment("careful", ("requests", "ge", 10), drift_options={"confirm": 0, "drop_at": 0.6})
    seen("u", time.now, 12)
    Evaluator("e", now=time).evaluate()
    for user in ("u", "v"):
        buys(user, TEA, time)
    watch.watch()
    for user in ("u", "v"):
        buys(user, TOYS * 3, time)
    watch.watch()
    assert decisions() == [("u", "drop")]
    assert watch.counts() == {("careful", "keep"): 1, ("careful", "drop"): 1, ("all", "keep"): 2}


def test_without_a_rule_nothing_is_watched(settings, time):
    with_drift(settings, RULE=None)
    watch = DriftWatch("here", terms=lambda _, i: prefix_terms(3)(i), renew=print, now=time)
    buys("u", TEA, time)
    assert watch.watch() == 0
    assert not DriftProgress.objects.exists()


def test_items_of_a_model_that_is_not_live_here_are_left_for_later(settings, time, fresh):
    settings.RECSERVE = {**settings.RECSERVE, "DRIFT": {}}
    watch = get_serving().drift
    watch.watch()
    buys("u", TEA, time)
    watch.watch()
    assert not UserProfile.objects.exists()


class Broken:
    """Fails."""

    def judge(self, case):
        raise RuntimeError("no")


def test_a_rule_that_fails_keeps_and_is_counted(watch, time, monkeypatch, caplog):
    monkeypatch.setattr(get_registry().drift_rules, "create", lambda *_: Broken())
    watch._rules.clear()
    for _ in range(2):
        buys("u", TEA, time)
        watch.watch()
    assert watch.counts()["all", "failed"] == 1
    assert decisions() == []
    assert "failed" in caplog.text
    failures = get_registry().failures
    ((part, counted),) = failures.by_plugin()["builtin_drift"].items()
    assert part.startswith("drift rule ")
    assert (counted.failures, counted.error) == (1, "RuntimeError: no")

    while not failures.note("builtin_drift", part, "again"):
        pass
    buys("u", TEA, time)
    watch.watch()
    assert watch.counts()["all", "failed"] == 1, "what is switched off is not asked"
    assert UserProfile.objects.get().reason.endswith("is switched off")


def test_who_loses_the_lease_writes_nothing(watch, time, monkeypatch):
    buys("u", TEA, time)
    profile = watch._profile

    def taken_meanwhile(deeds):
        DriftProgress.objects.update(owner="other")
        return profile(deeds)

    monkeypatch.setattr(watch, "_profile", taken_meanwhile)
    assert watch.watch() is None
    assert not UserProfile.objects.exists()


def test_what_is_kept_is_bounded(watch, time, settings):
    with_drift(settings, PROFILES=2, DECISIONS=1)
    for user in range(4):
        buys(user, TEA, time)
        watch.watch()
    for n in range(3):
        DriftDecision.objects.create(
            user=str(n), at=time.now + timedelta(seconds=n), distance=0, events=1, source="events"
        )
    prune_drift()
    assert [row.user_id for row in UserProfile.objects.all()] == [3, 2]
    assert [row.user for row in DriftDecision.objects.all()] == ["2"]


def test_the_latest_questions_of_a_user_are_renewed(time):
    hour = int(time.now.timestamp() // 3600) * 3600
    for n, page in enumerate(("a", "b", "c")):
        asked = Asked(hour, "request", "m", "", 7, f'{{"page":"{page}"}}', False)
        add_counts({asked: Counted(1, hour + n)})
    add_counts({Asked(hour, "request", "m", "", 7, "{}", True): Counted(1, hour + 50)})
    add_counts({Asked(hour, "request", "m", "", "7", "{}", False): Counted(1, hour + 60)})
    assert [r.context for r in questions_of(7, 2)] == [{"page": "c"}, {"page": "b"}]


# --- With a real model -----------------------------------------------------------------------


def explained(user):
    request = RecommendationRequest(user_id=user, features=[1.0, 2.0, 3.0], explain=True)
    return get_recommender().recommend(request).source


@pytest.fixture
def serving(live_model, settings):
    with_drift(settings, OPTIONS={"confirm": 0})
    wiring.stop()
    get_serving().reconciler.reconcile()
    get_serving().drift.watch()
    return get_serving()


def test_answers_of_who_changed_are_forgotten_and_of_others_not(serving, time, client_as):
    for user in ("u", "v"):
        buys(user, TEA, time, "default")
    serving.drift.watch()
    assert [explained(user) for user in ("u", "v", "u", "v")] == ["model", "model", "l1", "l1"]
    buys("u", TOYS * 3, time, "default")
    buys("v", TEA * 3, time, "default")
    serving.drift.watch()
    assert [explained(user) for user in ("u", "v")] == ["model", "l1"]
    shown = client_as("operate").get(f"{URL}/decisions?user=u").json()["results"]
    assert [(row["user_id"], row["action"], row["source"]) for row in shown] == [
        ("u", "refresh", "events")
    ]
    stats = client_as("operate").get("/api/v1/cache/stats").json()["drift"]
    assert stats == {"all": {"keep": 3, "refresh": 1}}
    families = text_string_to_metric_families(client_as("operate").get("/metrics").content.decode())
    found = {
        sample.labels["action"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "recserve_drift_decisions_total"
    }
    assert found == {"keep": 3, "refresh": 1}


def test_a_refresh_computes_what_the_user_asked_without_being_activity(serving, time):
    asked = []
    serving.drift._renew = lambda requests: asked.append(get_recommender().recommend_many(requests))
    add_counts(
        {Asked(0, "request", "default", "", "u", "{}", False): Counted(1, time.now.timestamp())}
    )
    buys("u", TEA, time, "default")
    serving.drift.watch()
    buys("u", TOYS * 3, time, "default")
    serving.drift.watch()
    assert len(asked) == 1
    before = ActivityCount.objects.get(kind="request").count
    serving.activity.flush(at_once=True)
    assert ActivityCount.objects.get(kind="request").count == before


def vector(client, user, status=200, **features):
    body = {"users": [{"user_id": user, "features": features}]}
    answer = client.post(f"{URL}/features", body, format="json")
    assert answer.status_code == status, answer.content
    return answer.json()["results"][0] if status == 200 else answer.json()


def test_a_new_feature_vector_is_compared_with_the_last(serving, client_as):
    client = client_as("predict")
    assert explained("u") == "model"
    assert vector(client, "u", age=1.0, spend=2.0)["reason"] == "the first that is known"
    same = vector(client, "u", age=1.1, spend=2.0)
    assert (same["action"], same["segment"]) == ("keep", "all")
    assert explained("u") == "l1"
    other = vector(client, "u", age=-3.0, visits=5.0)
    assert (other["action"], other["distance"]) == ("drop", 1.0)
    assert explained("u") == "model"
    assert vector(client, "u", age=-3.0, visits=5.1)["action"] == "keep"
    profiles = client_as("operate").get(f"{URL}/profiles?source=features").json()["results"]
    assert [(row["user_id"], row["events"]) for row in profiles] == [("u", 1)]
    assert client.get(f"{URL}/profiles").status_code == 403


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "users"),
        ({"users": []}, "users"),
        ({"users": [7]}, "users[0]"),
        ({"users": [{"user_id": 1}]}, "users[0]"),
        ({"users": [{"user_id": True, "features": {"a": 1}}]}, "users[0].user_id"),
        ({"users": [{"user_id": 1, "features": {}}]}, "users[0].features"),
        ({"users": [{"user_id": 1, "features": {"": 1}}]}, "users[0].features"),
        ({"users": [{"user_id": 1, "features": {"a": "x"}}]}, "users[0].features.a"),
        ({"users": [{"user_id": 1, "features": {"a": 1e200}}]}, "users[0].features.a"),
    ],
)
def test_vectors_that_are_none_are_refused(fresh, client_as, body, field):
    answer = client_as("predict").post(f"{URL}/features", body, format="json")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert answer.json()["errors"][0]["field"] == field if "errors" in answer.json() else True
    assert not UserProfile.objects.exists()


def test_the_admin_shows_decisions_and_profiles(watch, time, admin_client):
    buys("u", TEA, time)
    watch.watch()
    DriftDecision.objects.create(
        user="u",
        at=time.now,
        distance=0.61,
        events=9,
        source="events",
        action="refresh",
        reason="0.61 is 0.5 or more",
        segment="all",
    )
    page = admin_client.get("/admin/serving_app/driftdecision/").content.decode()
    assert "0.61 is 0.5 or more" in page
    row = UserProfile.objects.get()
    page = admin_client.get(f"/admin/serving_app/userprofile/{row.pk}/change/").content.decode()
    assert "tea 1.00" in page


# --- Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"RULES": 1}, "Did you mean 'RULE'"),
        ({"RULE": 7}, "text"),
        ({"OPTIONS": []}, "dict"),
        ({"TERMS": "words"}, "title"),
        ({"TERMS": -1}, "title"),
        ({"HALF_LIFE_DAYS": 0}, "positive"),
        ({"EVENTS": 0}, "whole number"),
        ({"PROFILES": 10**10}, "at most"),
    ],
)
def test_wrong_settings_are_named(settings, given, says):
    settings.RECSERVE = {"DRIFT": given}
    with pytest.raises(ImproperlyConfigured, match=says):
        drift_settings()
    settings.RECSERVE = {"DRIFT": {"RULE": None, "TERMS": "title"}}
    assert drift_settings() == DriftSettings(rule=None)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"RULE": "cosin"}, "Did you mean 'cosine'"),
        ({"OPTIONS": {"refresh_at": 7}}, "settle_at"),
        ({"OPTIONS": {"refreshat": 0.1}}, "is no option"),
    ],
)
def test_manage_py_check_names_a_rule_that_cannot_be(settings, given, says):
    assert check_settings() == []
    with_drift(settings, **given)
    (found,) = check_settings()
    assert (found.id, says in found.msg) == ("serving_app.E004", True)


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"drift_rule": "cosin"}, "drift_rule", "Did you mean 'cosine'"),
        ({"drift_options": {"refresh_at": 7}}, "drift_options", "settle_at"),
        ({"drift_options": {"refreshat": 0.1}}, "drift_options", "is no option"),
        ({"drift_options": [1]}, "drift_options", "JSON object"),
    ],
)
def test_a_segments_rule_that_cannot_be_is_refused(values, field, says):
    with pytest.raises(ValidationError) as caught:
        segment("x", **values)
    assert says in " ".join(caught.value.message_dict[field])


# --- On real purchases -------------------------------------------------------------------------


def test_on_real_purchases_who_changes_category_is_refreshed_and_who_does_not_is_not(
    data, settings, time, renewed
):
    """Two users with the same history; one goes on with it, one with somebody else's taste."""
    settings.RECSERVE = {**settings.RECSERVE, "DRIFT": {"HALF_LIFE_DAYS": 30.0}}
    folder = data / "recs/online-retail"
    with lzma.open(folder / "items.csv.xz", "rt") as lines:
        titles = {row["item"]: row["title"] for row in csv.DictReader(lines)}
    terms = TitleTerms(titles)
    of = {
        word: [item for item, title in titles.items() if word in title.split()]
        for word in ("CHRISTMAS", "GARDEN", "JUMBO", "LUNCH")
    }
    bought = {"history": of["JUMBO"], "same": of["JUMBO"], "other": of["CHRISTMAS"]}
    assert all(len(items) > 15 for items in bought.values())
    watch = DriftWatch("here", terms=lambda _, item: terms(item), renew=renewed, now=time)
    watch.watch()
    time.now -= timedelta(days=85)
    for week in range(12):
        for user, later in (("stays", "same"), ("changes", "other")):
            items = bought["history" if week < 4 else later]
            buys(user, [items[(week * 5 + n) % len(items)] for n in range(10)], time)
        time.now += timedelta(days=7)
        watch.watch()
    assert {user for user, _ in decisions()} == {"changes"}
    assert Event.objects.count() == 240


def test_a_database_that_is_away_is_said(watch, monkeypatch, time):
    def away():
        raise OperationalError("away")

    monkeypatch.setattr("serving_app.drift_watch.latest_event", away)
    with pytest.raises(OperationalError):
        watch.watch()


def test_a_verdict_is_what_is_written(watch, time, monkeypatch):
    class Chatty:
        """Says a lot."""

        def judge(self, case):
            return DriftVerdict("drop", 1.0, "x" * 1000)

    monkeypatch.setattr(get_registry().drift_rules, "create", lambda *_: Chatty())
    watch._rules.clear()
    for _ in range(2):
        buys("u", TEA, time)
        watch.watch()
    assert len(DriftDecision.objects.get().reason) == 300
    assert timezone.is_aware(DriftDecision.objects.get().at)
