"""Plugins that fail while the server runs: no request fails for it, and everyone can see it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command

from cache_app import wiring as cache_wiring
from plugins import ModelNotReady, RecommendationRequest, loading
from plugins.apps import get_registry
from serving_app import process_statistics, registration, wiring
from serving_app.core.statistics import Statistics
from serving_app.models import ProcessStatistics
from tests.conftest import linear_draft

pytestmark = [pytest.mark.contract("O7"), pytest.mark.django_db]

SHAKY = '''
from plugins import hookimpl
from plugins.admission.base import BaseAdmissionFilter
from plugins.eviction.fifo import FIFO

works = False

def may_fail(what):
    if not works:
        raise RuntimeError(f"{what} is broken")

class Policy(FIFO):
    """A policy that cannot evict."""
    def evict(self, now):
        may_fail("evict")
        return super().evict(now)

class Filter(BaseAdmissionFilter):
    """A filter that cannot admit."""
    def admit(self, candidate, now):
        may_fail("admit")
        return True

class Source:
    """A source whose database is away."""
    feature_names = ("age", "visits", "spend")
    def features(self, user_id, context):
        may_fail("features")
        return {"age": 1.0, "visits": 2.0, "spend": 3.0}
    def close(self):
        pass

@hookimpl
def recserve_eviction_policies(): return {"shaky": Policy}
@hookimpl
def recserve_admission_filters(): return {"shaky": Filter}
@hookimpl
def recserve_feature_sources(): return {"shaky": Source}
@hookimpl
def recserve_fallback(): may_fail("fallback")
@hookimpl
def recserve_model_activated(): may_fail("model_activated")
'''


@pytest.fixture
def shaky(tmp_path, monkeypatch, settings, store):
    """A plugin that fails in all it does; yields its module, whose ``works`` mends it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shaky_plugin.py").write_text(SHAKY)
    monkeypatch.setattr(
        loading, "_installed", lambda: (EntryPoint("shaky", "shaky_plugin", "recserve"),)
    )
    settings.RECSERVE = {
        **settings.RECSERVE,
        "CACHE": {"L1": {"CAPACITY": 3, "POLICY": "shaky", "ADMISSION": ["shaky"]}},
        "PLUGINS": {"MAX_FAILURES": 3},
    }
    yield lambda: sys.modules["shaky_plugin"]
    sys.modules.pop("shaky_plugin", None)


def ask(n):
    request = RecommendationRequest(f"u{n}", features=[1.0, 2.0, 3.0])
    return wiring.get_recommender().recommend(request).source


def look_around():
    wiring.get_serving().reconciler.reconcile()


def policy():
    guard = cache_wiring._in_memory._rest.level._policy
    return type(guard._policy).__name__


@pytest.fixture
def shaky_model(shaky, fresh, live_model):
    look_around()
    return live_model


def fail_until_off():
    for n in range(12):
        assert ask(n) == "model"
        look_around()


def test_no_request_fails_and_l1_does_without_it(shaky_model):
    assert policy() == "Policy"
    fail_until_off()
    failures = get_registry().failures.by_plugin()["shaky"]
    evicting, admitting = failures["eviction policy shaky"], failures["admission filter shaky"]
    assert (evicting.failures, policy()) == (3, "SIEVE")
    assert evicting.error == "RuntimeError: evict is broken"
    assert (admitting.failures, admitting.off) == (3, 1)
    cache_wiring._in_memory.check()
    assert ask(11) == "l1", "what was asked for last is cached"


def test_an_operator_switches_it_on_again(shaky, shaky_model, client_as):
    fail_until_off()
    shaky().works = True
    assert client_as("predict").post("/api/v1/plugins/shaky/switch-on").status_code == 403
    assert client_as("operate").post("/api/v1/plugins/none/switch-on").status_code == 404
    assert client_as("operate").post("/api/v1/plugins/shaky/switch-on").status_code == 204
    look_around()
    assert policy() == "Policy"
    assert ask(11) == "l1", "what is cached stays"
    for n in range(20, 30):
        assert ask(n) == "model"
        look_around()
    parts = get_registry().failures.by_plugin()["shaky"]
    assert (parts["eviction policy shaky"].off, parts["eviction policy shaky"].failures) == (0, 3)
    assert policy() == "Policy"


def test_the_command_switches_it_on_as_the_api_does(shaky, shaky_model, capsys):
    fail_until_off()
    shaky().works = True
    call_command("switch_on_plugin", "shaky")
    look_around()
    assert policy() == "Policy"
    with pytest.raises(CommandError, match=r"no plugin 'shakey'\. Did you mean 'shaky'"):
        call_command("switch_on_plugin", "shakey")


def test_what_was_said_before_a_process_began_switches_nothing_on(shaky_model):
    call_command("switch_on_plugin", "shaky")
    wiring.stop()
    look_around()
    fail_until_off()
    look_around()
    assert policy() == "SIEVE"


def test_everyone_can_see_it(shaky_model, client_as, client, django_user_model, capsys):
    fail_until_off()
    # Another process had its troubles, too.
    mine = get_registry().failures.by_plugin()
    ProcessStatistics.objects.create(
        process="another",
        seen=process_statistics.timezone.now(),
        serving=Statistics(plugins=mine).as_json(),
        cache={},
    )
    listed = {each["name"]: each for each in client_as("operate").get("/api/v1/plugins").json()}
    parts = {part["part"]: part for part in listed["shaky"]["parts"]}
    shown = parts["eviction policy shaky"]
    assert (shown["failures"], shown["off"]) == (6, 2)
    assert shown["error"] == "RuntimeError: evict is broken"
    assert listed["builtin_eviction"]["parts"] == []
    assert client_as("predict").get("/api/v1/plugins").status_code == 403

    call_command("plugins")
    said = capsys.readouterr().out
    assert "shaky: eviction policy shaky failed 6 times; switched off in 2 processes" in said
    call_command("plugins", "shaky", format="json")
    (described,) = json.loads(capsys.readouterr().out)
    assert {part["part"] for part in described["parts"]} == set(parts)

    wiring.tell_metrics()
    metrics = client_as("operate").get("/metrics").content.decode()
    label = 'part="eviction policy shaky",plugin="shaky"'
    assert f"recserve_plugin_failures_total{{{label}}} 3.0" in metrics
    assert f"recserve_plugin_parts_off{{{label}}} 1.0" in metrics

    olga = django_user_model.objects.create_user("olga", password="x", is_staff=True)
    olga.groups.add(Group.objects.get(name="recserve operate"))
    client.force_login(olga)
    page = client.get("/admin/plugins/").content.decode()
    assert 'data-part="eviction policy shaky" data-off="2"' in page
    assert "failed 6 times" in page
    assert page.count("Switch on again") == 1
    page = client.post("/admin/plugins/", {"switch_on": "shaky"}, follow=True).content.decode()
    assert "shaky is on again in every process" in page
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_repr) == (olga, "shaky")
    assert (
        "no plugin &#x27;x&#x27;"
        in client.post("/admin/plugins/", {"switch_on": "x"}, follow=True).content.decode()
    )


def test_a_fallback_and_a_listener_are_asked_no_more(shaky, fresh):
    registry = get_registry()
    for _ in range(5):
        registry.announce_model_activated("m", 1)
        assert registry.fallback(RecommendationRequest("u"), ModelNotReady("not live")) is None
    counted = registry.failures.by_plugin()["shaky"]
    assert {part: each.failures for part, each in counted.items()} == {
        "fallback": 3,
        "model_activated": 3,
    }


def test_a_feature_source_is_counted_and_goes_on_being_asked(shaky, fresh, store, client_as):
    draft = replace(linear_draft(store), feature_source="shaky")
    registration.promote(registration.register("default", draft))
    look_around()
    predict = client_as("predict")
    for n in range(5):
        answer = predict.post("/api/v1/predict", {"user_id": f"u{n}"}, format="json")
        assert (answer.status_code, answer.json()["code"]) == (500, "inference-error")
    counted = get_registry().failures.by_plugin()["shaky"]["feature source shaky"]
    assert (counted.failures, counted.off) == (5, 0)
    shaky().works = True
    assert predict.post("/api/v1/predict", {"user_id": "u1"}, format="json").status_code == 200
