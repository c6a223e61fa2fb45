"""Alerts in the admin."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse
from django.utils import timezone

from serving_app import alerts
from serving_app.alert_models import AlertChannel, AlertDelivery, AlertRule, AlertSilence
from tests.receivers import receiver
from tests.serving_app.api.test_alerts import failing

pytestmark = [pytest.mark.contract("O3"), pytest.mark.django_db]

RULE = {
    "name": "Slow",
    "severity": "warning",
    "metric": "p99",
    "kind": "threshold",
    "above": "on",
    "threshold": "0.5",
    "window": "300",
    "hold": "0",
    "calm": "60",
    "least": "0",
}


def page(client, name, *args, **query):
    answer = client.get(reverse(f"admin:serving_app_{name}", args=args), query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_rules_are_listed_added_and_refused(admin_client):
    listed = page(admin_client, "alertrule_changelist")
    assert "hit_rate changed from yesterday below -0.3 over 900 s" in listed
    url = reverse("admin:serving_app_alertrule_add")
    assert admin_client.post(url, RULE).status_code == 302
    assert AlertRule.objects.get(name="Slow").threshold == 0.5
    wrong = admin_client.post(url, {**RULE, "name": "Other", "segment": "x", "metric": "batches"})
    assert "batches is known by model" in wrong.content.decode()


def test_rules_are_switched_off_and_on(admin_client):
    url, rule = reverse("admin:serving_app_alertrule_changelist"), AlertRule.objects.first()
    for action, enabled in (("disable", False), ("enable", True)):
        admin_client.post(url, {"action": action, "_selected_action": [rule.pk]})
        rule.refresh_from_db()
        assert rule.enabled is enabled


def test_a_rule_is_tried_on_the_past(admin_client):
    failing()
    AlertRule.objects.filter(name="Requests fail").update(hold=0)
    rule = AlertRule.objects.get(name="Requests fail")
    for hours in ("6", "24", "168", "nonsense"):
        shown = page(admin_client, "alertrule_preview", rule.pk, hours=hours)
        assert "It would have fired once." in shown
        assert 'id="episodes"' in shown


def test_alerts_and_notices_are_shown_and_tried_again(admin_client):
    now = failing()
    AlertRule.objects.filter(name="Requests fail").update(hold=0)
    alerts.evaluate(now)
    assert "Requests fail" in page(admin_client, "alert_changelist")
    alert = AlertRule.objects.get(name="Requests fail").alerts.get()
    assert "firing" in page(admin_client, "alert_change", alert.pk)
    assert "firing" in page(admin_client, "alertrule_changelist")
    AlertDelivery.objects.update(state="given_up")
    url = reverse("admin:serving_app_alertdelivery_changelist")
    rows = list(AlertDelivery.objects.values_list("pk", flat=True))
    admin_client.post(url, {"action": "again", "_selected_action": rows})
    assert set(AlertDelivery.objects.values_list("state", flat=True)) == {"waiting"}


def test_a_silence_says_who_made_it(admin_client, admin_user):
    ends = timezone.now() + timedelta(hours=1)
    given = {
        "reason": "an upgrade",
        "starts_0": "2026-01-01",
        "starts_1": "00:00:00",
        "ends_0": f"{ends:%Y-%m-%d}",
        "ends_1": f"{ends:%H:%M:%S}",
    }
    answer = admin_client.post(reverse("admin:serving_app_alertsilence_add"), given)
    assert answer.status_code == 302, answer.content
    assert AlertSilence.objects.get().by == admin_user
    given["ends_0"] = "2025-01-01"
    wrong = admin_client.post(reverse("admin:serving_app_alertsilence_add"), given)
    assert "It ends after it starts." in wrong.content.decode()


def test_a_channel_is_checked_and_tested(admin_client):
    add = reverse("admin:serving_app_alertchannel_add")
    assert "webhook: Posts notices as JSON to a URL" in admin_client.get(add).content.decode()
    with receiver() as there:
        given = {"name": "ops", "kind": "webhook", "enabled": "on", "options": '{"url": "ftp://x"}'}
        assert "no http or https URL" in admin_client.post(add, given).content.decode()
        given["options"] = f'{{"url": "{there.url}"}}'
        assert admin_client.post(add, given).status_code == 302
        chosen = {"action": "test", "_selected_action": [AlertChannel.objects.get(name="ops").pk]}
        url = reverse("admin:serving_app_alertchannel_changelist")
        assert "ops took it" in admin_client.post(url, chosen, follow=True).content.decode()
        there.status = 500
        said = admin_client.post(url, chosen, follow=True).content.decode()
        assert "ops did not take it" in said


def test_who_may_only_look_changes_nothing(client, django_user_model):
    viewer = django_user_model.objects.create_user("viewer", password="x", is_staff=True)
    rule = AlertRule.objects.first()
    client.force_login(viewer)
    preview = reverse("admin:serving_app_alertrule_preview", args=[rule.pk])
    assert client.get(preview).status_code == 403
    views = Permission.objects.filter(codename__startswith="view_alert")
    viewer.user_permissions.add(*views)
    assert client.get(preview).status_code == 200
    url = reverse("admin:serving_app_alertrule_change", args=[rule.pk])
    assert client.get(url).status_code == 200
    assert client.post(url, RULE).status_code == 403
    for name in ("alertrule", "alertsilence", "alertchannel", "alert", "alertdelivery"):
        assert client.get(reverse(f"admin:serving_app_{name}_changelist")).status_code == 200
        assert client.get(reverse(f"admin:serving_app_{name}_add")).status_code == 403
