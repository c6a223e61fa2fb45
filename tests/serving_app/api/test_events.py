"""``POST /events``: views, purchases and ratings in bulk."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError
from django.utils import timezone

from serving_app import activity
from serving_app.access import create_token
from serving_app.activity_models import ActivityCount, Event
from serving_app.models import ServedModel

pytestmark = [pytest.mark.contract("W1"), pytest.mark.django_db]

VIEW = {"user_id": "u", "item_id": "i1", "kind": "view"}


@pytest.fixture
def post(client_as, live_model):
    client = client_as("predict")

    def post(*events, status=200, **more):
        body = {"events": list(events), **more}
        answer = client.post("/api/v1/events", body, format="json")
        assert answer.status_code == status, answer.content
        return answer.json()

    return post


def test_events_are_recorded_and_counted(post):
    at = timezone.now().replace(microsecond=0) - timedelta(hours=2)
    done = post(
        VIEW,
        {"user_id": 7, "item_id": 22, "kind": "purchase", "value": 3, "at": at.isoformat()},
        {"user_id": 7, "item_id": 23, "kind": "purchase", "at": int(at.timestamp())},
        {"user_id": "u", "item_id": "i2", "kind": "rating", "value": 4.5, "event_id": "r-1"},
    )
    assert done == {"recorded": 4, "repeated": 0, "refused": 0, "errors": []}
    told = {(e.user_id, e.item, e.kind, e.value, e.event_id) for e in Event.objects.all()}
    assert told == {
        ("u", "i1", "view", None, None),
        (7, "22", "purchase", 3.0, None),
        (7, "23", "purchase", None, None),
        ("u", "i2", "rating", 4.5, "r-1"),
    }
    assert Event.objects.get(item="22").at == Event.objects.get(item="23").at == at
    counts = {(c.user_id, c.kind, c.model): c.count for c in ActivityCount.objects.all()}
    assert counts == {
        ("u", "view", "default"): 1,
        (7, "purchase", "default"): 1,
        ("u", "rating", "default"): 1,
    }


def test_an_event_whose_id_is_known_is_not_taken_again(post):
    events = [{**VIEW, "event_id": f"e{n}"} for n in (1, 2, 1)]
    assert post(*events) == {"recorded": 2, "repeated": 1, "refused": 0, "errors": []}
    before = ActivityCount.objects.get().count
    again = post(*events, {**VIEW, "event_id": "e3"})
    assert (again["recorded"], again["repeated"]) == (1, 3)
    assert Event.objects.count() == 3
    assert ActivityCount.objects.get().count == before + 1


def test_who_loses_a_race_for_an_id_looks_again(post, monkeypatch):
    record, tries = activity._record, []

    def racing(given):
        tries.append(given)
        if len(tries) == 1:
            record(given)  # another process
            raise IntegrityError("UNIQUE constraint failed: serving_app_event.event_id")
        return record(given)

    monkeypatch.setattr(activity, "_record", racing)
    assert post({**VIEW, "event_id": "e"})["repeated"] == 1
    assert Event.objects.count() == ActivityCount.objects.get().count == 1


BAD = [
    ("event", ""),
    ({"item_id": "i", "kind": "view"}, "user_id"),
    ({"user_id": "u", "kind": "view"}, "item_id"),
    ({"user_id": "u", "item_id": "i"}, "kind"),
    ({**VIEW, "kind": "sneeze"}, "kind"),
    ({**VIEW, "kind": []}, "kind"),
    ({**VIEW, "user_id": True}, "user_id"),
    ({**VIEW, "user_id": ""}, "user_id"),
    ({**VIEW, "user_id": 10**120}, "user_id"),
    ({**VIEW, "item_id": "a\0b"}, "item_id"),
    ({**VIEW, "item_id": "i" * 257}, "item_id"),
    ({**VIEW, "kind": "rating"}, "value"),
    ({**VIEW, "value": "3"}, "value"),
    ({**VIEW, "value": 10**400}, "value"),
    ({**VIEW, "at": "yesterday"}, "at"),
    ({**VIEW, "at": "2026-11-24T09:30:00"}, "at"),
    ({**VIEW, "at": True}, "at"),
    ({**VIEW, "at": 0}, "at"),
    ({**VIEW, "at": time.time() + 3600}, "at"),
    ({**VIEW, "event_id": "x" * 129}, "event_id"),
    ({**VIEW, "event_id": 7}, "event_id"),
    ({**VIEW, "model_name": 7}, "model_name"),
    ({**VIEW, "usr_id": "u"}, "usr_id"),
]


@pytest.mark.parametrize(("bad", "field"), BAD)
def test_a_bad_event_is_refused_by_itself(post, bad, field):
    done = post(VIEW, bad, {**VIEW, "user_id": "v"})
    assert (done["recorded"], done["refused"]) == (2, 1)
    (error,) = done["errors"]
    assert (error["index"], error["code"], error["status"]) == (1, "invalid-input", 422)
    assert error["errors"][0]["field"] == field
    assert Event.objects.count() == 2


def test_a_model_that_is_not_there_or_not_permitted_is_refused(post, client_as):
    done = post({**VIEW, "model_name": "nope"}, {**VIEW, "model_name": "default@1"}, VIEW)
    assert [e["code"] for e in done["errors"]] == ["model-not-found", "model-not-found"]
    assert done["recorded"] == 1
    other = ServedModel.objects.create(name="other")
    _, text = create_token("limited", role="predict", models=[other])
    client = client_as(None)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    body = {"events": [VIEW, {**VIEW, "model_name": "other"}]}
    answer = client.post("/api/v1/events", body, format="json").json()
    assert [e["code"] for e in answer["errors"]] == ["model-not-permitted"]
    assert answer["recorded"] == 1


def test_a_body_that_is_no_list_of_events_is_refused(post, client_as, settings):
    settings.RECSERVE = {**settings.RECSERVE, "ACTIVITY": {"MAX_EVENTS": 2}}
    assert post(status=422)["errors"][0]["field"] == "events"
    assert "1 to 2" in post(VIEW, VIEW, VIEW, status=422)["detail"]
    assert post(VIEW, more=1, status=422)["errors"][0]["field"] == "more"
    client = client_as("predict")
    assert client.post("/api/v1/events", [VIEW], format="json").status_code == 422
    assert not Event.objects.exists()


def test_it_needs_the_role_predict(client_as, live_model):
    body = {"events": [VIEW]}
    assert client_as(None).post("/api/v1/events", body, format="json").status_code == 401
    assert client_as("nobody").post("/api/v1/events", body, format="json").status_code == 403


def test_a_time_is_kept_in_utc(post):
    now = datetime.now(UTC).replace(microsecond=0)
    post({**VIEW, "at": now.astimezone(tz=None).isoformat()})
    assert Event.objects.get().at == now
