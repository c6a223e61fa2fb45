"""Alerts over the API."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from serving_app import alerts
from serving_app.alert_models import Alert, AlertChannel, AlertRule, AlertSilence
from serving_app.core.rollups import Series
from serving_app.rollup_writer import add
from tests.receivers import receiver

pytestmark = [pytest.mark.contract("O3"), pytest.mark.contract("A4"), pytest.mark.django_db]

RULE = {"name": "Slow shop", "metric": "p99", "model": "shop", "threshold": 0.2, "window": 300}


def test_rules_are_a_whole_resource(client_as):
    admin, operator = client_as("administer"), client_as("operate")
    made = admin.post("/api/v1/alert-rules", {**RULE, "channels": ["log"]}, format="json")
    assert made.status_code == 201, made.content
    url = f"/api/v1/alert-rules/{made.json()['id']}"
    assert operator.get(url).json()["channels"] == ["log"]
    changed = admin.patch(url, {"threshold": 0.5, "clear": 0.4}, format="json")
    assert changed.json()["threshold"] == 0.5
    assert LogEntry.objects.filter(change_message__contains="clear, threshold").exists()
    listed = operator.get("/api/v1/alert-rules", {"metric": "p99", "model": "shop"}).json()
    assert [each["name"] for each in listed["results"]] == ["Slow shop"]
    found = operator.get("/api/v1/alert-rules", {"search": "refused", "ordering": "-name"}).json()
    assert [each["name"] for each in found["results"]] == ["Requests are refused"]
    assert admin.delete(url).status_code == 204
    assert not AlertRule.objects.filter(name="Slow shop").exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"metric": "nope"}, "metric"),
        ({"window": 5}, "window"),
        ({"clear": 0.3}, "clear"),
        ({"metric": "batches", "segment": "new"}, "segment"),
        ({"kind": "sometimes"}, "kind"),
        ({"channels": ["pigeon"]}, "channels.0"),
        ({"name": "Requests fail"}, "name"),
        ({"threshold": "high"}, "threshold"),
    ],
)
def test_what_is_wrong_with_a_rule_is_named(client_as, changes, field):
    answer = client_as("administer").post("/api/v1/alert-rules", {**RULE, **changes}, format="json")
    assert answer.status_code == 422
    named = {error["field"].split(".")[0] for error in answer.json()["errors"]}
    assert field.split(".")[0] in named


def test_roles_are_respected(client_as):
    operator, rule = client_as("operate"), AlertRule.objects.first()
    paths = ["alerts", "alert-rules", "alert-silences", "alert-channels"]
    for path in paths:
        assert operator.get(f"/api/v1/{path}").status_code == 200
        assert client_as("predict").get(f"/api/v1/{path}").status_code == 403
        assert client_as(None).get(f"/api/v1/{path}").status_code == 401
    for method, path in (
        ("post", "alert-rules"),
        ("patch", f"alert-rules/{rule.pk}"),
        ("delete", f"alert-rules/{rule.pk}"),
        ("post", "alert-channels"),
        ("post", f"alert-channels/{AlertChannel.objects.get().pk}/test"),
    ):
        answer = getattr(operator, method)(f"/api/v1/{path}", {}, format="json")
        assert answer.status_code == 403, path


def test_operators_silence_and_end_silences(client_as):
    operator = client_as("operate")
    ends = (timezone.now() + timedelta(hours=1)).isoformat()
    body = {"rule": "Requests fail", "ends": ends, "reason": "an upgrade"}
    made = operator.post("/api/v1/alert-silences", body, format="json")
    assert made.status_code == 201, made.content
    assert made.json()["by"] == "operate-user"
    assert AlertSilence.objects.get().rule.name == "Requests fail"
    assert operator.get("/api/v1/alert-silences").json()["count"] == 1
    url = f"/api/v1/alert-silences/{made.json()['id']}"
    assert operator.delete(url).status_code == 204
    past = {**body, "ends": "2020-01-01T00:00:00Z"}
    wrong = operator.post("/api/v1/alert-silences", past, format="json")
    assert wrong.json()["errors"][0]["field"] == "ends"
    assert operator.post("/api/v1/alert-silences", {}, format="json").status_code == 422


def failing():
    now = timezone.now().timestamp()
    add({int(now) - 120: {Series("errors", "m", level="InferenceError"): 100, Series("told"): 1}})
    return now


def test_alerts_come_with_their_history(client_as):
    now = failing()
    AlertRule.objects.filter(name="Requests fail").update(hold=0)
    alerts.evaluate(now)
    client = client_as("operate")
    found = client.get("/api/v1/alerts", {"state": "firing", "severity": "critical"}).json()
    (alert,) = found["results"]
    assert (alert["rule"], alert["value"]) == ("Requests fail", 1.0)
    assert [event["state"] for event in alert["events"]] == ["firing"]
    assert client.get(f"/api/v1/alerts/{alert['id']}").json() == alert
    assert client.get("/api/v1/alerts/999999").status_code == 404
    admin = client_as("administer")
    assert admin.delete(f"/api/v1/alerts/{alert['id']}").status_code == 405
    assert Alert.objects.count() == 1


def test_a_rule_is_tried_on_the_past_before_and_after_it_is_saved(client_as):
    failing()
    admin = client_as("administer")
    body = {"metric": "error_rate", "threshold": 0.5, "window": 120}
    tried = admin.post("/api/v1/alert-rules/preview?from=1h", body, format="json")
    assert tried.status_code == 200, tried.content
    (episode,) = tried.json()["episodes"]
    assert episode["fired"] >= episode["started"]
    assert len(tried.json()["points"]) in {60, 61}
    assert AlertRule.objects.count() == 8, "nothing was saved"
    saved = AlertRule.objects.get(name="Requests fail")
    url = f"/api/v1/alert-rules/{saved.pk}/preview"
    assert len(client_as("operate").get(url, {"from": "2h"}).json()["episodes"]) == 1
    for query in ({"from": "8d"}, {"from": "x"}, {"from": "now", "to": "1h"}):
        answer = client_as("operate").get(url, query)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert admin.post("/api/v1/alert-rules/preview", [1], format="json").status_code == 422


def test_channels_are_checked_and_tested(client_as):
    admin = client_as("administer")
    with receiver() as there:
        body = {"name": "ops", "kind": "webhook", "options": {"url": there.url}}
        made = admin.post("/api/v1/alert-channels", body, format="json")
        assert made.status_code == 201, made.content
        url = f"/api/v1/alert-channels/{made.json()['id']}"
        assert admin.post(f"{url}/test").json() == {"sent": True, "problem": ""}
        there.status = 500
        assert "answered 500" in admin.post(f"{url}/test").json()["problem"]
        wrong = admin.patch(url, {"options": {"url": "file:///etc/passwd"}}, format="json")
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "options")
        unknown = admin.post("/api/v1/alert-channels", {**body, "kind": "pigeon"}, format="json")
        assert unknown.status_code == 422
        assert admin.delete(url).status_code == 204
