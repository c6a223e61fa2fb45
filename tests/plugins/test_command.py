"""``manage.py plugins``, the system checks, and the settings behind them."""

from __future__ import annotations

import io
import json

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command

from plugins import Framework, apps
from plugins.apps import get_registry, reset_registry
from plugins.checks import check_plugins
from plugins.conf import plugin_settings
from plugins.registry import KINDS, PluginRecord, PluginRegistry, Registry, register

pytestmark = [pytest.mark.contract("O7"), pytest.mark.django_db]

KIND = next(kind for kind in KINDS if kind.plural == "frameworks")


class Fast(Framework):
    """Loads fast."""

    def __init__(self, *, device: str, threads: int = 2, origin=object):
        pass

    def load(self, spec):
        raise NotImplementedError


RECORDS = (
    PluginRecord(
        "good",
        "1.2",
        "recserve-good",
        "entry point",
        "loaded",
        provides={"frameworks": ("fast",)},
        hooks=("recserve_frameworks",),
        module="good_plugin",
    ),
    PluginRecord(
        "listens", "", "x", "entry point", "loaded", hooks=("recserve_fallback",), module="x"
    ),
    PluginRecord("off", "1.0", "recserve-off", "entry point", "blocked", "by the settings"),
)
FAILED = PluginRecord(
    "broken", "0.1", "recserve-broken", "entry point", "failed", "it provides nothing"
)


@pytest.fixture
def loads(monkeypatch):
    """Sets what loading returns; the process forgets it afterwards."""
    reset_registry()

    def loads(*records):
        registry = PluginRegistry(
            frameworks=Registry(KIND, [register(KIND, "fast", Fast, plugin="good")]),
            records=records,
        )
        monkeypatch.setattr(apps, "load_plugins", lambda **_: registry)
        return registry

    yield loads
    reset_registry()


def run(*args, **options) -> str:
    out = io.StringIO()
    call_command("plugins", *args, stdout=out, **options)
    return out.getvalue()


def test_the_table(loads):
    loads(*RECORDS, FAILED)
    assert run().splitlines() == [
        "name     version  state    provides",
        "good     1.2      loaded   frameworks: fast",
        "listens  -        loaded   recserve_fallback",
        "off      1.0      blocked  -",
        "broken   0.1      failed   -",
        "",
        "broken failed: it provides nothing",
    ]


def test_json(loads):
    loads(*RECORDS)
    good, *_ = json.loads(run(format="json"))
    assert good == {
        "name": "good",
        "version": "1.2",
        "distribution": "recserve-good",
        "origin": "entry point",
        "module": "good_plugin",
        "api": None,
        "parts": [],
        "state": "loaded",
        "reason": "",
        "hooks": ["recserve_frameworks"],
        "provides": {
            "frameworks": [
                {
                    "name": "fast",
                    "summary": "Loads fast.",
                    "options": [
                        {"name": "device", "annotation": "str", "required": True},
                        {"name": "threads", "annotation": "int", "required": False, "default": 2},
                        {
                            "name": "origin",
                            "annotation": "",
                            "required": False,
                            "default": "<class 'object'>",
                        },
                    ],
                }
            ]
        },
    }


def test_one_kind(loads):
    loads(*RECORDS)
    assert [each["name"] for each in json.loads(run(format="json", kind="frameworks"))] == ["good"]
    assert json.loads(run(format="json", kind="executors")) == []
    assert "off" not in run(kind="frameworks")


def test_one_plugin_in_detail(loads):
    loads(*RECORDS, FAILED)
    detail = run("good")
    for expected in (
        "good 1.2",
        "recserve-good (entry point)",
        "frameworks: fast",
        "Loads fast.",
        "device: str  (required)",
        "threads: int = 2",
    ):
        assert expected in detail
    assert "listens" not in detail
    assert "reason:        it provides nothing" in run("broken")
    assert [each["name"] for each in json.loads(run("broken", format="json"))] == ["broken"]


def test_an_unknown_plugin(loads):
    loads(*RECORDS)
    with pytest.raises(CommandError, match=r"no plugin 'goood'. Did you mean 'good'.*listens, off"):
        run("goood")
    with pytest.raises(CommandError, match=r"'fast' is framework of plugin 'good'"):
        run("fast")


def test_strict_fails_after_the_list_is_printed(loads):
    loads(*RECORDS)
    run(strict=True)
    reset_registry()
    loads(*RECORDS, FAILED)
    out = io.StringIO()
    with pytest.raises(CommandError, match="1 of the plugins failed: broken"):
        call_command("plugins", "--strict", stdout=out)
    assert "broken failed: it provides nothing" in out.getvalue()


def test_the_real_plugins_are_listed():
    reset_registry()
    assert "builtin_frameworks" in run()
    assert "numpy_linear" in run(kind="frameworks")


def test_the_registry_is_loaded_once(loads, monkeypatch):
    registry = loads(*RECORDS)
    assert get_registry() is registry
    loads()
    assert get_registry() is registry
    reset_registry()
    assert get_registry() is not registry


def test_settings(settings):
    settings.RECSERVE = {}
    assert plugin_settings().blocked == ()
    settings.RECSERVE = {"PLUGINS": {"BLOCKED": ["b", "a"]}}
    assert plugin_settings().blocked == ("a", "b")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"BLOKED": ["a"]}, "no key 'BLOKED'. Did you mean 'BLOCKED'"),
        ({"BLOCKED": "a"}, "must be a list of plugin names, not 'a'"),
        ({"BLOCKED": [1]}, "must be a list"),
        (["a"], "must be a dict"),
    ],
)
def test_wrong_settings_are_an_error(settings, loads, given, message):
    settings.RECSERVE = {"PLUGINS": given}
    with pytest.raises(ImproperlyConfigured, match=message):
        plugin_settings()
    (error,) = check_plugins()
    assert error.id == "plugins.E001"
    with pytest.raises(CommandError, match=message):
        run()


def test_checks_warn_of_failed_plugins_and_of_blocked_ones_that_are_not_there(settings, loads):
    settings.RECSERVE = {"PLUGINS": {"BLOCKED": ["off", "brokn"]}}
    loads(*RECORDS)
    (unknown,) = check_plugins()
    assert unknown.id == "plugins.W002"
    assert "'brokn'" in unknown.msg
    settings.RECSERVE = {"PLUGINS": {"BLOCKED": ["off"]}}
    reset_registry()
    loads(*RECORDS, FAILED)
    (failed,) = check_plugins()
    assert failed.id == "plugins.W001"
    assert failed.msg == "Plugin broken is left out: it provides nothing"
    assert "recserve-broken" in failed.hint


def test_blocked_plugins_are_blocked_for_real(settings):
    settings.RECSERVE = {"PLUGINS": {"BLOCKED": ["builtin_executors"]}}
    reset_registry()
    try:
        states = {record.name: record.state for record in get_registry().records}
    finally:
        reset_registry()
    assert states["builtin_executors"] == "blocked"
    assert states["builtin_frameworks"] == "loaded"


@pytest.mark.parametrize(
    "given",
    [
        *({"MAX_FAILURES": value} for value in (-1, 1001, 2.5, True, "5")),
        *({"FAILURE_SECONDS": value} for value in (0, -1, float("nan"), True, "60")),
    ],
)
def test_how_many_failures_are_too_many_is_checked(settings, given):
    settings.RECSERVE = {"PLUGINS": given}
    with pytest.raises(ImproperlyConfigured, match=next(iter(given))):
        plugin_settings()
