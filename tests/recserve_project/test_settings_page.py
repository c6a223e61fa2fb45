"""The settings in force: complete, with where each comes from, and without secrets."""

import re

import pytest
from django.contrib.auth.models import Group

from recserve_project.settings_page import ENVIRONMENT, HIDDEN, sections, shown
from tests.journeys.conftest import ROOT

pytestmark = [pytest.mark.django_db, pytest.mark.contract("O1")]

PAGE = "/admin/settings/"
DOCS = (ROOT / "docs" / "settings.md").read_text("utf-8")


def rows(section):
    (found,) = [each for each in sections() if each["name"] == section]
    return {row["key"]: row for row in found["rows"]}


def test_every_variable_of_the_docs_is_there():
    table = DOCS.partition("## Environment")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) - {"RECSERVE_DATA"} == set(
        ENVIRONMENT
    )


def test_every_section_of_the_docs_is_there():
    documented = set(re.findall(r'^## `RECSERVE\["(\w+)"\]`', DOCS, re.MULTILINE))
    assert {section["name"] for section in sections()} == documented


def test_a_value_says_where_it_comes_from(settings, monkeypatch):
    settings.RECSERVE = {
        "SERVING": {"MAX_K": 7, "LANE": "off"},
        "CACHE": {"TTL": 5.0, "L1": {"CAPACITY": 12}},
    }
    serving, cache = rows("SERVING"), rows("CACHE")
    assert (serving["MAX_K"]["value"], serving["MAX_K"]["default"]) == ("7", "1000")
    assert serving["MAX_K"]["source"] == "settings"
    assert serving["DEPTH"]["source"] == "default"
    assert serving["LANE"]["source"] == "settings"
    monkeypatch.setenv("RECSERVE_LANE", "off")
    assert rows("SERVING")["LANE"]["source"] == "RECSERVE_LANE"
    assert (cache["L1.CAPACITY"]["value"], cache["L1.CAPACITY"]["source"]) == ("12", "settings")
    assert cache["L1.POLICY"]["source"] == "default"


def test_secrets_are_hidden(settings):
    settings.RECSERVE = {
        "CACHE": {
            "L2": {"BACKEND": "redis", "URL": "redis://:hunter2@example:6379/0"},
            "L3": {
                "BACKEND": "sentinel", "SENTINELS": ["a:1"], "SERVICE": "s", "USERNAME": "u",
                "PASSWORD": "hunter2", "SENTINEL_PASSWORD": "hunter2",
            },
        }
    }  # fmt: skip
    text = str(list(sections()))
    assert "hunter2" not in text
    assert f"redis://{HIDDEN}@example:6379/0" in text


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        ("x", "password", HIDDEN),
        ("", "password", "—"),
        ({"url": "redis://u:p@h:1"}, "", f"url: redis://{HIDDEN}@h:1"),
        ({"api_token": "t"}, "", f"api_token: {HIDDEN}"),
        (10_000, "remembered_tokens", "10000"),
        ((), "", "—"),
        ([1, "a"], "", "1, a"),
    ],
)  # fmt: skip
def test_values_as_text(value, name, text):
    assert shown(value, name) == text


def test_wrong_settings_are_said_and_hide_nothing_else(admin_client, settings):
    settings.RECSERVE = {"SERVING": {"MAX_K": "many"}}
    page = admin_client.get(PAGE).content.decode()
    assert "must be" in page
    assert "REMEMBERED_TOKENS" in page
    assert "MAX_EXCLUDE" not in page


def test_only_operators_see_it(client, django_user_model):
    user = django_user_model.objects.create_user("vera", password="x", is_staff=True)
    client.force_login(user)
    assert client.get(PAGE).status_code == 403
    user.groups.add(Group.objects.get(name="recserve operate"))
    page = client.get(PAGE).content.decode()
    assert "RECSERVE_DATABASE_URL" in page
