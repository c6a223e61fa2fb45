"""The rules of the house that no linter knows."""

import importlib.util
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journeys.conftest import ROOT

PACKAGES = ("plugins", "cache_app", "serving_app", "recserve_project")


def modules():
    return [
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "migrations" not in path.parts
    ]


def test_no_framework_is_imported_at_start_up():
    code = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'\n"
        "import django; django.setup()\n"
        "from plugins.apps import get_registry; get_registry()\n"
        "import serving_app.api.urls, recserve_project.asgi\n"
        "heavy = {'torch', 'tensorflow', 'onnxruntime', 'ray', 'opentelemetry.exporter'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_module_is_a_dumping_ground():
    banned = {"utils.py", "helpers.py", "common.py", "manager.py", "misc.py"}
    assert not [path for path in modules() if path.name in banned]


def test_no_class_is_named_for_nothing():
    vague = re.compile(r"^class \w+(Manager|Handler|Processor|Helper|Data|Info)\b", re.MULTILINE)
    found = {
        (path.name, match.group())
        for path in modules()
        for match in vague.finditer(path.read_text("utf-8"))
    }
    assert not found


def test_nothing_of_this_machine_is_named():
    names = re.compile(r"(?<![\w.}])/(work|root|home|opt|Users)/|\.internal\b(?!\.)|/simple/")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".html", ""} and path.is_file():
            if path.name == "test_house.py":
                continue
            found = names.search(path.read_text("utf-8"))
            assert not found, f"{name}: {found.group()}"


def test_pickle_is_nowhere_imported():
    pickles = re.compile(r"^\s*(import|from) (pickle|cPickle|dill|marshal|shelve)\b", re.MULTILINE)
    assert not [path for path in modules() if pickles.search(path.read_text("utf-8"))]
    allowed = re.compile(r"allow_pickle=True|weights_only=False")
    assert not [path for path in modules() if allowed.search(path.read_text("utf-8"))]


@pytest.mark.skipif(not settings.default.derandomize, reason="a search is at random")
def test_property_tests_try_the_same_examples_in_each_run(tmp_path, monkeypatch):
    def examples():
        tried = []

        @given(st.lists(st.integers()))
        def attempt(numbers):
            tried.append(numbers)

        attempt()
        return tried

    before = examples()
    path = tmp_path / "imported_meanwhile.py"
    path.write_text("\n".join(f"N{n} = {10**6 + n}" for n in range(400)))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    monkeypatch.setitem(sys.modules, path.stem, importlib.util.module_from_spec(spec))

    assert examples() == before
