"""Segments by the API: the resource, its members, and what a rule would select."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.utils import timezone

from serving_app import access, wiring
from serving_app.access_models import GroupModels
from serving_app.core.segment_rules import Condition
from serving_app.segment_evaluation import Evaluator
from serving_app.segment_models import Segment, SegmentEvaluation, SegmentMember
from serving_app.segment_simulation import simulate
from serving_app.wiring import get_recommender, get_serving
from tests.serving_app.test_segments import bought, form, request, seen, segment

pytestmark = [
    pytest.mark.contract("C10"),
    pytest.mark.contract("A4"),
    pytest.mark.contract("O1"),
    pytest.mark.django_db,
]

URL = "/api/v1/segments"
DAY = timedelta(days=1)
MANY = {"field": "requests", "comparison": "ge", "value": 10, "window_days": 14}
BODY = {"name": "power", "order": 5, "conditions": [MANY], "ttl": 60, "share": 0.25}


@pytest.fixture
def admin(client_as, fresh):
    return client_as("administer")


def refused(answer, status=422):
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    return answer.content.decode()


def test_a_segment_is_made_changed_found_and_deleted(admin):
    made = admin.post(URL, BODY, format="json")
    assert made.status_code == 201
    shown = made.json()
    assert (shown["rule"], shown["members"]) == ("requests ≥ 10 in 14 days", 0)
    assert shown["conditions"] == [{**MANY, "value": 10.0, "window_days": 14.0}]
    edited = SegmentEvaluation.row().edited
    one = f"{URL}/power"
    changed = admin.patch(one, {"ttl": None, "enabled": False}, format="json").json()
    assert (changed["ttl"], changed["enabled"], len(changed["conditions"])) == (None, False, 1)
    other = {"field": "age_days", "comparison": "lt", "value": 7}
    assert admin.patch(one, {"conditions": [other]}, format="json").json()["rule"] == (
        "days since first seen < 7"
    )
    assert SegmentEvaluation.row().edited > edited
    segment("new")
    assert [row["name"] for row in admin.get(URL).json()["results"]] == ["power", "new"]
    assert [r["name"] for r in admin.get(f"{URL}?enabled=true").json()["results"]] == ["new"]
    assert admin.get(f"{URL}?ordering=-name&page_size=1").json()["results"][0]["name"] == "power"
    assert admin.delete(one).status_code == 204
    refused(admin.get(one), 404)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "all"}, "everyone else"),
        ({"name": "simulate"}, "another meaning"),
        ({"name": "a/b"}, "letters, digits"),
        ({"share": 2}, "0.001 to 0.9"),
        ({"share": "half"}, "valid number"),
        ({"ttl": 1e9}, "MAX_TTL"),
        ({"policy": "lrru"}, "Did you mean"),
        ({"alias": "nobody"}, "No model has"),
        ({"conditions": [{**MANY, "field": "colour"}]}, "not a valid choice"),
        ({"conditions": [{**MANY, "field": "age_days"}]}, "no window"),
        ({"conditions": [{**MANY, "window_days": 400}]}, "not kept"),
        ({"conditions": [{"field": "views"}]}, "required"),
        ({"conditions": "many"}, "list"),
        ({"conditions": [MANY] * 21}, "no more than 20"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(admin, change, says):
    assert says in refused(admin.post(URL, {**BODY, **change}, format="json"))
    assert not Segment.objects.exists()


def test_a_name_is_given_once(admin):
    admin.post(URL, BODY, format="json")
    assert "already exists" in refused(admin.post(URL, BODY, format="json"))


def test_operators_read_and_only_administrators_of_every_model_change(client_as, fresh):
    segment("power")
    assert client_as("predict").get(URL).status_code == 403
    operator = client_as("operate")
    assert operator.get(f"{URL}/power").status_code == 200
    assert operator.post(URL, {**BODY, "name": "x"}, format="json").status_code == 403
    assert operator.delete(f"{URL}/power").status_code == 403
    limited = client_as("administer")
    assert limited.patch(f"{URL}/power", {"order": 1}, format="json").status_code == 200
    GroupModels.objects.create(group=Group.objects.get(name="recserve administer"))
    access.reset()
    assert "model-not-permitted" in refused(
        limited.patch(f"{URL}/power", {"order": 2}, format="json"), 403
    )
    assert "model-not-permitted" in refused(limited.get(f"{URL}/power/members"), 403)


def test_members_are_listed(admin):
    segment("power", ("requests", "ge", 10))
    now = timezone.now()
    seen(7, now, 12)
    seen("7", now - DAY, 20)
    seen("v", now, 1)
    Evaluator("here").evaluate()
    answer = admin.get(f"{URL}/power/members").json()
    assert [row["user_id"] for row in answer["results"]] == [7, "7"]
    assert answer["count"] == 2
    assert [r["user_id"] for r in admin.get(f"{URL}/all/members").json()["results"]] == ["v"]
    assert admin.get(f"{URL}/power").json()["members"] == 2
    refused(admin.get(f"{URL}/nobody/members"), 404)


def test_a_rule_is_tried_before_anything_is_saved(admin, client_as):
    now = timezone.now()
    for n in range(6):
        seen(f"u{n}", now - n * DAY, 5 * n)
    bought("u5", "a", now)
    segment("new", ("age_days", "lt", 2.5), order=1)
    segment("buyers", ("purchases", "ge", 1), order=9)
    body = {"order": 5, "conditions": [MANY]}
    # Users of whom nobody has made a row yet are found, too.
    for _ in range(2):
        found = client_as("operate").post(f"{URL}/simulate", body, format="json").json()
        assert (found["known"], found["looked_at"]) == (6, 6)
        assert (found["selected"], found["taken"], found["estimate"]) == (4, 3, 3)
        assert found["leaving"] == {"all": 2, "buyers": 1}
        assert found["overlaps"] == [
            {"segment": "new", "selected": 1, "first": True},
            {"segment": "buyers", "selected": 1, "first": False},
        ]
        users = {row["user_id"]: (row["segment"], row["requests"]) for row in found["sample"]}
        assert users == {"u3": ("all", 15), "u4": ("all", 20), "u5": ("buyers", 25)}
        Evaluator("here").evaluate()
    assert Segment.objects.count() == 2
    again = {"name": "buyers", "order": 0, "conditions": []}
    found = admin.post(f"{URL}/simulate", again, format="json").json()
    assert (found["taken"], [o["segment"] for o in found["overlaps"]]) == (6, ["new"])
    assert "no window" in refused(
        admin.post(
            f"{URL}/simulate", {"conditions": [{**MANY, "field": "age_days"}]}, format="json"
        )
    )
    refused(admin.get(f"{URL}/simulate"), 405)


def test_of_many_users_a_sample_is_tried(fresh, monkeypatch):
    monkeypatch.setattr("serving_app.segment_simulation.MOST", 10)
    now = timezone.now()
    SegmentMember.objects.bulk_create(
        SegmentMember(user=f"u{n}", since=now, first_seen=now, last_seen=now) for n in range(35)
    )
    found = simulate([Condition("age_days", "lt", 1.0)], order=1)
    assert found.known == 35
    assert 8 <= found.looked_at <= 10
    assert found.estimate == 35


ADD = "/admin/serving_app/segment/add/"


def test_the_admin_shows_what_a_rule_would_select(fresh, admin_client):
    now = timezone.now()
    seen("u", now, 12)
    seen("v", now, 2)
    button = re.compile(r'<button[^>]*name="try_rule"[^>]*>\s*What would it select\?')
    assert button.search(admin_client.get(ADD).content.decode())
    answer = admin_client.post(ADD, form(try_rule=""))
    page = answer.content.decode()
    assert "It would take 1 users" in page
    assert "requests ≥ 10 in 7 days" in page
    assert [each.user for each in answer.context["found"].sample] == ["u"]
    assert not Segment.objects.exists()
    assert "already kept" not in page
    hidden = dict(answer.context["hidden"])
    assert admin_client.post(ADD, {**hidden, "_save": ""}).status_code == 302
    row = Segment.objects.get()
    change = f"/admin/serving_app/segment/{row.pk}/change/"
    condition = row.conditions.get()
    edit = form(
        **{"conditions-INITIAL_FORMS": "1", "conditions-0-id": condition.pk},
        **{"conditions-0-segment": row.pk, "conditions-0-value": "1", "try_rule": ""},
    )
    assert "It would take 2 users" in admin_client.post(change, edit).content.decode()
    condition.refresh_from_db()
    assert condition.value == 10, "nothing is saved"
    wrong = admin_client.post(ADD, form(name="all", try_rule="")).content.decode()
    assert "everyone else" in wrong


def test_the_list_shows_hits_and_how_full_a_share_is(live_model, admin_client, settings):
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": {"L1": {"CAPACITY": 50_000}}}
    wiring.stop()
    get_serving().reconciler.reconcile()
    segment("power", ("requests", "ge", 10), share=0.001)
    seen("u", timezone.now(), 12)
    Evaluator("here").evaluate()
    get_serving().reconciler.reconcile()
    for _ in range(4):
        get_recommender().recommend(request())
    get_serving().reconciler._told = 0.0
    get_serving().reconciler.reconcile()
    page = admin_client.get("/admin/serving_app/segment/").content.decode()
    assert "75.0%" in page
    assert "2%" in page
