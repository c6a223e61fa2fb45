"""Several processes, one database: one runs a schedule at a time, and a dead one's run goes on."""

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journeys.conftest import ROOT
from tests.servers import wait_for

pytestmark = [pytest.mark.contract("W3"), pytest.mark.contract("W2")]

PROCESS = """
import json, os, sys, time
from pathlib import Path
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
from tests import settings as module

given = json.loads(sys.argv[1])
folder = Path(given["folder"])
module.RECSERVE = {
    **module.RECSERVE,
    "SERVING": {"MODEL_STORE": str(folder)},
    "CACHE": {"L2": {"BACKEND": "embedded", "PATH": str(folder / "cache")}},
    "WARM_UP": {"SHARE": 1.0, "POLL_SECONDS": 0.02, "DEAD_SECONDS": 1.5},
}
sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "db.sqlite3")}
sqlite["OPTIONS"] = {
    "timeout": 20,
    "transaction_mode": "IMMEDIATE",
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
}
module.DATABASES = {"default": sqlite}
import django
django.setup()
from serving_app import wiring
from tests.serving_app.warmups import USERS, ask, make_live, make_schedule

if given.get("first"):
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    make_live(folder)
    ask(*USERS)
    make_schedule("slow", rate=40.0, batch_size=4, budget=30, interval=86_400.0, enabled=False)
    make_schedule("quick", rate=1e5, budget=3, interval=86_400.0, enabled=False)
    wiring.stop()
    sys.exit()

wiring.start(warm_up=False)
assert wiring.wait_until_ready()
scheduler = wiring.get_serving().warm_up
print("ready", flush=True)
scheduler.run_forever()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, activity, two schedules that are off."""
    folder = tmp_path_factory.mktemp("warm-up")
    with process(folder, first=True) as made:
        assert made.wait(60) == 0
    return folder


def process(folder, **given):
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, json.dumps({"folder": str(folder), **given})],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def schedulers(folder, n):
    """So many processes that look for what is due."""
    running = [process(folder) for _ in range(n)]
    try:
        for each in running:
            assert each.stdout.readline() == "ready\n"
        yield running
    finally:
        for each in running:
            each.kill()
            each.wait()
            each.stdout.close()


class Database(contextlib.AbstractContextManager):
    """What a test reads and sets, beside Django."""

    def __exit__(self, *_):
        self.connection.close()

    def __init__(self, folder: Path) -> None:
        self.connection = sqlite3.connect(folder / "db.sqlite3", timeout=20, isolation_level=None)
        self.connection.row_factory = sqlite3.Row

    def all(self, sql, *values):
        return [dict(row) for row in self.connection.execute(sql, values).fetchall()]

    def runs(self, schedule):
        return self.all(
            "SELECT r.* FROM serving_app_warmuprun r JOIN serving_app_warmupschedule s "
            "ON s.id = r.schedule_id WHERE s.name = ? ORDER BY r.id",
            schedule,
        )

    def make_due(self, schedule):
        self.connection.execute(
            "UPDATE serving_app_warmupschedule SET enabled = 1, next_due = '2026-01-01 00:00:00' "
            "WHERE name = ?",
            [schedule],
        )


def test_a_killed_runners_run_goes_on_elsewhere_and_its_counts_are_true(folder):
    with Database(folder) as database:
        kill_and_check(folder, database)


def kill_and_check(folder, database):
    with schedulers(folder, 2) as running:
        database.make_due("slow")

        def begun():
            rows = database.runs("slow")
            return rows and rows[0]["warmed"] >= 8 and rows[0]

        (run, *others) = [wait_for(begun, what="some are warmed")]
        assert others == []
        pid = int(run["runner"].partition("/")[0].rpartition(":")[2])
        assert pid in {each.pid for each in running}
        os.kill(pid, signal.SIGKILL)
        (run,) = wait_for(
            lambda: (rows := database.runs("slow"))[0]["state"] == "done" and rows,
            seconds=30,
            what="the other takes over",
        )
    assert run["takeovers"] == 1
    assert str(pid) not in run["runner"]
    counts = {name: run[name] for name in ("candidates", "warmed", "fresh", "refused", "errors")}
    assert counts == {"candidates": 30, "warmed": 30, "fresh": 0, "refused": 0, "errors": 0}
    states = database.all(
        "SELECT state, count(*) n FROM serving_app_warmupquestion WHERE run_id = ? GROUP BY state",
        run["id"],
    )
    assert states == [{"state": "warmed", "n": 30}]
    (schedule,) = database.all("SELECT * FROM serving_app_warmupschedule WHERE name = 'slow'")
    assert schedule["warmed"] == 30
    assert schedule["model_seconds"] == pytest.approx(run["model_seconds"])


def test_a_schedule_that_is_always_due_runs_in_one_process_at_a_time(folder):
    with Database(folder) as database:
        run_often_and_check(folder, database)


def run_often_and_check(folder, database):
    def done():
        database.make_due("quick")
        return sum(row["state"] == "done" for row in database.runs("quick")) >= 8

    with schedulers(folder, 3):
        wait_for(done, seconds=60, what="eight runs")
    runs = {row["id"] for row in database.runs("quick")}
    assert all(row["takeovers"] == 0 for row in database.runs("quick"))
    ordered = database.all(
        "SELECT started, ended FROM serving_app_warmuprun r WHERE ended IS NOT NULL AND id IN "
        f"({','.join(map(str, runs))}) ORDER BY started"
    )
    assert len(ordered) >= 8
    assert all(a["ended"] <= b["started"] for a, b in itertools.pairwise(ordered))
    by = {row["runner"].partition("/")[0] for row in database.runs("quick")}
    assert len(by) > 1, "several processes took part"
