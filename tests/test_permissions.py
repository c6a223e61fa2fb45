"""Who may do what, over every page of the admin and every path of the API that there is.

What is registered is what is tested: a new page or path is covered as it comes.
"""

import re
from functools import cache

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.test import RequestFactory
from django.urls import get_resolver, reverse

from serving_app.api import urls as api_urls

pytestmark = [pytest.mark.django_db, pytest.mark.contract("O1"), pytest.mark.contract("A5")]

MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)
CHANGES = ("add", "change", "delete")
ADMINISTRATORS = {
    "auth.User", "auth.Group", "serving_app.ServiceToken", "serving_app.SigningKey",
    "serving_app.ServedModel", "serving_app.ModelVersion", "serving_app.Alias",
    "serving_app.RollOut",
}  # fmt: skip
"""What operators see, if at all, and do not change."""


@pytest.fixture
def person(client, django_user_model):
    """Returns a staff user of a group, or with the permissions to view alone, signed in."""

    def person(role=None, *, views=False):
        user = django_user_model.objects.create_user("somebody", password="x", is_staff=True)
        if role is not None:
            user.groups.add(Group.objects.get(name=f"recserve {role}"))
        if views:
            user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
        client.force_login(user)
        return user

    return person


def page_of(model, what):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{what}")


def may(model, user):
    request = RequestFactory().get("/")
    request.user = user
    owner = admin.site._registry[model]
    allowed = {what for what in CHANGES if getattr(owner, f"has_{what}_permission")(request)}
    return allowed, set(owner.get_actions(request))


def test_a_viewer_sees_and_cannot_change(client, person):
    user = person(views=True)
    for model in MODELS:
        assert client.get(page_of(model, "changelist")).status_code == 200, model
        assert client.get(page_of(model, "add")).status_code == 403, model
        assert client.post(page_of(model, "add"), {"name": "x"}).status_code == 403, model
        assert may(model, user) == (set(), set()), model


def test_staff_without_a_permission_sees_nothing(client, person):
    user = person()
    for model in MODELS:
        assert client.get(page_of(model, "changelist")).status_code == 403, model
        assert may(model, user)[0] == set(), model


def test_an_operator_cannot_administer(client, person):
    user = person("operate")
    labels = {model._meta.label: model for model in MODELS}
    for label in ADMINISTRATORS:
        assert may(labels[label], user) == (set(), set()), label
        assert client.post(page_of(labels[label], "add"), {"name": "x"}).status_code == 403, label
    mine = set(Group.objects.get(name="recserve operate").permissions.values_list("pk", flat=True))
    theirs = Group.objects.get(name="recserve administer").permissions
    assert mine <= set(theirs.values_list("pk", flat=True))


PUBLIC_PAGES = {
    "index", "login", "logout", "password_change", "password_change_done", "jsi18n",
    "autocomplete", "search", "view_on_site",
}  # fmt: skip
PAGES = sorted(
    each.name
    for each in admin.site.get_urls()
    if getattr(each, "name", None)
    and each.name not in PUBLIC_PAGES
    and not each.pattern.converters
    and not each.pattern.regex.groups
)


def test_pages_of_our_own_are_for_operators(client, person):
    user = person("predict")
    operate = Group.objects.get(name="recserve operate")
    for name in PAGES:
        url = reverse(f"admin:{name}")
        assert client.get(url).status_code == 403, name
        assert client.post(url).status_code in {403, 405}, name
    user.groups.set([operate])
    for name in PAGES:
        assert client.get(reverse(f"admin:{name}")).status_code != 403, name
    client.logout()
    for name in PAGES:
        assert client.get(reverse(f"admin:{name}")).status_code in {302, 403}, name


def test_the_pages_are_all_there():
    assert {"cache", "cache_entries", "dashboard", "history", "plugins", "settings"} <= set(PAGES)


PUBLIC = {
    "health", "health-live", "health-ready", "token", "token-refresh", "token-revoke", "schema",
    "api-docs", "unknown",
}  # fmt: skip
PREDICT = {"predict", "predict-batch", "events", "drift-features"}
"""What programs that ask for recommendations may call."""


@cache
def calls():
    """Return every path of the API by name, with its methods."""
    found = []
    for pattern in api_urls.urlpatterns:
        view = pattern.callback
        methods = getattr(view, "actions", None)
        if methods is None:
            handled = getattr(view, "cls", None) or view.view_class
            methods = [m for m in ("get", "post", "put", "patch", "delete") if hasattr(handled, m)]
        values = {
            name: 7 if "int" in type(converter).__name__.lower() else "x"
            for name, converter in pattern.pattern.converters.items()
        }
        if pattern.name not in PUBLIC:
            url = get_resolver().reverse(pattern.name, **values)
            found += [(pattern.name, method, f"/{url}", view) for method in methods]
    return found


CALLS = calls()


def status(client, method, url):
    return getattr(client, method)(url, {}, format="json").status_code


def role_of(view, method, url):
    """Return the permission that a view asks for."""
    handled = getattr(view, "cls", None) or view.view_class
    instance = handled(**getattr(view, "initkwargs", {}))
    request = RequestFactory().generic(method.upper(), url)
    instance.request = request
    instance.action = getattr(view, "actions", {}).get(method)
    (permission,) = instance.get_permissions()
    return permission.role(request)


def test_every_path_asks_for_its_role(client_as, fresh):
    nobody, stranger = client_as(None), client_as("nobody")
    predicts, operates = client_as("predict"), client_as("operate")
    assert len(CALLS) > 40
    for name, method, url, view in CALLS:
        call = f"{method} {url}"
        assert status(nobody, method, url) == 401, call
        assert status(stranger, method, url) == 403, call
        wanted = role_of(view, method, url)
        assert (status(predicts, method, url) == 403) == (wanted != "predict"), call
        assert wanted != "predict" or name in PREDICT, call
        assert (status(operates, method, url) == 403) == (wanted == "administer"), call
        if method != "get" and re.match(r"/api/v1/(models|tokens)\b", url):
            assert wanted == "administer", call
