"""Segments: rules in the database, evaluated off the path, followed by every process."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from cache_app.core.freshness import Freshness
from cache_app.core.partitions import Share
from cache_app.invalidation import invalidate
from cache_app.models import Invalidation
from plugins import PluginError, RecommendationRequest
from serving_app import process_statistics, promotion, registration, wiring
from serving_app.activity import add_counts, record_events
from serving_app.activity_models import ActivityCount, Event
from serving_app.core.activity import Asked, Counted, NewEvent
from serving_app.core.segment_rules import choose
from serving_app.core.segment_table import SegmentTable, SegmentTerms
from serving_app.models import ProcessStatistics
from serving_app.segment_conf import SegmentSettings, segment_settings
from serving_app.segment_evaluation import Evaluator, prune, rules
from serving_app.segment_facts import facts_of
from serving_app.segment_following import SegmentFollower
from serving_app.segment_models import (
    Segment,
    SegmentCondition,
    SegmentEvaluation,
    SegmentMember,
)
from serving_app.wiring import get_recommender, get_serving
from tests.conftest import linear_draft

pytestmark = [pytest.mark.contract("C10"), pytest.mark.django_db]

FEATURES = [1.0, 2.0, 3.0]
DAY = timedelta(days=1)


class Time:
    """A clock with a zone that a test advances."""

    def __init__(self):
        self.now = timezone.now()

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def evaluator(time):
    return Evaluator("here", now=time)


def segment(name, *conditions, **terms):
    row = Segment(name=name, **terms)
    row.full_clean()
    row.save()
    for field, comparison, value, *window in conditions:
        condition = SegmentCondition(
            segment=row,
            field=field,
            comparison=comparison,
            value=value,
            window_days=window[0] if window else None,
        )
        condition.full_clean()
        condition.save()
    return row


def seen(user, at, n=1, kind="request"):
    """Let a user have asked ``n`` times in the hour before an instant."""
    hour = int(at.timestamp() // 3600) * 3600
    add_counts({Asked(hour, kind, "m", "", user, "{}", False): Counted(n, at.timestamp())})


def bought(user, item, at, value=1.0, **more):
    event = NewEvent(user, item, "purchase", "m", at.timestamp(), value, **more)
    assert record_events([event]).recorded == 1


def where():
    return {row.user_id: row.segment and row.segment.name for row in SegmentMember.objects.all()}


def test_users_are_where_the_rules_say(evaluator, time):
    segment("new", ("age_days", "lt", 7), order=1)
    segment("power", ("requests", "ge", 10, 20), order=2)
    seen("old", time.now - 10 * DAY, 3)
    seen("busy", time.now - 10 * DAY, 12)
    seen("young", time.now - 2 * DAY, 50)
    bought("buyer", "a", time.now - 1 * DAY)
    done = evaluator.evaluate()
    assert where() == {"old": None, "busy": "power", "young": "new", "buyer": "new"}
    assert (done.marked, done.evaluated, done.moved) == (4, 4, 3)


def test_one_and_its_text_are_two_users(evaluator, time):
    segment("power", ("requests", "ge", 10))
    seen(1, time.now - DAY, 12)
    seen("1", time.now - DAY, 2)
    evaluator.evaluate()
    assert where() == {1: "power", "1": None}


def test_only_who_is_active_or_due_is_looked_at_again(evaluator, time):
    segment("new", ("age_days", "lt", 7))
    for n in range(20):
        seen(f"u{n}", time.now - timedelta(days=n, minutes=5))
    assert evaluator.evaluate().evaluated == 20
    assert not evaluator.evaluate()
    time.now += timedelta(hours=1)
    seen("u15", time.now)
    bought("u16", "a", time.now)
    done = evaluator.evaluate()
    assert (done.marked, done.evaluated, done.moved) == (2, 2, 0)
    time.now += timedelta(hours=23)  # one of them has become a week old meanwhile
    again = evaluator.evaluate()
    assert again.moved == 1
    assert where()["u6"] is None


def test_the_same_requests_and_events_are_not_looked_at_twice(evaluator, time):
    segment("new", ("age_days", "lt", 7))
    seen("u", time.now)
    bought("u", "a", time.now)
    assert evaluator.evaluate().evaluated == 1
    bought("v", "a", time.now)
    assert evaluator.evaluate().evaluated == 1
    assert evaluator.evaluate().evaluated == 0


def test_events_of_the_past_that_are_imported_count(evaluator, time):
    segment("old", ("age_days", "gt", 60))
    seen("u", time.now - DAY)
    evaluator.evaluate()
    bought("u", "a", time.now - 80 * DAY)
    evaluator.evaluate()
    assert where() == {"u": "old"}


def test_a_changed_rule_moves_everyone(evaluator, time):
    row = segment("power", ("requests", "ge", 10))
    seen("u", time.now - DAY, 12)
    seen("v", time.now - DAY, 8)
    evaluator.evaluate()
    condition = row.conditions.get()
    condition.value = 5
    condition.save()
    assert evaluator.evaluate().evaluated == 2
    assert where() == {"u": "power", "v": "power"}
    row.enabled = False
    row.save()
    evaluator.evaluate()
    assert where() == {"u": None, "v": None}
    assert not evaluator.evaluate(), "with nothing to decide, nothing is done"


def test_first_seen_outlives_activity(evaluator, time):
    segment("loyal", ("age_days", "ge", 60))
    seen("u", time.now - 20 * DAY)
    evaluator.evaluate()
    time.now += 41 * DAY
    ActivityCount.objects.all().delete()
    evaluator.evaluate()
    assert where() == {"u": "loyal"}


@pytest.mark.parametrize("days", [0, 4, 11, 33])
def test_in_steps_it_comes_to_what_it_does_from_nothing(evaluator, time, days):
    segment("new", ("age_days", "lt", 5), order=1)
    segment("back", ("idle_days", "lt", 2), ("requests", "le", 2, 10), order=2)
    segment("collector", ("distinct_items", "ge", 2, 9), order=3)
    for n in range(6):
        seen(f"u{n}", time.now - timedelta(days=n * 3, hours=n))
        bought(f"u{n}", f"i{n}", time.now - timedelta(days=n * 2))
    evaluator.evaluate()
    for _ in range(days):
        time.now += DAY
        evaluator.evaluate()
    bought("u1", "new item", time.now - timedelta(hours=1))
    bought("u1", "newer item", time.now)
    evaluator.evaluate()
    asked = rules()
    known = {row.user_id: row for row in SegmentMember.objects.all()}
    facts = facts_of(list(known), of_events=True, known=known, now=time.now)
    for user, row in known.items():
        assert row.segment_id == choose(asked, facts[user], time.now.timestamp())[0], user


def test_one_process_at_a_time_evaluates_and_another_goes_on(time):
    one, other = Evaluator("one", now=time), Evaluator("other", now=time)
    segment("new", ("age_days", "lt", 7))
    seen("u", time.now)
    assert one.evaluate().evaluated == 1
    seen("v", time.now)
    assert other.evaluate() is None
    time.now += timedelta(seconds=61)
    assert other.evaluate().evaluated == 1, "the one that had it says nothing any more"
    assert one.evaluate() is None
    other.release()
    assert one.evaluate() is not None


def test_who_loses_the_lease_writes_nothing_more(time, monkeypatch):
    one = Evaluator("one", now=time)
    row = segment("new", ("age_days", "lt", 7))
    seen("u", time.now)
    one.evaluate()
    row.conditions.update(value=0)
    SegmentEvaluation.edit()
    decide = one._decide

    def taken_meanwhile():
        SegmentEvaluation.objects.update(owner="other")
        return decide()

    monkeypatch.setattr(one, "_decide", taken_meanwhile)
    assert one.evaluate() is None
    assert where() == {"u": "new"}


def test_the_memory_of_users_is_bounded(evaluator, time, settings):
    settings.RECSERVE = {**settings.RECSERVE, "SEGMENTS": {"USERS": 2}}
    segment("everyone")
    for n in range(4):
        seen(f"u{n}", time.now - n * DAY)
    evaluator.evaluate()
    assert where() == {"u0": "everyone", "u1": "everyone", "u2": None, "u3": None}
    prune(time.now + timedelta(minutes=11))
    assert where().keys() == {"u0", "u1"}


# --- Following -------------------------------------------------------------------------------


def request(user="u", **more):
    return RecommendationRequest(user_id=user, features=FEATURES, **more)


def explained(user="u", **more):
    answer = get_recommender().recommend(request(user, explain=True, **more))
    return answer.explanation.segment, answer.source


def follow():
    get_serving().reconciler.reconcile()


def test_a_request_is_answered_in_its_users_segment(live_model, evaluator, time):
    segment("power", ("requests", "ge", 10))
    seen("u", time.now, 12)
    seen("v", time.now, 2)
    assert explained() == ("all", "model"), "nobody has decided yet"
    evaluator.evaluate()
    follow()
    assert [explained(), explained("v"), explained("stranger")] == [
        ("power", "model"),
        ("all", "model"),
        ("all", "model"),
    ]
    assert ":power:" in get_recommender().key(request())
    lookups = get_recommender().stats()["default"].lookups
    assert (lookups["power"], lookups["all"]) == ({"miss": 1}, {"miss": 3})


def test_who_moves_reads_no_entry_of_his_old_segment(live_model, evaluator, time):
    row = segment("power", ("requests", "ge", 10))
    assert explained() == ("all", "model")
    assert explained() == ("all", "l1")
    seen("u", time.now, 12)
    evaluator.evaluate()
    follow()
    assert explained() == ("power", "model"), "what 'all' has is not for him"
    assert explained() == ("power", "l1")
    row.delete()
    follow()
    assert explained()[0] == "all"


def test_a_segment_is_invalidated_alone(
    live_model, evaluator, time, django_capture_on_commit_callbacks
):
    segment("power", ("requests", "ge", 10))
    seen("u", time.now, 12)
    evaluator.evaluate()
    follow()
    explained(), explained("v")
    with django_capture_on_commit_callbacks(execute=True):
        invalidate(segment="power")
    assert (explained(), explained("v")) == (("power", "model"), ("all", "l1"))


def test_a_process_that_starts_knows_everyone(live_model, evaluator, time):
    segment("power", ("requests", "ge", 10))
    seen(1, time.now, 12)
    evaluator.evaluate()
    wiring.stop()
    follow()
    assert get_serving().segments.plan_of(1).terms.name == "power"
    assert get_serving().segments.plan_of("1") is None


def test_another_database_is_followed_from_its_beginning(live_model, evaluator, time):
    segment("power", ("requests", "ge", 10), share=0.1)
    seen("u", time.now, 12)
    seen("v", time.now, 12)
    evaluator.evaluate()
    follow()
    SegmentMember.objects.filter(user="v").update(segment=None)
    SegmentEvaluation.objects.update(turn=0, edited=0)
    follow()
    assert [explained(user)[0] for user in ("u", "v")] == ["power", "all"]
    SegmentEvaluation.objects.all().delete()
    follow()
    assert explained()[0] == "all"
    assert capacities() == {"all": 100_000, "power": 0}


def test_a_segment_that_was_off_has_its_members_again(live_model, evaluator, time):
    row = segment("power", ("requests", "ge", 10))
    seen("u", time.now, 12)
    evaluator.evaluate()
    follow()
    for enabled, expected in ((False, "all"), (True, "power")):
        row.enabled = enabled
        row.save()
        follow()
        assert explained()[0] == expected


def test_a_segments_ttl_and_alias_hold(live_model, store, evaluator, time):
    other = registration.register("default", linear_draft(store, "two.npz", seed=2))
    careful = promotion.set_alias(other, "careful")
    follow()
    segment("power", ("requests", "ge", 10), ttl=7.0, alias="careful")
    seen("u", time.now, 12)
    evaluator.evaluate()
    follow()
    answer = get_recommender().recommend(request())
    assert (answer.model_version, answer.alias) == (2, "careful")
    assert get_recommender().recommend(request("v")).model_version == 1
    asked = get_recommender().recommend(request(model_name="default", alias="production"))
    assert asked.model_version == 1, "who asks for an alias gets it"

    levels = get_recommender()._levels
    lives = {}
    for user in ("u", "v"):
        entry = levels._levels[0].peek(get_recommender().key(request(user)))
        lives[user] = entry.life.ttl
    assert 3.4 <= lives["u"] <= 7
    assert lives["v"] > 100
    promotion.remove_alias(careful)
    follow()
    assert get_recommender().recommend(request()).model_version == 1, "as everyone"


def test_invalidations_are_remembered_for_as_long_as_a_segments_answers_live(settings):
    settings.RECSERVE = {
        **settings.RECSERVE,
        "CACHE": {"TTL": 10, "STALE_IF_ERROR": 0, "MAX_TTL": 5000},
    }
    invalidate(user_id="u")
    Invalidation.objects.update(at=timezone.now() - timedelta(seconds=9000))
    invalidate(user_id="v")
    assert Invalidation.objects.filter(scope="u:u").exists()
    Invalidation.objects.filter(scope="u:u").update(at=timezone.now() - timedelta(seconds=10_100))
    invalidate(user_id="w")
    assert not Invalidation.objects.filter(scope="u:u").exists()


def capacities():
    return {name: part["capacity"] for name, part in process_statistics.own_partitions().items()}


def test_shares_of_l1_follow_the_database(live_model, evaluator, time, settings):
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": {"L1": {"CAPACITY": 10}}}
    wiring.stop()
    follow()
    row = segment("power", ("requests", "ge", 10), share=0.5, policy="lru")
    for n in range(5):
        seen(f"p{n}", time.now, 12)
    evaluator.evaluate()
    follow()
    assert capacities() == {"all": 5, "power": 5}
    for n in range(5):
        explained(f"p{n}")
    for n in range(50):
        explained(f"stranger {n}")
    assert [explained(f"p{n}") for n in range(5)] == [("power", "l1")] * 5

    row.share = 0.3
    row.policy = ""
    row.save()
    follow()
    assert capacities() == {"all": 7, "power": 3}
    assert [explained(f"p{n}")[1] for n in (2, 3, 4)] == ["l1"] * 3, "they moved along"
    row.delete()
    follow()
    assert capacities() == {"all": 10, "power": 0}


def test_shares_that_cannot_be_made_leave_all_as_it_was(caplog):
    def refuse(shares):
        assert shares == {"power": Share(0.5, "gone")}
        raise PluginError("there is no such policy")

    row = segment("power", share=0.5)
    Segment.objects.update(policy="gone")
    table = SegmentTable(5)
    SegmentFollower(table, Freshness(60.0), refuse).refresh()
    assert "stay as they were" in caplog.text
    assert table.segments == {row.pk: SegmentTerms("power")}


def test_statistics_and_metrics_tell_segments_apart(live_model, evaluator, time, client_as):
    segment("power", ("requests", "ge", 10), share=0.2)
    seen("u", time.now, 12)
    evaluator.evaluate()
    follow()
    explained(), explained(), explained("v")
    client = client_as("operate")
    stats = client.get("/api/v1/cache/stats").json()
    by_segment = stats["models"]["default"]["segments"]
    assert {name: (each["hits"], each["misses"]) for name, each in by_segment.items()} == {
        "power": (1, 1),
        "all": (0, 1),
    }
    share = stats["l1_segments"]["power"]
    assert (share["entries"], share["capacity"], share["hit_rate"]) == (1, 20_000, 0.5)
    ProcessStatistics.objects.create(
        process="other",
        seen=timezone.now(),
        serving={},
        cache={"l1_segments": {"power": {"hits": 7, "entries": 2}, "new": {"misses": 3}}},
    )
    merged = client.get("/api/v1/cache/stats").json()["l1_segments"]
    assert (merged["power"]["hits"], merged["power"]["entries"]) == (8, 3)
    assert merged["new"]["misses"] == 3
    families = text_string_to_metric_families(client.get("/metrics").content.decode())
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
        if "segment" in sample.labels
    }
    assert found["recserve_lookups_total", "default", "l1", "power"] == 1
    assert found["recserve_lookups_total", "all", "default", "miss"] == 1
    assert found["recserve_segment_l1_entries", "power"] == 1


# --- What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"name": "all"}, "name", "everyone else"),
        ({"name": "a b"}, "name", "letters, digits"),
        ({"name": ""}, "name", "blank"),
        ({"share": 0.95}, "share", "0.001 to 0.9"),
        ({"share": 0.0}, "share", "0.001 to 0.9"),
        ({"share": 0.5}, "share", "other segments have 0.6"),
        ({"ttl": 0.1}, "ttl", "greater than or equal"),
        ({"ttl": 1e6}, "ttl", "MAX_TTL"),
        ({"policy": "lru"}, "policy", "share of its own"),
        ({"policy": "lrru", "share": 0.1}, "policy", "Did you mean 'lru'"),
        ({"policy_options": {"a": 1}}, "policy_options", "no policy"),
        ({"policy_options": [1]}, "policy_options", "JSON object"),
        (
            {"policy": "lru", "share": 0.1, "policy_options": {"size": 1}},
            "policy_options",
            "'size' is no option",
        ),
        ({"alias": "canary"}, "alias", "roll-out"),
        ({"alias": "nobody"}, "alias", "No model has"),
    ],
)
def test_terms_that_cannot_be_are_refused(values, field, says):
    segment("first", share=0.6)
    with pytest.raises(ValidationError) as caught:
        Segment(**{"name": "second", **values}).full_clean()
    assert says in " ".join(caught.value.message_dict[field])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"field": "colour"}, "not a valid choice"),
        ({"comparison": "xx"}, "not a valid choice"),
        ({"field": "age_days", "window_days": 3}, "no window"),
        ({"field": "mean_value", "comparison": "eq"}, "never equals"),
        ({"window_days": 31}, "At most 30"),
        ({"field": "distinct_items", "window_days": 91}, "At most 90"),
        ({"window_days": -1}, "positive"),
    ],
)
def test_conditions_that_cannot_be_are_refused(values, says):
    row = segment("power")
    given = {"field": "views", "comparison": "ge", "value": 1.0, **values}
    with pytest.raises(ValidationError) as caught:
        SegmentCondition(segment=row, **given).full_clean()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"USER": 1}, "Did you mean 'USERS'"),
        ({"USERS": 0}, "whole number"),
        ({"USERS": 10**10}, "at most"),
        ({"EVALUATE": "yes"}, "True or False"),
        ({"EVALUATE_SECONDS": -1}, "positive"),
    ],
)
def test_wrong_settings_are_named(settings, given, says):
    settings.RECSERVE = {"SEGMENTS": given}
    with pytest.raises(ImproperlyConfigured, match=says):
        segment_settings()
    settings.RECSERVE = {"SEGMENTS": {"USERS": 5}}
    assert segment_settings() == SegmentSettings(users=5)


# --- manage.py and the admin -------------------------------------------------------------------


def test_the_command_evaluates_and_lists(time, capsys, evaluator):
    segment("power", ("requests", "ge", 10))
    seen("u", time.now, 12)
    seen("v", time.now, 1)
    call_command("segments", "--evaluate", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["evaluated"] == {"evaluated": 2, "moved": 1}
    assert [(row["name"], row["members"]) for row in shown["segments"]] == [
        ("power", 1),
        ("all", 1),
    ]
    call_command("segments")
    assert "power: 1 users; requests ≥ 10" in capsys.readouterr().out
    SegmentEvaluation.objects.update(owner="other", until=datetime(2100, 1, 1, tzinfo=UTC))
    with pytest.raises(CommandError, match="serving process"):
        call_command("segments", "--evaluate")


def form(**changes):
    given = {
        "name": "power",
        "description": "",
        "order": "5",
        "enabled": "on",
        "share": "",
        "policy": "",
        "policy_options": "{}",
        "ttl": "",
        "alias": "",
        "conditions-TOTAL_FORMS": "1",
        "conditions-INITIAL_FORMS": "0",
        "conditions-0-field": "requests",
        "conditions-0-comparison": "ge",
        "conditions-0-value": "10",
        "conditions-0-window_days": "7",
    }
    return {**given, **changes}


def test_the_admin_makes_a_segment_and_shows_its_members(admin_client, evaluator, time):
    url = "/admin/serving_app/segment/add/"
    page = admin_client.post(url, form(**{"conditions-0-window_days": "99"}))
    assert "older activity is not kept" in page.content.decode()
    page = admin_client.post(url, form(**{"conditions-0-field": "age_days"}))
    assert "no window" in page.content.decode()
    assert not Segment.objects.exists()
    assert admin_client.post(url, form()).status_code == 302
    seen("u", time.now, 12)
    evaluator.evaluate()
    page = admin_client.get("/admin/serving_app/segment/").content.decode()
    assert "requests ≥ 10 in 7 days" in page
    row = Segment.objects.get()
    members = admin_client.get(f"/admin/serving_app/segmentmember/?segment__id__exact={row.pk}")
    assert "u" in [each.user for each in members.context["cl"].result_list]
    assert Event.objects.count() == 0
