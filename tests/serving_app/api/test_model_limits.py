"""Whoever is limited to some models sees and changes no other one, on any path."""

import json

import pytest
from django.contrib.auth.models import Group, Permission
from django.urls import get_resolver
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import AccessToken

from serving_app import access, wiring
from serving_app.access_models import GroupModels
from serving_app.core.access import ROLES
from serving_app.models import ServedModel

pytestmark = [pytest.mark.contract("A5"), pytest.mark.django_db]

OF_A_MODEL = [
    ("get", ""),
    ("patch", ""),
    ("delete", ""),
    ("post", "/promote"),
    ("post", "/rollback"),
    ("get", "/promotions"),
    ("get", "/aliases"),
    ("put", "/aliases/shadow"),
    ("delete", "/aliases/shadow"),
    ("get", "/versions"),
    ("post", "/versions"),
    ("get", "/versions/1"),
    ("delete", "/versions/1"),
    ("post", "/versions/1/validate"),
    ("get", "/rollouts"),
    ("post", "/rollouts"),
    ("get", "/rollouts/1"),
    ("post", "/rollouts/1/raise"),
    ("post", "/rollouts/1/promote"),
    ("post", "/rollouts/1/abort"),
]


def limited_to(user, model, *, name="some", roles=ROLES):
    group = Group.objects.create(name=name)
    group.permissions.set(
        Permission.objects.filter(content_type__app_label="serving_app", codename__in=roles)
    )
    GroupModels.objects.create(group=group).served_models.set([model])
    user.groups.add(group)


@pytest.fixture
def user(django_user_model):
    return django_user_model.objects.create_user("bea")


@pytest.fixture
def client(live_model, user):
    """A client that may do everything, but only with the model ``mine``."""
    limited_to(user, ServedModel.objects.create(name="mine"))
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {AccessToken.for_user(user)}")
    return client


def refused(answer):
    assert (answer.status_code, answer.json()["code"]) == (403, "model-not-permitted")


def test_every_path_of_a_model_is_tried_here():
    api = next(p for p in get_resolver().url_patterns if str(p.pattern) == "api/v1/")
    paths = {str(each.pattern) for each in api.url_patterns}
    known = {
        f"models/<str:name>{tail}".replace(
            "/1", f"/<int:{'pk' if 'rollouts' in tail else 'number'}>"
        ).replace("shadow", "<str:alias>")
        for _, tail in OF_A_MODEL
    }
    assert {path for path in paths if path.startswith("models/")} == known


@pytest.mark.parametrize(("method", "tail"), OF_A_MODEL)
def test_another_model_is_refused_whether_there_is_one_or_not(client, method, tail):
    for name in ("default", "unknown"):
        refused(getattr(client, method)(f"/api/v1/models/{name}{tail}", {}, format="json"))
    mine = getattr(client, method)(f"/api/v1/models/mine{tail}", {}, format="json")
    assert mine.status_code != 403


def test_lists_and_statistics_leave_other_models_out(client, client_as):
    question = {"user_id": "u", "features": [1.0, 2.0, 3.0]}
    client_as("predict").post("/api/v1/predict", question, format="json")
    listed = client.get("/api/v1/models").json()
    assert (listed["count"], listed["results"][0]["name"]) == (1, "mine")
    assert client.get("/api/v1/serving/stats").json()["models"] == {}
    assert client.get("/api/v1/cache/stats").json()["models"] == {}
    assert client.get("/api/v1/health").json()["models"] == {}
    everything = client_as("operate")
    for path in ("serving/stats", "cache/stats", "health"):
        assert "default" in everything.get(f"/api/v1/{path}").json()["models"]
    refused(client.get("/api/v1/cache/stats?model=default"))
    refused(client.post("/api/v1/models", {"name": "new"}, format="json"))


def test_the_analysis_is_of_the_own_model_and_alerts_concern_all(client):
    refused(client.get("/api/v1/analysis"))
    refused(client.get("/api/v1/analysis?model=default"))
    assert client.get("/api/v1/analysis?model=mine").status_code == 200
    for path in ("alerts", "alert-rules", "alert-rules/1/preview", "alert-silences"):
        refused(client.get(f"/api/v1/{path}"))
    for path in ("alert-rules", "alert-rules/preview", "alert-silences", "alert-channels/1/test"):
        refused(client.post(f"/api/v1/{path}", {}, format="json"))


def test_only_answers_of_the_own_model_can_be_forgotten(client):
    path = "/api/v1/cache/clear"
    for other in ("all=true", "user_id=7", "model_name=default", "user_id=7&model_name=default"):
        refused(client.delete(f"{path}?{other}"))
    assert client.delete(f"{path}?model_name=mine&user_id=7").status_code == 200
    for scope in (
        {"all": True},
        {"user_id": "7"},
        {"tag": "x"},
        {"segment": "all"},
        {"key": "recserve:mine:1-9f86d081:all:i42:-:-:0"},
        {"model_name": "default"},
        {"question": {"user_id": "7", "features": [1.0, 2.0, 3.0]}},
        {"scopes": [{"model_name": "mine"}, {"model_name": "default", "version": 1}]},
    ):
        refused(client.post("/api/v1/cache/invalidate", scope, format="json"))
    mine = client.post("/api/v1/cache/invalidate", {"model_name": "mine"}, format="json")
    assert mine.status_code == 200


def test_what_concerns_every_model_needs_every_model(client):
    refused(client.get("/metrics"))
    refused(client.get("/api/v1/tokens"))
    refused(client.post("/api/v1/tokens", {"name": "mine", "models": ["mine"]}, format="json"))


def test_limits_are_of_a_permission_and_add_up(user, live_model):
    limited_to(user, live_model.model, roles=["predict"])
    other = ServedModel.objects.create(name="other")
    limited_to(user, other, name="others", roles=["predict", "operate"])
    granted = access.of_user(user)
    assert granted.models == {"default", "other"}
    assert granted.operated == {"other"}
    assert not granted.may("administer")
    user.groups.add(Group.objects.get(name="recserve administer"))
    user = type(user).objects.get(pk=user.pk)
    granted = access.of_user(user)
    assert [granted.models_for(role) for role in ROLES] == [None, None, None]


def test_the_admin_tries_no_other_model(admin_client, client, user, live_model, settings):
    user.is_staff = True
    user.save()
    admin_client.force_login(user)
    page = f"/admin/serving_app/servedmodel/{live_model.model.pk}/try/"
    assert admin_client.get(page).status_code == 403
    own = ServedModel.objects.get(name="mine")
    assert admin_client.get(f"/admin/serving_app/servedmodel/{own.pk}/try/").status_code == 200


def test_a_limited_caller_asks_an_alias_of_its_own_model(client):
    wiring.get_serving()
    asked = {"user_id": "u", "model_name": "mine@canary"}
    answer = client.post("/api/v1/predict", asked, format="json")
    assert answer.status_code in {404, 503}, json.dumps(answer.json())
    refused(client.post("/api/v1/predict", {**asked, "model_name": "default@1"}, format="json"))
