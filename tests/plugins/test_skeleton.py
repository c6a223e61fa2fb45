"""``manage.py startplugin`` writes a plugin that works, or nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command

from plugins import skeleton
from tests.journeys.conftest import ROOT

pytestmark = pytest.mark.contract("O7")


def test_every_kind_has_a_template():
    assert set(skeleton.hooks()) - set(skeleton.kinds()) == set(), (
        "each needs a file in plugins/skeletons"
    )


def test_every_template_has_a_kind():
    templates = {path.stem for path in (ROOT / "plugins" / "skeletons").iterdir()}
    assert templates - {"project"} == set(skeleton.kinds())


def test_what_it_writes_passes_its_own_tests(tmp_path):
    folders = []
    for kind in skeleton.kinds():
        name = f"my_{kind}"
        call_command("startplugin", name, kind=kind, directory=tmp_path, verbosity=0)
        folders.append(tmp_path / f"recserve-{name.replace('_', '-')}")
    alone = ("-q", "-W", "error", "-p", "no:django", "-p", "no:cacheprovider", "-c", os.devnull)
    sources = os.pathsep.join([str(ROOT), *(str(each / "src") for each in folders)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *alone, "--import-mode=importlib", *map(str, folders)],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": sources, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout


def test_it_says_where_the_project_is_and_what_to_do_next(tmp_path, capsys):
    call_command("startplugin", "two_words", directory=tmp_path)
    folder = tmp_path / "recserve-two-words"
    said = capsys.readouterr().out
    assert f"pip install -e {folder}" in said
    assert 'two_words = "recserve_two_words"' in (folder / "pyproject.toml").read_text()
    assert "$" not in (folder / "src" / "recserve_two_words" / "__init__.py").read_text()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("My-Plugin", "framework", "call it 'my_plugin'"),
        ("9lives", "framework", "beginning with a letter"),
        ("../x", "framework", "lower-case letters"),
        ("x" * 51, "framework", "at most 50"),
        ("builtin_eviction", "framework", "is a plugin 'builtin_eviction' already"),
        ("lru", "eviction_policy", "'builtin_eviction' provides the eviction policy 'lru'"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_written(tmp_path, name, kind, why):
    with pytest.raises(CommandError, match=why):
        call_command("startplugin", name, kind=kind, directory=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_of_another_kind_is_free(tmp_path):
    call_command("startplugin", "lru", kind="framework", directory=tmp_path, verbosity=0)
    assert (tmp_path / "recserve-lru" / "README.md").exists()


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(CommandError, match="invalid choice: 'evict'"):
        call_command("startplugin", "mine", "--kind=evict", directory=tmp_path)


def test_what_exists_is_left_alone(tmp_path):
    (tmp_path / "recserve-mine").mkdir()
    (tmp_path / "recserve-mine" / "precious").write_text("1")
    with pytest.raises(CommandError, match="exists already"):
        call_command("startplugin", "mine", directory=tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["recserve-mine", "precious"]


def test_a_directory_that_is_missing_is_refused(tmp_path):
    with pytest.raises(CommandError, match="no directory"):
        call_command("startplugin", "mine", directory=tmp_path / "missing")


def test_what_cannot_be_written_whole_is_not_written_at_all(tmp_path):
    with pytest.raises(OSError, match="a"):  # a file where a folder would have to be
        skeleton.write({"a": "1", "a/b": "2"}, tmp_path / "project")
    assert not list(tmp_path.iterdir())
