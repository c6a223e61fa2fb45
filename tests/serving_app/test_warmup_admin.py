"""Warm-up in the admin: edited and checked, run, watched, stopped."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.utils import timezone

from plugins.apps import reset_registry
from serving_app import wiring
from serving_app.models import ServedModel
from serving_app.warmup_models import ScheduledStrategy, WarmupQuestion, WarmupRun, WarmupSchedule
from serving_app.warmup_runs import claim, request_run, run_of
from tests.serving_app.warmups import USERS, ask, make_live, make_row, make_schedule

pytestmark = [pytest.mark.contract("W3"), pytest.mark.contract("O1"), pytest.mark.django_db]

BASE = "/admin/serving_app/warmupschedule/"
RUNS = "/admin/serving_app/warmuprun/"


@pytest.fixture(autouse=True)
def registered(db):
    reset_registry()
    make_row()


def form(*strategies, **changes):
    """What the browser sends for a schedule with strategies."""
    given = {
        "name": "nightly",
        "model": ServedModel.objects.get(name="default").pk,
        "alias": "",
        "enabled": "on",
        "cron": "30 5 * * *",
        "interval": "",
        "time_zone": "Europe/Berlin",
        "budget": "500",
        "batch_size": "8",
        "rate": "50",
        "strategies-TOTAL_FORMS": str(len(strategies)),
        "strategies-INITIAL_FORMS": "0",
        "strategies-MIN_NUM_FORMS": "1",
        "strategies-MAX_NUM_FORMS": "1000",
    }
    for i, (strategy, options) in enumerate(strategies):
        given |= {
            f"strategies-{i}-strategy": strategy,
            f"strategies-{i}-weight": "1",
            f"strategies-{i}-options": options,
        }
    return {**given, **changes}


def staff(django_user_model, client, role):
    user = django_user_model.objects.create_user("bea", is_staff=True)
    user.groups.add(Group.objects.get(name=f"recserve {role}"))
    client.force_login(user)
    return client


def test_a_schedule_is_made_with_its_strategies(admin_client):
    page = admin_client.get(f"{BASE}add/").content.decode()
    assert "half_life_days: float | None = None" in page, "what each strategy takes is shown"
    answer = admin_client.post(f"{BASE}add/", form(("popular", '{"days": 3.0}'), ("recent", "{}")))
    assert answer.status_code == 302
    schedule = WarmupSchedule.objects.get()
    assert [(row.strategy, row.options) for row in schedule.strategies.all()] == [
        ("popular", {"days": 3.0}),
        ("recent", {}),
    ]
    assert schedule.next_due is not None
    assert "30 5 * * * Europe/Berlin" in admin_client.get(BASE).content.decode()


@pytest.mark.parametrize(
    ("strategies", "changes", "says"),
    [
        ([("popular", '{"dayz": 3}')], {}, "&#x27;dayz&#x27; is no option"),
        ([("popular", '{"days": -1.0}')], {}, "The option &#x27;days&#x27;"),
        ([("popular", "{")], {}, "Enter a valid JSON"),
        ([("populer", "{}")], {}, "Select a valid choice"),
        ([], {}, "Please submit at least 1"),
        ([("popular", "{}")], {"cron": "61 * * * *"}, "bad minute"),
        ([("popular", "{}")], {"time_zone": "Mars"}, "no time zone"),
        ([("popular", "{}")], {"interval": "60"}, "not both"),
        ([("popular", "{}")], {"budget": "0"}, "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_saved(admin_client, strategies, changes, says):
    answer = admin_client.post(f"{BASE}add/", form(*strategies, **changes))
    assert answer.status_code == 200
    assert says in answer.content.decode()
    assert not WarmupSchedule.objects.exists()


def test_a_schedule_of_a_plugin_that_is_gone_can_be_looked_at(admin_client):
    schedule = make_schedule()
    ScheduledStrategy.objects.update(strategy="gone")
    page = admin_client.get(f"{BASE}{schedule.pk}/change/")
    assert '<option value="gone" selected>' in page.content.decode()
    answer = admin_client.post(f"{BASE}{schedule.pk}/run/", follow=True).content.decode()
    assert "no warm-up strategy &#x27;gone&#x27;" in answer


def test_running_now_leads_to_the_run_which_stops(admin_client):
    schedule = make_schedule()
    answer = admin_client.post(f"{BASE}{schedule.pk}/run/")
    run = WarmupRun.objects.get()
    assert answer["Location"] == f"{RUNS}{run.pk}/change/"
    again = admin_client.post(f"{BASE}{schedule.pk}/run/", follow=True).content.decode()
    assert "is not over yet" in again
    assert "Its run goes on" in admin_client.get(f"{BASE}{schedule.pk}/change/").content.decode()
    assert claim(timezone.now())
    assert admin_client.get(f"{BASE}{schedule.pk}/run/").status_code == 403, "not by a link"
    page = admin_client.post(f"{RUNS}{run.pk}/stop/", follow=True)
    assert page.status_code == 200
    run.refresh_from_db()
    assert run.stop_requested
    figures = admin_client.get(f"{RUNS}{run.pk}/progress/").json()
    assert (figures["active"], figures["state"], figures["percent"]) == (True, "running", 0.0)
    assert run.runner in figures["alive"]


def test_actions_of_the_list_run_and_stop(admin_client):
    schedules = [make_schedule(name) for name in ("a", "b")]
    chosen = {"_selected_action": [each.pk for each in schedules]}
    admin_client.post(BASE, {"action": "run_now", **chosen})
    assert WarmupRun.objects.filter(state="waiting").count() == 2
    page = admin_client.get(BASE).content.decode()
    assert page.count("0 %</a>") == 2
    admin_client.post(BASE, {"action": "stop_runs", **chosen})
    assert WarmupRun.objects.filter(state="stopped").count() == 2
    said = admin_client.post(BASE, {"action": "stop_runs", **chosen}, follow=True)
    assert "No run of a waits or runs" in said.content.decode()
    run = request_run(run_of(schedules[0]))
    admin_client.post(RUNS, {"action": "stop_runs", "_selected_action": [run.pk]})
    run.refresh_from_db()
    assert run.state == "stopped"


def test_a_run_shows_what_it_did_and_earned(admin_client):
    schedule = make_schedule()
    run = run_of(schedule)
    figures = {"candidates": 10, "warmed": 6, "earned": 3, "fresh": 2, "refused": 1, "errors": 1}
    for name, value in figures.items():
        setattr(run, name, value)
    run.model_seconds, run.seconds_saved, run.state = 1.5, 0.75, "done"
    run.started = run.ended = timezone.now()
    run.save()
    WarmupQuestion.objects.create(
        run=run, position=0, k=1, score=1.0, user="eve", state="error", problem="who is <eve>?"
    )
    page = admin_client.get(f"{RUNS}{run.pk}/change/").content.decode()
    assert "who is &lt;eve&gt;?" in page
    shown = admin_client.get(f"{RUNS}{run.pk}/progress/").json()
    assert [each["count"] for each in shown["parts"]] == [3, 3, 2, 1, 1]
    assert "3 hits earned (50.0 %)" in shown["benefit"]
    assert "1.50 s spent and 0.75 s saved" in shown["benefit"]
    listed = admin_client.get(RUNS).content.decode()
    assert "50.0 %" in listed
    chart = admin_client.get(f"{BASE}{schedule.pk}/change/").content.decode()
    assert '<svg id="runs"' in chart
    assert "6 warmed, 3 hits earned" in chart
    assert admin_client.get(f"{RUNS}99999/progress/").status_code == 404
    assert admin_client.get(f"{RUNS}99999/change/").status_code == 302


@pytest.mark.contract("A5")
def test_operators_run_and_look_and_administrators_change(client, django_user_model):
    schedule = make_schedule()
    operator = staff(django_user_model, client, "operate")
    assert operator.get(f"{BASE}{schedule.pk}/change/").status_code == 200
    assert operator.post(f"{BASE}{schedule.pk}/change/", form()).status_code == 403
    assert operator.get(f"{BASE}add/").status_code == 403
    assert operator.post(f"{BASE}{schedule.pk}/run/").status_code == 302
    user = django_user_model.objects.get(username="bea")
    user.groups.clear()
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_warmup"))
    run = WarmupRun.objects.get()
    assert operator.get(f"{RUNS}{run.pk}/change/").status_code == 200
    for path in (f"{BASE}{schedule.pk}/run/", f"{RUNS}{run.pk}/stop/"):
        assert operator.post(path).status_code == 403
    assert operator.get(f"{BASE}{schedule.pk}/dry-run/").status_code == 403
    user.user_permissions.clear()
    assert operator.get(f"{RUNS}{run.pk}/progress/").status_code == 403


def test_nobody_edits_what_a_run_was(admin_client):
    run = WarmupRun.objects.create(model="default", strategies=[])
    assert admin_client.get(f"{RUNS}add/").status_code == 403
    assert admin_client.post(f"{RUNS}{run.pk}/change/", {"message": "x"}).status_code == 403
    assert admin_client.post(f"{RUNS}{run.pk}/delete/", {"post": "yes"}).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_a_dry_run_shows_who_in_order_and_why(admin_client, fresh, store):
    ServedModel.objects.all().delete()
    make_live(store)
    schedule = make_schedule(budget=3)
    empty = admin_client.get(f"{BASE}{schedule.pk}/dry-run/").content.decode()
    assert "No strategy names anyone" in empty
    ask(*USERS[:5], context={"page": "<home>"})
    from plugins import RecommendationRequest

    request = RecommendationRequest(USERS[1], context={"page": "<home>"})
    wiring.get_recommender().recommend(request)
    page = admin_client.get(f"{BASE}{schedule.pk}/dry-run/").content.decode()
    assert "deal with 3 questions" in page
    assert page.index(f">{USERS[0]}<") < page.index(f">{USERS[1]}<") < page.index(f">{USERS[2]}<")
    assert "{&quot;page&quot;: &quot;&lt;home&gt;&quot;}" in page
    assert page.count("fresh: skipped") == 1
    assert "popular: asked" in page
    assert not WarmupRun.objects.exists()
    ScheduledStrategy.objects.update(options={"days": -1})
    assert (
        "The option &#x27;days&#x27;"
        in admin_client.get(f"{BASE}{schedule.pk}/dry-run/").content.decode()
    )
