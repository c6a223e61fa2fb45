"""The documentation leaves nothing out. That its code runs: tests/journeys/test_pages.py."""

import dataclasses
import re

from django.core.management import call_command

from cache_app.conf import CacheSettings
from plugins import errors, hookspecs, skeleton
from plugins.conf import PluginSettings
from serving_app.access_conf import AccessSettings
from serving_app.activity_conf import ActivitySettings
from serving_app.alert_conf import AlertSettings
from serving_app.api.problems import STATUS, problem_of
from serving_app.api.schema import CODES
from serving_app.conf import ServingSettings
from serving_app.drift_conf import DriftSettings
from serving_app.log_conf import LogSettings
from serving_app.rollup_conf import RollupSettings
from serving_app.segment_conf import SegmentSettings
from serving_app.trace_conf import TraceSettings
from serving_app.warmup_conf import WarmupSettings
from tests.journeys.conftest import ROOT


def text(name):
    return (ROOT / name).read_text("utf-8")


def test_every_setting_is_documented():
    page = text("docs/settings.md")
    for settings in (
        *(AccessSettings, ActivitySettings, AlertSettings, CacheSettings, DriftSettings),
        *(LogSettings, PluginSettings, RollupSettings, SegmentSettings, ServingSettings),
        *(TraceSettings, WarmupSettings),
    ):
        for field in dataclasses.fields(settings):
            name = field.name.upper()
            words = {name, name.removeprefix("L1_")}
            assert any(f"`{word}`" in page for word in words), name
    for variable in re.findall(r'"(RECSERVE_[A-Z_]+)"', text("recserve_project/settings.py")):
        assert f"`{variable}`" in page, variable


def test_every_hook_is_documented_with_its_signature():
    page = text("docs/plugin_hooks.md")
    hooks = [name for name in vars(hookspecs) if name.startswith("recserve_")]
    assert len(hooks) >= 6
    for name in hooks:
        arguments = getattr(hookspecs, name).__code__
        names = ", ".join(arguments.co_varnames[: arguments.co_argcount])
        assert f"## `{name}({names})`" in page, name
        for argument in arguments.co_varnames[: arguments.co_argcount]:
            assert f"`{argument}`: " in page, argument


def test_the_plugins_of_the_guide_work():
    page = text("docs/writing_plugins.md")
    guide = {}
    for code in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(code, guide)  # it checks its policy and its strategy itself
    assert guide["recserve_eviction_policies"]() == {"last_in": guide["LastIn"]}
    assert guide["recserve_warmup_strategies"]() == {"yesterday": guide["Yesterday"]}
    assert {"check_eviction_policy", "check_warmup_strategy"} <= guide.keys()


def test_the_guide_starts_a_plugin_of_every_kind(tmp_path, monkeypatch):
    page = text("docs/writing_plugins.md")
    table = page.partition("| `--kind` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*skeleton.kinds()]
    (tmp_path / "recserve").mkdir()
    monkeypatch.chdir(tmp_path / "recserve")
    (command,) = re.findall(r"manage.py startplugin (.+)", page)
    call_command("startplugin", *command.split(), verbosity=0)
    (project,) = re.findall(r"pip install -e (\S+)", page)
    assert (tmp_path / "recserve" / project / "pyproject.toml").is_file()
    source = (tmp_path / "recserve" / project / "src/recserve_mine/__init__.py").read_text()
    exec(source, {"__name__": "recserve_mine"})


def test_every_problem_code_is_documented():
    page = text("docs/rest_api.md")
    never_leave = {errors.LevelUnavailable, errors.PluginError, errors.RecserveError}
    bases = {errors.BadRequest, errors.Unavailable}
    for error in STATUS.keys() - never_leave - bases:
        extra = {"field": "x"} if error is errors.InvalidInput else {}
        extra = {"retry_after": 1.0} if error in {errors.QueueFull, errors.Throttled} else extra
        assert f"`{problem_of(error('', **extra))['code']}`" in page, error


def test_every_problem_of_the_schema_is_documented():
    page = text("docs/rest_api.md")
    for codes in CODES.values():
        assert all(f"`{code}`" in page for code in codes), codes
    assert {status for error, status in STATUS.items()} <= CODES.keys()


def test_every_endpoint_is_documented():
    from serving_app.api.urls import urlpatterns

    page = text("docs/rest_api.md")
    for pattern in urlpatterns:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern.pattern))
        if path:
            assert f"/{path}" in page, path


def test_links_between_pages_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
