"""The admin's page of logged requests."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Group, Permission
from django.utils import timezone

from serving_app import registration, wiring
from serving_app.payload_log import flush
from serving_app.payload_models import LoggedRequest
from serving_app.request_log import user_hash
from tests.conftest import linear_draft

pytestmark = [pytest.mark.contract("A8"), pytest.mark.contract("O1")]

PAGE = "/admin/serving_app/loggedrequest/"


@pytest.fixture
def logged(live_model, client_as, settings):
    """Three requests, kept with their answers."""
    settings.RECSERVE = {**settings.RECSERVE, "LOGGING": {"PAYLOADS": 1.0}}
    predict = client_as("predict")
    for user in ("ann", 7, "bob"):
        body = {"user_id": user, "features": [1, 2, len(str(user))], "k": 3}
        assert predict.post("/api/v1/predict", body, format="json").status_code == 200
    flush()
    return {row.body["user_id"]: row for row in LoggedRequest.objects.all()}


@pytest.fixture
def operator(client, django_user_model):
    user = django_user_model.objects.create_user("olga", password="x", is_staff=True)
    user.groups.add(Group.objects.get(name="recserve operate"))
    view = Permission.objects.get(codename="view_loggedrequest")
    user.user_permissions.add(view)
    client.force_login(user)
    return client


def found(client, term):
    page = client.get(PAGE, {"q": term})
    assert page.status_code == 200
    return {row.body["user_id"] for row in page.context["cl"].result_list}


def test_requests_are_found_by_what_one_knows_of_them(logged, operator):
    everyone = {"ann", 7, "bob"}
    assert found(operator, "") == everyone
    assert found(operator, "ann") == {"ann"}
    assert found(operator, " 7 ") == {7}
    assert found(operator, user_hash("bob")) == {"bob"}
    assert found(operator, user_hash(7)) == {7}
    assert found(operator, "default") == everyone
    assert found(operator, "default@1") == everyone
    assert found(operator, "default@2") == set()
    assert found(operator, logged["ann"].request_id) == {"ann"}
    for term in ("nobody", "@", "default@" + "9" * 30, "9" * 30, "-", "%", "0" * 16):
        assert found(operator, term) == set()


def test_they_are_found_by_time(logged, operator):
    LoggedRequest.objects.filter(pk=logged["ann"].pk).update(at=timezone.now() - timedelta(days=40))
    recent = operator.get(PAGE, {"at__gte": (timezone.now() - timedelta(days=1)).isoformat()})
    assert {row.body["user_id"] for row in recent.context["cl"].result_list} == {7, "bob"}


def test_one_is_shown_with_its_answer_and_cannot_be_changed(logged, operator):
    row = logged["ann"]
    page = operator.get(f"{PAGE}{row.pk}/change/").content.decode()
    assert "&quot;user_id&quot;: &quot;ann&quot;" in page
    assert row.items[0] in page
    assert 'name="_save"' not in page
    assert operator.post(f"{PAGE}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert operator.get(f"{PAGE}add/").status_code == 403


def test_only_who_may_see_them_does(logged, client, django_user_model):
    user = django_user_model.objects.create_user("piet", password="x", is_staff=True)
    user.groups.add(Group.objects.get(name="recserve predict"))
    client.force_login(user)
    assert client.get(PAGE).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_loggedrequest"))
    page = client.get(PAGE)
    assert page.status_code == 200
    assert b"run_again" not in page.content, "who may not operate runs nothing"


def run(client, rows, **more):
    chosen = [row.pk for row in rows]
    return client.post(PAGE, {"action": "run_again", ACTION_CHECKBOX_NAME: chosen, **more})


def test_requests_are_run_again_and_compared(logged, operator, store):
    asked = run(operator, logged.values())
    assert asked.status_code == 200
    assert b"Run 3 requests of default again" in asked.content
    same = run(operator, logged.values(), confirmed="1", version="1").content.decode()
    assert same.count('data-same="yes"') == 3
    assert "the same" in same

    registration.promote(registration.register("default", linear_draft(store, "two.npz", seed=2)))
    wiring.get_serving().reconciler.reconcile()
    other = run(operator, logged.values(), confirmed="1", version="2")
    assert other.context["summary"]["compared"] == 3
    assert b'data-same="no"' in other.content
    wrong = run(operator, logged.values(), confirmed="1", version="99")
    assert "Select a valid choice" in wrong.content.decode()


def test_what_cannot_be_run_again_is_said(logged, operator):
    LoggedRequest.objects.filter(pk=logged["ann"].pk).update(model="gone")
    mixed = operator.post(
        PAGE,
        {"action": "run_again", ACTION_CHECKBOX_NAME: [row.pk for row in logged.values()]},
        follow=True,
    )
    assert "at most 100 requests of one model" in mixed.content.decode()
    gone = operator.post(
        PAGE, {"action": "run_again", ACTION_CHECKBOX_NAME: [logged["ann"].pk]}, follow=True
    )
    assert "No version of gone is live here" in gone.content.decode()
    LoggedRequest.objects.filter(pk=logged[7].pk).update(body={"user_id": 7})
    half = run(operator, [logged[7]], confirmed="1", version="1").content.decode()
    assert "not whole" in half
