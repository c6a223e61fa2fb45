"""A plugin is installed with pip and used; broken ones are reported and do no harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract("O7")

REPO = Path(__file__).resolve().parents[2]

USE = """
import json, pathlib, random, sys, types
import numpy as np
from plugins import ModelSpec
from plugins.loading import load_plugins

registry = load_plugins()

policy = registry.eviction_policies.create("random")
policy.attach(types.SimpleNamespace(capacity=3, rng=random.Random(1), drop_ghost=None))
entries = {}
victims = []
for n in range(10):
    if len(entries) == 3:
        victim = policy.evict(0.0)
        victims.append(victim.key)
        del entries[victim.key]
    entry = types.SimpleNamespace(key=f"k{n}", was_ghost=False, keep_ghost=False)
    entries[entry.key] = entry
    policy.on_insert(entry, 0.0, "miss")
    policy.check()

path = pathlib.Path(sys.argv[1])
path.write_text(json.dumps({"feature_names": ["a"], "weights": [[1, 2]], "bias": [0, 1]}))
framework = registry.frameworks.create("json_linear", {"scale": 10})
model = framework.load(ModelSpec("m", 1, "json_linear", path))
scores = model.predict({"features": np.array([[3]], np.float32)})["scores"]
model.close()
print(json.dumps({"victims": victims, "scores": scores.tolist()}))
"""

POLICY = '''
from plugins import hookimpl

class Mine:
    """A policy of mine."""
    hit_mode, entry_slots, count_cap = "none", (), 0
    def attach(self, host): ...
    def on_insert(self, entry, now, origin): ...
    def on_hit(self, entry, now): ...
    def on_hits(self, entries, now): ...
    def evict(self, now): ...
    def on_remove(self, entry, cause): ...
    def on_generation(self, namespace, old, new): ...
    def check(self): ...
'''

BROKEN = {
    "broken_import": ("import no_such_module", "No module named 'no_such_module'"),
    "broken_hook": (
        POLICY + "@hookimpl\ndef recserve_eviction_policys(): return {'mine': Mine}",
        "no hook 'recserve_eviction_policys'. Did you mean 'recserve_eviction_policies'?",
    ),
    "broken_name": (
        POLICY + "@hookimpl\ndef recserve_eviction_policies(): return {'lru': Mine}",
        "'lru' of plugin 'broken_name' has a name that plugin 'builtin_eviction' took first",
    ),
    "broken_marker": (
        POLICY + "def recserve_eviction_policies(): return {'mine': Mine}",
        "put @hookimpl above it",
    ),
    "broken_methods": (
        POLICY
        + "del Mine.evict\n@hookimpl\ndef recserve_eviction_policies(): return {'mine': Mine}",
        "lacks evict of the contract",
    ),
    "broken_docstring": (
        POLICY
        + "Mine.__doc__ = ''\n"
        + "@hookimpl\ndef recserve_eviction_policies(): return {'mine': Mine}",
        "has no docstring",
    ),
}


class Environment:
    """A virtual environment of its own, that sees what the tests' one has installed."""

    def __init__(self, folder: Path):
        self.folder = folder
        # Without pip: the venv of Python 3.11 would bring a setuptools of 2022 along. It finds the
        # pip and the setuptools of the tests' environment.
        make = [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")]
        subprocess.run(make, check=True)
        self.python = folder / "venv" / "bin" / "python"
        asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site_packages = Path(self.run("-c", asked).strip())
        parents = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.site_packages / "parent.pth").write_text("\n".join(sorted(parents)) + "\n")

    def run(self, *args: str) -> str:
        """Run the environment's Python in the repository, and return what it prints."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env.pop("DJANGO_SETTINGS_MODULE", None)
        env |= {
            "PYTHONPATH": str(REPO),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RECSERVE_VAR": str(self.folder / "var"),
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CONFIG_FILE": os.devnull,
        }
        done = subprocess.run(
            [str(self.python), *args],
            check=False,
            cwd=REPO,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{args} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def install(self, *projects: Path) -> None:
        """Install projects with pip, without the network."""
        how = ("-q", "--no-deps", "--no-build-isolation")
        self.run("-m", "pip", "install", *how, *map(str, projects))

    def plugins(self) -> dict[str, dict]:
        """Return what ``manage.py plugins`` says, by name."""
        listed = json.loads(self.run("-W", "error", "manage.py", "plugins", "--format", "json"))
        return {record["name"]: record for record in listed}


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Environment:
    """A fresh environment with the example plugin in it."""
    folder = tmp_path_factory.mktemp("install")
    environment = Environment(folder)
    # A copy, since building leaves its traces in the source.
    project = folder / "recserve-example"
    shutil.copytree(
        REPO / "examples" / "recserve-example",
        project,
        ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"),
    )
    environment.install(project)
    shutil.move(project / "tests", folder / "example_tests")
    shutil.rmtree(project)
    return environment


def test_the_example_is_installed_and_used(environment, tmp_path):
    used = json.loads(environment.run("-W", "error", "-c", USE, str(tmp_path / "model.json")))
    assert used["scores"] == [[30.0, 70.0]]
    assert len(set(used["victims"])) == 7


def test_the_example_passes_its_own_tests(environment):
    alone = ("-p", "no:django", "-p", "no:cacheprovider", "-c", os.devnull)
    environment.run("-m", "pytest", "-q", *alone, str(environment.folder / "example_tests"))


def test_the_example_is_listed(environment):
    example = environment.plugins()["example"]
    assert (example["state"], example["version"]) == ("loaded", "1.0.0")
    assert example["distribution"] == "recserve-example"
    (framework,) = example["provides"]["frameworks"]
    assert framework["name"] == "json_linear"
    assert framework["options"] == [
        {"name": "scale", "annotation": "float", "required": False, "default": 1.0}
    ]
    assert [each["name"] for each in example["provides"]["eviction_policies"]] == ["random"]
    (strategy,) = example["provides"]["warmup_strategies"]
    assert strategy["name"] == "last_week"
    assert strategy["summary"].startswith("Warms what was asked on this day a week ago")


def test_broken_plugins_are_reported_and_do_no_harm(environment, tmp_path):
    before = environment.plugins()
    for name, (source, _) in BROKEN.items():
        (environment.site_packages / f"{name}.py").write_text(source)
        info = environment.site_packages / f"recserve_{name}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: recserve-{name}\nVersion: 0.1\n"
        )
        (info / "entry_points.txt").write_text(f"[recserve]\n{name} = {name}\n")
    after = environment.plugins()
    for name, (_, reason) in BROKEN.items():
        assert after[name]["state"] == "failed"
        assert reason in after[name]["reason"]
        assert after[name]["provides"] == {}
        assert after[name]["distribution"] == f"recserve-{name}"
    assert {name: after[name] for name in before} == before
    environment.run("-W", "error", "-c", USE, str(tmp_path / "model.json"))
    environment.run("manage.py", "check")


def test_what_is_uninstalled_is_gone(tmp_path_factory, environment):
    environment.run("-m", "pip", "uninstall", "-q", "-y", "recserve-example")
    assert "example" not in environment.plugins()
