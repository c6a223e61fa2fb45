"""Plugins load through one door, and a bad one is reported and harmless."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest

from plugins import Recommendation, RecommendationRequest, Unavailable, loading
from plugins.loading import load_plugins

pytestmark = pytest.mark.contract("O7")

GOOD = '''
from plugins import Recommendation, hookimpl

class Policy:
    """A policy that evicts."""
    hit_mode, entry_slots, count_cap = "none", (), 0
    def attach(self, host): pass
    def on_insert(self, entry, now, origin): pass
    def on_hit(self, entry, now): pass
    def on_hits(self, entries, now): pass
    def evict(self, now): pass
    def on_remove(self, entry, cause): pass
    def on_generation(self, namespace, old, new): pass
    def check(self): pass

class Loads:
    """A framework that loads."""
    def load(self, spec): pass
'''

_serial = itertools.count()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A factory of plugins: writes a module and returns its entry point."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loading, "BUILTIN", ())
    written = []

    def write(source: str, name: str = "bad") -> EntryPoint:
        module = f"plugin_under_test_{next(_serial)}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source), "utf-8")
        written.append(module)
        return EntryPoint(name, module, "recserve")

    yield write
    for module in written:
        sys.modules.pop(module, None)


POLICY = GOOD + (
    '@hookimpl\ndef recserve_eviction_policies(): return {"mine": Policy}\n'
    '@hookimpl\ndef recserve_frameworks(): return {"loads": Loads}\n'
)


def test_a_good_plugin_is_loaded(write):
    registry = load_plugins(entry_points=[write(POLICY, "good")])
    (record,) = registry.records
    assert (record.name, record.state, record.reason) == ("good", "loaded", "")
    assert record.origin == "entry point"
    assert record.provides == {"eviction_policies": ("mine",), "frameworks": ("loads",)}
    assert record.hooks == ("recserve_eviction_policies", "recserve_frameworks")
    assert registry.eviction_policies.get("mine").plugin == "good"
    assert registry.frameworks.create("loads").load(None) is None


def test_built_ins_come_through_the_same_door():
    records = load_plugins(entry_points=()).records
    assert [record.name for record in records] == [name for name, _ in loading.BUILTIN]
    assert {record.origin for record in records} == {"built-in"}
    assert [record.reason for record in records if record.state != "loaded"] == []
    assert all(record.provides for record in records)


def test_a_blocked_plugin_is_not_even_imported(write):
    registry = load_plugins(
        blocked=["bad"], entry_points=[write("raise SystemExit('imported')"), write(POLICY, "good")]
    )
    bad, good = registry.records
    assert (bad.state, bad.reason) == ("blocked", "blocked by the settings")
    assert bad.module not in sys.modules
    assert good.state == "loaded"


BROKEN = {
    "import error": ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
    "syntax error": ("def (", "SyntaxError"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "base exception": (
        "class Odd(BaseException): pass\nraise Odd('two\\nlines')",
        "Odd: two lines",
    ),
    "unknown hook": (
        "@hookimpl\ndef recserve_eviction_polices(): return {'mine': Policy}",
        "no hook 'recserve_eviction_polices'. Did you mean 'recserve_eviction_policies'?",
    ),
    "unknown hook, unmarked": (
        "def recserve_framework(): return {'mine': Loads}",
        "no hook 'recserve_framework'. Did you mean 'recserve_frameworks'?",
    ),
    "unknown hook by specname": (
        "@hookimpl(specname='recserve_framework')\ndef any_name(): return {'mine': Loads}",
        "no hook 'recserve_framework'. Did you mean",
    ),
    "forgotten marker": (
        "def recserve_frameworks(): return {'mine': Loads}",
        "recserve_frameworks is not marked, so it would never be called: put @hookimpl above",
    ),
    "wrong argument": (
        "@hookimpl\ndef recserve_fallback(reqest, error): return None",
        (
            "recserve_fallback has an argument 'reqest', but may take request, error."
            " Did you mean 'request'?"
        ),
    ),
    "argument of a hook without": (
        "@hookimpl\ndef recserve_frameworks(host): return {'mine': Loads}",
        "an argument 'host', but takes no arguments",
    ),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef recserve_frameworks():\n    return (yield)",
        "is a wrapper",
    ),
    "bad name": (
        "@hookimpl\ndef recserve_frameworks(): return {'My-Loads': Loads}",
        (
            "the name 'My-Loads' is not made of lower-case letters, digits and underscores, "
            "beginning with a letter; call it 'my_loads'"
        ),
    ),
    "name is no text": ("@hookimpl\ndef recserve_frameworks(): return {3: Loads}", "the name 3 is"),
    "missing methods": (
        (
            "del Policy.evict, Policy.check\n"
            "@hookimpl\ndef recserve_eviction_policies(): return {'mine': Policy}"
        ),
        (
            "the eviction policy 'mine' (Policy) lacks evict, check of the contract"
            " plugins.EvictionPolicy"
        ),
    ),
    "missing class attribute": (
        "del Policy.hit_mode\n@hookimpl\ndef recserve_eviction_policies(): return {'mine': Policy}",
        "lacks hit_mode",
    ),
    "no docstring": (
        "Loads.__doc__ = None\n@hookimpl\ndef recserve_frameworks(): return {'mine': Loads}",
        "the framework 'mine' has no docstring",
    ),
    "provides nothing": ("", "provides nothing"),
    "provides an empty mapping": (
        "@hookimpl\ndef recserve_frameworks(): return {}",
        "provides nothing",
    ),
    "returns None": (
        "@hookimpl\ndef recserve_frameworks(): {'mine': Loads}",
        "recserve_frameworks returned None; it must return a mapping",
    ),
    "returns a list": ("@hookimpl\ndef recserve_frameworks(): return [Loads]", "returned list"),
    "not callable": (
        "@hookimpl\ndef recserve_frameworks(): return {'mine': 'Loads'}",
        "the framework 'mine' is 'Loads', which cannot be called",
    ),
    "positional option": (
        (
            "def make(threads=1):\n    'Makes one.'\n"
            "@hookimpl\ndef recserve_frameworks(): return {'mine': make}"
        ),
        "the parameter 'threads=1' of make is not keyword-only",
    ),
    "open options": (
        (
            "def make(**options):\n    'Makes one.'\n"
            "@hookimpl\ndef recserve_frameworks(): return {'mine': make}"
        ),
        "the parameter '**options' of make is not keyword-only",
    ),
    "hook raises": (
        "@hookimpl\ndef recserve_frameworks(): raise OSError('disk on fire')",
        "OSError: disk on fire",
    ),
    "hook exits": ("@hookimpl\ndef recserve_frameworks(): raise SystemExit", "SystemExit"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_reported_and_harmless(write, case):
    source, reason = BROKEN[case]
    listener = "@hookimpl\ndef recserve_model_activated(model_name): raise AssertionError\n"
    if reason == "provides nothing":
        listener = ""
    plugins = [write(GOOD + listener + source, "bad"), write(POLICY, "good")]
    registry = load_plugins(entry_points=plugins)
    bad, good = registry.records
    assert bad.state == "failed"
    assert reason in bad.reason
    assert "\n" not in bad.reason
    assert (bad.provides, bad.hooks) == ({}, ())
    assert good.state == "loaded"
    assert registry.eviction_policies.names() == ("mine",)
    assert registry.eviction_policies.get("mine").plugin == "good"
    assert registry.frameworks.names() == ("loads",)
    assert registry.fallbacks == registry.model_activated_listeners == ()


def test_what_a_plugin_gave_before_it_failed_is_discarded(write):
    source = GOOD + (
        "@hookimpl\ndef recserve_eviction_policies(): return {'fine': Policy}\n"
        "@hookimpl\ndef recserve_frameworks(): return {'fine': Loads, 'Bad': Loads}\n"
        "@hookimpl\ndef recserve_fallback(request): raise AssertionError\n"
    )
    registry = load_plugins(entry_points=[write(source)])
    assert registry.records[0].state == "failed"
    assert registry.eviction_policies.names() == registry.frameworks.names() == ()
    assert registry.fallbacks == ()


def test_a_name_that_is_taken_stays_with_the_first_and_both_are_named(write):
    registry = load_plugins(entry_points=[write(POLICY, "b_later"), write(POLICY, "a_first")])
    first, later = registry.records
    assert (first.name, first.state) == ("a_first", "loaded")
    assert later.state == "failed"
    assert "'mine' of plugin 'b_later'" in later.reason
    assert "plugin 'a_first' took first" in later.reason
    assert registry.eviction_policies.get("mine").plugin == "a_first"


def test_two_plugins_of_one_name_and_one_module_of_two_names(write):
    point = write(POLICY, "good")
    other = EntryPoint("zzz", point.value, "recserve")
    records = load_plugins(entry_points=[point, write(POLICY, "good"), other]).records
    assert [record.state for record in records] == ["loaded", "failed", "failed"]
    assert "the plugin name 'good' is taken by" in records[1].reason
    assert "loaded already, as plugin 'good'" in records[2].reason


def test_the_name_of_a_plugin_is_a_good_name_too(write):
    (record,) = load_plugins(entry_points=[write(POLICY, "My-Plugin")]).records
    assert record.state == "failed"
    assert "call it 'my_plugin'" in record.reason


def test_ctrl_c_is_not_swallowed(write):
    with pytest.raises(KeyboardInterrupt):
        load_plugins(entry_points=[write("raise KeyboardInterrupt")])


def test_hooks_called_later_are_given_the_arguments_they_name(write):
    source = GOOD + (
        "heard = []\n"
        "@hookimpl\ndef recserve_fallback(error):\n"
        "    return Recommendation(1, (str(error),), (0.0,), 'm', None, 'fallback')\n"
        "@hookimpl\ndef recserve_model_activated(version=0): heard.append(version)\n"
    )
    point = write(source, "listens")
    registry = load_plugins(entry_points=[point])
    assert registry.records[0].state == "loaded"
    assert registry.records[0].provides == {}
    answer = registry.fallback(RecommendationRequest(user_id=1), Unavailable("why"))
    assert isinstance(answer, Recommendation)
    assert answer.items == ("why",)
    registry.announce_model_activated("m", 4)
    assert sys.modules[point.value].heard == [4]


def test_a_damaged_distribution_of_another_project_spoils_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(tmp_path)
    for name, points in {
        "damaged": "[recserve]\nthis is no entry point\n",
        "sound": "[recserve]\nsound = sound_plugin\n",
    }.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
    (tmp_path / "sound_plugin.py").write_text(POLICY)
    records = {record.name: record for record in load_plugins().records}
    sys.modules.pop("sound_plugin", None)
    assert records["sound"].state == "loaded"
    assert (records["sound"].distribution, records["sound"].version) == ("sound", "1.0")
    assert "damaged distribution" in caplog.text


def test_loading_needs_no_django_and_imports_no_framework():
    script = (
        "import sys; from plugins.loading import load_plugins; load_plugins(entry_points=());"
        "print([m for m in ('django', 'torch', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
