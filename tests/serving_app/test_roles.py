"""What the roles' groups may, through upgrades."""

import io

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.urls import reverse

from serving_app.access_models import RoleGrant
from serving_app.roles import give

pytestmark = [pytest.mark.django_db, pytest.mark.contract("A5")]


def codenames(name):
    return set(Group.objects.get(name=name).permissions.values_list("codename", flat=True))


def migrate():
    """Do what `manage.py migrate` does at its end; return what is new by group."""
    return give(apps.get_app_config("serving_app"), "default", apps)


def an_upgrade_brings(codename):
    content = Permission.objects.filter(content_type__app_label="serving_app").first().content_type
    return Permission.objects.create(codename=codename, name=codename, content_type=content)


def test_an_upgrade_gives_what_is_new_to_whom_it_concerns():
    an_upgrade_brings("view_news")
    an_upgrade_brings("change_news")

    assert migrate() == {
        "recserve operate": ["view_news"],
        "recserve administer": ["view_news", "change_news"],
    }

    assert "view_news" in codenames("recserve operate")
    assert "change_news" not in codenames("recserve operate")
    assert codenames("recserve predict") == {"predict"}
    assert migrate() == {}


def test_what_was_taken_away_stays_away():
    operate = Group.objects.get(name="recserve operate")
    operate.permissions.remove(Permission.objects.get(codename="view_alertrule"))
    an_upgrade_brings("view_news")

    assert migrate()["recserve operate"] == ["view_news"]

    assert "view_alertrule" not in codenames("recserve operate")
    operate.permissions.clear()
    assert "recserve operate" not in migrate()
    assert codenames("recserve operate") == set()


def test_a_group_from_before_grants_were_remembered_gets_only_what_is_newer_than_what_it_has():
    operate = Group.objects.get(name="recserve operate")
    old = Permission.objects.get(codename="view_modelversion")
    newest = an_upgrade_brings("view_known")
    migrate()
    RoleGrant.objects.all().delete()
    operate.permissions.remove(old)
    an_upgrade_brings("view_news")

    assert migrate()["recserve operate"] == ["view_news"]

    assert newest.codename in codenames("recserve operate")
    assert old.codename not in codenames("recserve operate")


def test_a_group_from_before_that_was_emptied_stays_empty():
    RoleGrant.objects.all().delete()
    Group.objects.get(name="recserve operate").permissions.clear()

    migrate()

    assert codenames("recserve operate") == set()


def test_a_group_that_was_deleted_comes_back_as_new():
    before = codenames("recserve operate")
    Group.objects.get(name="recserve operate").delete()

    assert "recserve operate" not in migrate()  # nobody is in it

    assert codenames("recserve operate") == before


def test_migrating_says_what_it_gave():
    an_upgrade_brings("view_news")
    said = io.StringIO()

    call_command("migrate", stdout=said)

    assert "The group 'recserve operate' may from now on: view_news" in said.getvalue()


def test_the_admin_shows_what_was_given_and_what_is_gone(admin_client):
    operate = Group.objects.get(name="recserve operate")
    operate.permissions.remove(Permission.objects.get(codename="view_alertrule"))

    page = admin_client.get(reverse("admin:auth_group_change", args=[operate.pk]))

    inline = next(
        each for each in page.context["inline_admin_formsets"] if each.opts.model is RoleGrant
    )
    shown = {form.instance.codename: form.instance.still for form in inline.formset.forms}
    assert shown["view_alertrule"] is False
    assert shown["view_modelversion"] is True
    other = Group.objects.create(name="ours")
    page = admin_client.get(reverse("admin:auth_group_change", args=[other.pk]))
    models = {each.opts.model for each in page.context["inline_admin_formsets"]}
    assert RoleGrant not in models
