"""Warm-ups by the API: schedules, runs, and starting one. Bad input leaves nothing behind."""

import pytest
from django.contrib.auth.models import Group
from django.utils import timezone
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import AccessToken

from plugins.apps import reset_registry
from serving_app import access, wiring
from serving_app.models import ServedModel
from serving_app.warmup_models import ScheduledStrategy, WarmupRun, WarmupSchedule
from serving_app.warmup_runs import claim
from tests.serving_app.api.test_model_limits import limited_to
from tests.serving_app.warmups import USERS, ask, make_live, make_row, make_schedule

pytestmark = [pytest.mark.contract("A3"), pytest.mark.contract("W3"), pytest.mark.django_db]

SCHEDULES, RUNS, WARM_UP = "/api/v1/warmup-schedules", "/api/v1/warmup-runs", "/api/v1/cache/warmup"
BODY = {
    "name": "nightly",
    "model": "default",
    "cron": "30 5 * * *",
    "time_zone": "Europe/Berlin",
    "strategies": [
        {"strategy": "popular", "options": {"days": 7.0}},
        {"strategy": "recent", "weight": 0.5},
    ],
    "budget": 500,
}


@pytest.fixture(autouse=True)
def registered(db):
    reset_registry()
    access.reset()
    make_row()


@pytest.fixture
def operator(client_as):
    return client_as("operate")


@pytest.fixture
def administrator(client_as):
    return client_as("administer")


def fields(answer):
    assert answer.status_code == 422, answer.content
    return {each["field"]: each["detail"] for each in answer.json()["errors"]}


def test_a_schedule_is_made_changed_and_deleted(administrator):
    made = administrator.post(SCHEDULES, BODY, format="json")
    assert made.status_code == 201, made.content
    body = made.json()
    assert body["strategies"][1] == {"strategy": "recent", "weight": 0.5, "options": {}}
    assert body["next_due"].endswith(("04:30:00Z", "03:30:00Z"))
    assert (body["warmed"], body["hit_share"], body["batch_size"]) == (0, None, 8)
    url = f"{SCHEDULES}/nightly"
    changed = administrator.patch(url, {"cron": "", "interval": 3600, "budget": 9}, format="json")
    assert (changed.json()["budget"], len(changed.json()["strategies"])) == (9, 2)
    one = {"strategies": [{"strategy": "popular"}]}
    assert administrator.patch(url, one, format="json").json()["strategies"] == [
        {"strategy": "popular", "weight": 1.0, "options": {}}
    ]
    off = administrator.patch(url, {"enabled": False}, format="json").json()
    assert off["next_due"] is None
    assert administrator.get(url).json() == off
    assert administrator.delete(url).status_code == 204
    assert not ScheduledStrategy.objects.exists()


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        (
            {"strategies": [{"strategy": "populer"}]},
            "strategies.0.strategy",
            "Did you mean 'popular'",
        ),
        (
            {"strategies": [{"strategy": "popular", "options": {"dayz": 1}}]},
            "strategies.0.options",
            "'dayz' is no option",
        ),
        (
            {"strategies": [{"strategy": "popular", "options": {"days": -1.0}}]},
            "strategies.0.options",
            "'days'",
        ),
        ({"strategies": []}, "strategies.non_field_errors", "empty"),
        ({"cron": "61 * * * *"}, "cron", "bad minute"),
        ({"interval": 60}, "interval", "not both"),
        ({"time_zone": "Mars"}, "time_zone", "no time zone 'Mars'"),
        ({"model": "none"}, "model", "none"),
        ({"budget": 0}, "budget", "1"),
        ({"budget": 10**7}, "budget", "MAX_BUDGET"),
        ({"rate": 0}, "rate", "0.01"),
        ({"name": "a b"}, "name", "letters"),
    ],
)
def test_a_wrong_schedule_is_refused_and_leaves_nothing(administrator, change, field, says):
    refused = administrator.post(SCHEDULES, {**BODY, **change}, format="json")
    assert says in fields(refused)[field]
    assert not WarmupSchedule.objects.exists()
    administrator.post(SCHEDULES, BODY, format="json")
    before = administrator.get(f"{SCHEDULES}/nightly").json()
    bad = administrator.patch(f"{SCHEDULES}/nightly", change, format="json")
    assert says in fields(bad)[field]
    assert administrator.get(f"{SCHEDULES}/nightly").json() == before


def test_a_name_is_taken_once(administrator):
    administrator.post(SCHEDULES, BODY, format="json")
    assert "already exists" in fields(administrator.post(SCHEDULES, BODY, format="json"))["name"]


def test_lists_are_filtered_ordered_and_paged(operator):
    make_row("other")
    for name, model, strategy in (
        ("b", "default", "popular"),
        ("a", "default", "recent"),
        ("c", "other", "recent"),
    ):
        make_schedule(name, model=model, strategies=[(strategy, {})], enabled=name != "a")

    def names(query=""):
        return [each["name"] for each in operator.get(f"{SCHEDULES}{query}").json()["results"]]

    assert names() == ["a", "b", "c"]
    assert names("?model=other") == ["c"]
    assert names("?strategy=recent&ordering=-name") == ["c", "a"]
    assert names("?enabled=false") == ["a"]
    assert names("?page_size=1&page=2") == ["b"]
    assert names("?search=c") == ["c"]
    for name in ("a", "c"):
        assert operator.post(f"{SCHEDULES}/{name}/run").status_code == 202
    listed = operator.get(f"{RUNS}?schedule=c").json()["results"]
    assert [(each["schedule"], each["model"]) for each in listed] == [("c", "other")]
    assert "strategies" not in listed[0], "a list of users would be in each line"
    assert operator.get(f"{RUNS}?state=running").json()["count"] == 0
    assert operator.get(f"{RUNS}?state=waiting&model=default").json()["count"] == 1
    assert operator.get(f"{RUNS}?state=nonsense").status_code == 422


def test_a_schedule_runs_now_once_and_stops(operator):
    make_schedule()
    started = operator.post(f"{SCHEDULES}/nightly/run")
    assert started.status_code == 202
    run = operator.get(started["Location"]).json()
    assert (run["state"], run["schedule"], run["by"]) == ("waiting", "nightly", "operate-user")
    assert run["strategies"] == [{"strategy": "popular", "weight": 1.0, "options": {}}]
    again = operator.post(f"{SCHEDULES}/nightly/run")
    assert (again.status_code, again.json()["code"]) == (409, "run-under-way")
    assert WarmupRun.objects.count() == 1
    assert operator.post(f"{SCHEDULES}/nightly/stop").json()["state"] == "stopped"
    assert "No run" in fields(operator.post(f"{SCHEDULES}/nightly/stop"))["schedule"]
    second = operator.post(f"{SCHEDULES}/nightly/run").json()
    assert claim(timezone.now())
    stopping = operator.post(f"{RUNS}/{second['id']}/stop").json()
    assert (stopping["state"], stopping["stop_requested"]) == ("running", True)
    assert operator.get(f"{SCHEDULES}/none").status_code == 404
    assert operator.get(f"{RUNS}/999").status_code == 404


def test_what_schedules_need_is_asked_for_when_they_run(operator):
    ServedModel.objects.create(name="new")
    make_schedule(model="new")
    refused = operator.post(f"{SCHEDULES}/nightly/run")
    assert "'new' has no live version" in fields(refused)["model"]
    make_schedule("empty", strategies=())
    assert "at least one" in fields(operator.post(f"{SCHEDULES}/empty/run"))["strategies"]
    assert not WarmupRun.objects.exists()


def test_a_warm_up_is_started_by_schedule_or_by_strategy(operator):
    make_schedule(budget=77)
    by_name = operator.post(WARM_UP, {"schedule": "nightly"}, format="json")
    assert (by_name.status_code, by_name.json()["budget"]) == (202, 77)
    assert by_name["Location"].endswith(f"{RUNS}/{by_name.json()['id']}")
    free = {"strategy": "popular", "options": {"days": 3.0}, "budget": 5, "rate": 10}
    run = operator.post(WARM_UP, free, format="json").json()
    assert (run["schedule"], run["model"], run["budget"], run["rate"]) == (None, "default", 5, 10)
    assert run["strategies"] == [{"strategy": "popular", "weight": 1.0, "options": {"days": 3.0}}]
    several = {"strategies": [{"strategy": "popular"}, {"strategy": "recent", "weight": 2}]}
    run = operator.post(WARM_UP, several, format="json").json()
    assert [each["weight"] for each in run["strategies"]] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "strategy", "Give a schedule, a strategy"),
        ({"strategy": "populer"}, "strategy", "Did you mean 'popular'"),
        ({"strategy": "popular", "options": {"dayz": 1}}, "options", "'dayz' is no option"),
        ({"strategy": "popular", "options": [1]}, "options", "dictionary"),
        ({"strategy": "popular", "budget": 0}, "budget", "greater than or equal to 1"),
        ({"strategy": "popular", "budget": 10**6}, "budget", "MAX_BUDGET"),
        ({"strategy": "popular", "rate": -1}, "rate", "greater"),
        ({"strategy": "popular", "time_zone": "Mars"}, "time_zone", "no time zone"),
        ({"strategy": "popular", "model_name": "none"}, "model_name", "no model 'none'"),
        ({"strategy": "popular", "alias": "canary"}, "alias", "no live version"),
        ({"strategy": "popular", "budgte": 1}, "budgte", "no such field"),
        ({"strategies": [{"strategy": "popular"}], "options": {}}, "options", "has its own"),
        ({"strategies": []}, "strategies.non_field_errors", "empty"),
        ({"schedule": "none"}, "schedule", "no schedule 'none'"),
        ({"schedule": "nightly", "budget": 5}, "budget", "schedule says this"),
    ],
)
def test_a_wrong_warm_up_says_what_is_wrong_and_leaves_nothing(operator, body, field, says):
    make_schedule()
    assert says in fields(operator.post(WARM_UP, body, format="json"))[field]
    assert not WarmupRun.objects.exists()


def test_who_may_do_what(client_as, operator):
    make_schedule()
    anyone = client_as("predict")
    for method, path in (
        ("get", SCHEDULES),
        ("post", SCHEDULES),
        ("post", f"{SCHEDULES}/nightly/run"),
        ("post", f"{SCHEDULES}/nightly/dry-run"),
        ("get", RUNS),
        ("post", WARM_UP),
    ):
        assert getattr(anyone, method)(path, {}, format="json").status_code == 403
        assert getattr(client_as(None), method)(path, {}, format="json").status_code == 401
    assert operator.get(f"{SCHEDULES}/nightly").status_code == 200
    assert operator.post(SCHEDULES, BODY, format="json").status_code == 403
    assert operator.patch(f"{SCHEDULES}/nightly", {}, format="json").status_code == 403
    assert operator.delete(f"{SCHEDULES}/nightly").status_code == 403
    assert operator.post(f"{SCHEDULES}/nightly/run").status_code == 202


@pytest.mark.contract("A5")
def test_who_is_limited_to_a_model_has_to_do_with_no_other(django_user_model):
    user = django_user_model.objects.create_user("bea")
    limited_to(user, make_row("mine"))
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {AccessToken.for_user(user)}")
    make_schedule("theirs")
    own = make_schedule("own", model="mine")
    run = WarmupRun.objects.create(model="default", strategies=[])

    def refused(answer):
        assert (answer.status_code, answer.json()["code"]) == (403, "model-not-permitted")

    assert [each["name"] for each in client.get(SCHEDULES).json()["results"]] == ["own"]
    assert client.get(RUNS).json()["count"] == 0
    refused(client.get(f"{SCHEDULES}/theirs"))
    refused(client.patch(f"{SCHEDULES}/theirs", {"budget": 1}, format="json"))
    refused(client.delete(f"{SCHEDULES}/theirs"))
    for action in ("run", "dry-run", "stop"):
        refused(client.post(f"{SCHEDULES}/theirs/{action}"))
    refused(client.post(SCHEDULES, BODY, format="json"))
    refused(client.patch(f"{SCHEDULES}/own", {"model": "default"}, format="json"))
    refused(client.get(f"{RUNS}/{run.pk}"))
    refused(client.post(f"{RUNS}/{run.pk}/stop"))
    refused(client.get(f"{RUNS}/{run.pk}/questions"))
    refused(client.post(WARM_UP, {"schedule": "theirs"}, format="json"))
    refused(client.post(WARM_UP, {"strategy": "popular"}, format="json"))
    assert client.post(f"{SCHEDULES}/own/run").status_code == 202
    own.refresh_from_db()
    assert own.model.name == "mine"
    assert Group.objects.filter(name="some").exists()


@pytest.fixture
def serving(fresh, store, db):
    ServedModel.objects.all().delete()
    make_live(store)
    return wiring.get_serving()


@pytest.mark.django_db(transaction=True)
def test_a_dry_run_says_who_and_why_and_a_run_does_it(serving, operator, settings):
    settings.RECSERVE = {**settings.RECSERVE, "WARM_UP": {"SHARE": 1.0, "SCHEDULER": False}}
    Group.objects.get(name="recserve operate")
    ask(*USERS[:4], context={"page": "home"})
    serving.recommender.warm(_request(USERS[1]))
    make_schedule(rate=1000.0)
    planned = operator.post(f"{SCHEDULES}/nightly/dry-run?limit=3").json()
    assert [each["user_id"] for each in planned] == list(USERS[:3])
    assert [each["fresh"] for each in planned] == [False, True, False]
    assert planned[0]["context"] == {"page": "home"}
    assert "asked" in planned[0]["reasons"]["popular"]
    free = operator.post(WARM_UP, {"strategy": "popular", "dry_run": True}, format="json")
    assert (free.status_code, len(free.json())) == (200, 4)
    assert "whole number" in fields(operator.post(f"{SCHEDULES}/nightly/dry-run?limit=x"))["limit"]
    assert not WarmupRun.objects.exists()
    where = operator.post(f"{SCHEDULES}/nightly/run")["Location"]
    assert serving.warm_up.tick()
    run = operator.get(where).json()
    assert (run["state"], run["progress"], run["warmed"], run["fresh"]) == ("done", 1.0, 3, 1)
    questions = operator.get(f"{where}/questions?page_size=2").json()
    assert questions["count"] == 4
    assert questions["results"][0]["user_id"] == USERS[0]
    assert questions["results"][0]["context"] == {"page": "home"}
    assert [each["state"] for each in questions["results"]] == ["warmed", "fresh"]


def _request(user):
    from plugins import RecommendationRequest

    return RecommendationRequest(user, context={"page": "home"})
