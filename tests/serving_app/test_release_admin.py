"""Aliases and roll-outs in the admin."""

from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group

from serving_app import promotion, registration, rollout, wiring
from serving_app.models import Activation, Alias, RollOut
from tests.conftest import linear_draft
from tests.serving_app.test_admin import MODELS, VERSIONS, act

pytestmark = [pytest.mark.django_db, pytest.mark.contract("O1"), pytest.mark.contract("S14")]

ROLL_OUTS = "/admin/serving_app/rollout/"
ALIASES = "/admin/serving_app/alias/"


@pytest.fixture
def two(live_model, store):
    return registration.register("default", linear_draft(store, "two.npz", seed=2))


def confirmed(client, url, action, row, **form):
    data = {"action": action, "_selected_action": [row.pk], "confirmed": "yes", **form}
    return client.post(url, data, follow=True).content.decode()


def test_each_step_shows_what_changes_and_does_nothing_before_it_is_confirmed(admin_client, two):
    page = act(admin_client, VERSIONS, "start_roll_out", two).content.decode()
    assert "default@1: 100 % of the users" in page
    assert not RollOut.objects.exists()
    wrong = confirmed(admin_client, VERSIONS, "start_roll_out", two, percents="5, 1")
    assert "must go up" in wrong
    confirmed(admin_client, VERSIONS, "start_roll_out", two, percents="5, 25")
    roll_out = RollOut.objects.get()
    assert (roll_out.percent, roll_out.by.username) == (5, "admin")

    page = act(admin_client, ROLL_OUTS, "raise_share", roll_out).content.decode()
    for line in ("default@1: 95 %", "default@1: 75 %", "default@2: 5 %", "default@2: 25 %"):
        assert line in page
    assert Alias.objects.get(name="canary").percent == 5
    confirmed(admin_client, ROLL_OUTS, "raise_share", roll_out, reason="So far, so good.")
    assert Alias.objects.get(name="canary").percent == 25
    assert "last step" in act(admin_client, ROLL_OUTS, "raise_share", roll_out).content.decode()

    page = act(admin_client, ROLL_OUTS, "promote", roll_out).content.decode()
    assert "default@2: 100 % of the users" in page
    assert two.model.live_version != two
    confirmed(admin_client, ROLL_OUTS, "promote", roll_out)
    assert two.model.live_version == two
    assert "has ended" in act(admin_client, ROLL_OUTS, "abort", roll_out).content.decode()
    page = admin_client.get(f"{ROLL_OUTS}{roll_out.pk}/change/").content.decode()
    for words in ("So far, so good.", "promoted", "share changed", "admin"):
        assert words in page
    assert LogEntry.objects.filter(
        object_id=str(two.model.pk), change_message__contains="promoted"
    ).exists()


def test_a_roll_out_is_aborted(admin_client, two):
    roll_out = rollout.start(two, [5])
    page = act(admin_client, ROLL_OUTS, "abort", roll_out).content.decode()
    assert "default@1: 100 % of the users" in page
    confirmed(admin_client, ROLL_OUTS, "abort", roll_out)
    assert RollOut.objects.get().state == "aborted"


def test_what_cannot_be_rolled_out_is_said(admin_client, two, live_model, store):
    page = act(admin_client, VERSIONS, "start_roll_out", two, live_model).content.decode()
    assert "Choose one version" in page
    page = confirmed(admin_client, VERSIONS, "start_roll_out", live_model, percents="5")
    assert "in production already" in page
    lonely = registration.register("lonely", linear_draft(store))
    page = act(admin_client, VERSIONS, "start_roll_out", lonely).content.decode()
    assert "no live version to compare with" in page


def test_aliases_are_given_moved_and_taken_away(admin_client, two, live_model):
    add = f"{ALIASES}add/"
    for version in (live_model, two):
        data = {"version": version.pk, "name": "champion", "percent": 0}
        assert admin_client.post(add, data).status_code == 302
    assert Alias.objects.get(name="champion").version == two
    for name, percent, says in (
        ("production", 0, "Make a version live"),
        ("7", 0, "no number"),
        ("mine", 5, "Only canary and shadow"),
    ):
        data = {"version": two.pk, "name": name, "percent": percent}
        assert says in admin_client.post(add, data).content.decode()
    assert "This field is required" in admin_client.post(add, {"name": "x"}).content.decode()
    champion = Alias.objects.get(name="champion")
    admin_client.post(f"{ALIASES}{champion.pk}/delete/", {"post": "yes"})
    assert set(Alias.objects.values_list("name", flat=True)) == {"production"}
    production = Alias.objects.get()
    assert admin_client.get(f"{ALIASES}{production.pk}/delete/").status_code == 403


def test_operators_see_and_do_not_change(client, two, django_user_model):
    user = django_user_model.objects.create_user("op", password="x", is_staff=True)
    user.groups.add(Group.objects.get(name="recserve operate"))
    client.force_login(user)
    roll_out = rollout.start(two, [5])
    assert client.get(ROLL_OUTS).status_code == client.get(ALIASES).status_code == 200
    confirmed(client, ROLL_OUTS, "promote", roll_out)
    assert RollOut.objects.get().state == "running"
    assert client.get(f"{ALIASES}add/").status_code == 403


def test_every_page_opens_and_the_model_shows_what_runs_where(admin_client, two):
    promotion.set_alias(two, "shadow", percent=Decimal(20))
    roll_out = rollout.start(two, [5])
    serving = wiring.get_serving()
    serving.reconciler.reconcile()
    serving.reconciler._tell()
    page = admin_client.get(f"{MODELS}{two.model.pk}/change/").content.decode()
    for words in ("canary", "shadow", "production", "5.00", "20.00", "live"):
        assert words in page
    for url in (
        ROLL_OUTS,
        f"{ROLL_OUTS}{roll_out.pk}/change/",
        ALIASES,
        f"{ALIASES}add/",
        f"{ALIASES}{Alias.objects.first().pk}/change/",
        "/admin/serving_app/activation/",
    ):
        assert admin_client.get(url).status_code == 200, url


def test_an_empty_list_says_how_a_roll_out_begins(admin_client, two):
    page = admin_client.get(ROLL_OUTS).content.decode()
    assert "Roll out to some users first" in page
    assert VERSIONS in page
    roll_out = rollout.start(two, ["1", "12.5"], step_seconds=None, by=None)
    page = admin_client.get(f"{ROLL_OUTS}{roll_out.pk}/change/").content.decode()
    assert "1 %, 12.5 %" in page


def test_load_times_are_short(admin_client, live_model):
    Activation.objects.update(load_seconds=1.6020630500006519)
    for page in ("activation/", f"servedmodel/{live_model.model.pk}/change/"):
        text = admin_client.get(f"/admin/serving_app/{page}").content.decode()
        assert "1.60 s" in text
        assert "1.602" not in text
