"""Invalidations, in the database and in the file that a host's processes share."""

import stat
import subprocess
import sys
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.utils import timezone

from cache_app import wiring
from cache_app.core.generations import EVERYTHING, scope, scopes_of
from cache_app.epoch_file import EpochFile
from cache_app.invalidation import Bounds, bounds, invalidate, invalidate_scopes
from cache_app.models import Epoch, Invalidation
from plugins import LevelUnavailable

pytestmark = [pytest.mark.django_db, pytest.mark.contract("C8")]

SCOPES = scopes_of(user_id="u", model_name="m", version=1)


@pytest.fixture
def cache(settings, tmp_path):
    settings.RECSERVE = {
        **settings.RECSERVE,
        "CACHE": {"EPOCH_FILE": str(tmp_path / "cache" / "epoch")},
    }
    wiring.reset()
    yield tmp_path / "cache"
    wiring.reset()


def test_an_invalidation_changes_the_generation_at_once_and_moves_the_file(
    cache, django_capture_on_commit_callbacks
):
    before = wiring.get_generations().of(SCOPES)
    with django_capture_on_commit_callbacks(execute=True):
        epoch = invalidate(user_id="u")
    assert int(before) < epoch
    assert wiring.get_generations().of(SCOPES) == str(epoch)
    assert EpochFile(cache / "epoch").read() == epoch
    assert stat.S_IMODE((cache / "epoch").stat().st_mode) == 0o600


@pytest.mark.contract("C3")
def test_the_policy_of_l1_ages_when_many_keys_are_retired(
    cache, django_capture_on_commit_callbacks, monkeypatch, caplog
):
    heard = []
    wiring.get_levels()
    wiring.get_generations().of(SCOPES)
    monkeypatch.setattr(
        wiring._in_memory._rest.level._policy, "on_generation", lambda *args: heard.append(args)
    )
    with django_capture_on_commit_callbacks(execute=True):
        invalidate(user_id="u")
        invalidate(user_id="u", model_name="m")
    assert heard == []
    for each in ({"model_name": "m"}, {"model_name": "m", "version": 1}, {}):
        with django_capture_on_commit_callbacks(execute=True):
            epoch = invalidate(**each)
        assert heard.pop() == ("recserve", epoch - 1, epoch)
    monkeypatch.setattr(wiring._in_memory._rest.level._policy, "on_generation", lambda: None)
    with django_capture_on_commit_callbacks(execute=True):
        epoch = invalidate()
    assert wiring.get_generations().of(SCOPES) == str(epoch)
    assert "The eviction policy of L1 failed to age" in caplog.text


def test_epochs_begin_with_the_time_so_that_no_two_databases_share_one():
    begun = timezone.now() - timedelta(days=1)
    assert Epoch.objects.get().latest > begun.timestamp() * 1000
    assert Invalidation.objects.get().scope == "all"


@pytest.mark.django_db(transaction=True)
def test_a_database_that_was_emptied_begins_anew_and_all_that_was_cached_is_past(cache):
    before = wiring.get_generations().of(SCOPES)

    call_command("flush", verbosity=0, interactive=False)

    wiring.reset()
    assert int(wiring.get_generations().of(SCOPES)) > int(before)
    assert invalidate(user_id="u") == Epoch.now()


def test_what_nothing_cached_is_older_than_is_forgotten(cache):
    invalidate(user_id="old")
    Invalidation.objects.filter(scope="u:old").update(at=timezone.now() - timedelta(days=30))
    invalidate(user_id="new")
    assert set(Invalidation.objects.values_list("scope", flat=True)) == {"all", "u:new"}
    last = invalidate()
    assert list(Invalidation.objects.values_list("epoch", "scope")) == [(last, "all")]


def test_of_each_scope_the_last_invalidation_is_kept_however_often_there_was_one(cache):
    for _ in range(5):
        invalidate(user_id="u")
        invalidate(tag="x")
    last = invalidate_scopes([scope(user_id="u"), scope(tag="x"), scope(user_id="u")])
    kept = list(Invalidation.objects.exclude(scope="all").values_list("epoch", "scope"))
    assert kept == [(last - 1, "u:u"), (last, "t:x")]
    last = invalidate_scopes([scope(tag="x"), EVERYTHING])
    assert list(Invalidation.objects.values_list("epoch", "scope")) == [(last, "all")]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tag": "x", "user_id": "u"}, "alone"),
        ({"key": "rubbish"}, "A key reads"),
        ({"segment": ""}, "1 to 100"),
        ({"user_id": "u" * 401}, "longer than any"),
    ],
)
def test_what_is_no_scope_is_refused_and_nothing_is_invalidated(cache, given, says):
    before = Epoch.objects.get().latest
    with pytest.raises(ValueError, match=says):
        invalidate(**given)
    with pytest.raises(ValueError, match="Name a scope"):
        invalidate_scopes([])
    assert Epoch.objects.get().latest == before


def test_the_bound_is_what_the_settings_allow(settings, cache):
    assert bounds(1.5) == Bounds(0.0, 1.5)
    redis = {"BACKEND": "redis", "URL": "redis://127.0.0.1:1/0"}
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": {"L2": redis}}
    wiring.reset()
    assert bounds(1.5) == Bounds(0.005, 0.005)
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": {}}
    wiring.reset()
    assert bounds(1.5) == Bounds(1.5, 1.5)


def test_a_database_that_is_away_is_a_doubt_and_not_an_error(cache, monkeypatch):
    sure = wiring.get_generations().of(SCOPES)

    def away(*args, **kwargs):
        raise DatabaseError("gone")

    monkeypatch.setattr(Invalidation.objects, "filter", away)
    with pytest.raises(LevelUnavailable):
        Invalidation.after(0)
    wiring.get_generations().refresh()
    assert wiring.get_generations().of(SCOPES) != sure
    monkeypatch.undo()
    assert wiring.get_generations().of(SCOPES) == sure


def test_the_file_is_shared_by_processes_and_never_falls(tmp_path):
    path = tmp_path / "cache" / "epoch"
    epochs = EpochFile(path)
    assert epochs.read() == 0
    code = (
        "import sys; from pathlib import Path; from cache_app.epoch_file import EpochFile\n"
        "file = EpochFile(Path(sys.argv[1]))\n"
        "for epoch in (5, 3, int(sys.argv[2])): file.advance(epoch)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(latest)])
        for latest in (2**40, 7, 2**40 + 1)
    ]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    assert epochs.read() == 2**40 + 1
    epochs.close()


def test_the_command_names_what_it_forgets_and_refuses_to_guess(cache, capsys):
    for arguments in (
        ["--user", "u"],
        ["--model", "m", "--model-version", "3"],
        ["--tag", "summer sale"],
        ["--segment", "all"],
        ["--key", "t:m:1-f00d:all:i7:-:-:0"],
    ):
        call_command("invalidate", *arguments)
        assert "Invalidated" in capsys.readouterr().out
    kept = set(Invalidation.objects.values_list("scope", flat=True))
    assert {"u:u", "v:3:m", "t:summer sale", "s:all"} < kept
    call_command("invalidate", "--all")
    for wrong in (
        [],
        ["--all", "--user", "u"],
        ["--all", "--tag", "x"],
        ["--model-version", "3"],
        ["--tag", "x", "--model", "m"],
        ["--key", "rubbish"],
    ):
        with pytest.raises(CommandError):
            call_command("invalidate", *wrong)
    assert Invalidation.objects.get().scope == "all"
