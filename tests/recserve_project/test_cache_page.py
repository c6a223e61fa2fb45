"""The admin's page from which an operator forgets cached answers."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group

from cache_app.models import Invalidation
from plugins import RecommendationRequest
from serving_app import wiring

pytestmark = [pytest.mark.django_db, pytest.mark.contract("C8"), pytest.mark.contract("O1")]

PAGE = "/admin/cache/"


@pytest.fixture
def operator_client(client, django_user_model):
    user = django_user_model.objects.create_user("olga", password="x", is_staff=True)
    user.groups.add(Group.objects.get(name="recserve operate"))
    client.force_login(user)
    return client


def ask(user):
    request = RecommendationRequest(
        user, features=[1.0, 2.0, 3.0], context={"tags": [f"of {user}"]}
    )
    return wiring.get_recommender().recommend(request).cached


@pytest.mark.parametrize(
    ("kind", "name", "says", "left"),
    [
        ("user_id", "ann", "a user ann", {"bob"}),
        ("tag", "of bob", "a tag of bob", {"ann"}),
        ("model_name", "default", "a model default", set()),
        ("segment", "all", "a segment all", set()),
    ],
)
def test_an_operator_forgets_one_thing_and_the_history_says_so(
    operator_client, live_model, kind, name, says, left
):
    for user in ("ann", "bob"):
        ask(user)
    page = operator_client.post(PAGE, {"kind": kind, "name": name}, follow=True)
    assert page.redirect_chain == [(PAGE, 302)]
    text = page.content.decode()
    assert f"Forgotten: the answers of {says}." in text
    assert "olga" in text
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.object_repr) == ("olga", says)
    assert entry.object_id == str(Invalidation.objects.last().epoch)
    wiring.get_serving().reconciler.reconcile()
    assert {user for user in ("ann", "bob") if ask(user)} == left


def test_everything_is_forgotten_only_once_it_is_confirmed(operator_client, live_model):
    ask("ann")
    asked = operator_client.post(PAGE, {"kind": "all", "name": ""}).content.decode()
    assert "Yes, forget everything" in asked
    assert not LogEntry.objects.exists()
    wiring.get_serving().reconciler.reconcile()
    assert ask("ann") is True
    done = operator_client.post(PAGE, {"kind": "all", "confirmed": "on"}, follow=True)
    assert "Forgotten: the answers of everything." in done.content.decode()
    assert LogEntry.objects.count() == 1
    wiring.get_serving().reconciler.reconcile()
    assert ask("ann") is False


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "user_id", "name": ""}, "Say which."),
        ({"kind": "all", "name": "ann"}, "leave this empty"),
        ({"kind": "key", "name": "rubbish"}, "A key reads"),
        ({"kind": "tag", "name": "x" * 101}, "1 to 100"),
        ({"kind": "user_id", "name": "x" * 999}, "longer than any"),
        ({"kind": "colour", "name": "red"}, "Select a valid choice"),
    ],
)
def test_what_is_wrong_is_said_in_the_form(operator_client, fresh, given, says):
    before = list(Invalidation.objects.values_list("epoch", flat=True))
    page = operator_client.post(PAGE, given)
    assert page.status_code == 200
    assert says in page.content.decode()
    assert list(Invalidation.objects.values_list("epoch", flat=True)) == before
    assert not LogEntry.objects.exists()


def test_only_staff_that_may_operate_gets_in(client, django_user_model, fresh):
    assert client.get(PAGE).status_code == 302
    user = django_user_model.objects.create_user("pete", password="x", is_staff=True)
    user.groups.add(Group.objects.get(name="recserve predict"))
    client.force_login(user)
    assert client.get(PAGE).status_code == 403
    assert client.post(PAGE, {"kind": "all", "confirmed": "on"}).status_code == 403
    assert not LogEntry.objects.exists()
