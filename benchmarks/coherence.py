"""How long another process may serve what was invalidated, after the invalidation has returned.

Run: ``python -m benchmarks.coherence [--quick] [--json]``. One process invalidates a user again and
again; another asks for that user's generation some 4,000 times a second, as every request does, and
notes when it changes. Both read one clock (CLOCK_MONOTONIC). Four ways of hearing of it are
measured: the epoch file of one host; the bus over a real Redis, as between hosts; neither, when the
database is looked at every `RECONCILE_SECONDS` (1 s); and strict coherence, when the database is
asked at every request. A lag below zero means that the other process had stopped serving the old
answer before the invalidation returned. The lag counts from the return to when the watcher asks
next: with strict coherence, a question after the return is always answered by the new generation.

What asking for a generation costs a request is measured too, by one thread and by 16.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BAR = 0.005
"""Seconds, at the 99th percentile."""

PROCESS = """
import os, sys, time
os.environ["DJANGO_SETTINGS_MODULE"] = "recserve_project.settings"
import json
from recserve_project import settings
settings.RECSERVE = json.loads(sys.argv[1])
import django
django.setup()
from cache_app import wiring
from cache_app.core.generations import scopes_of
from cache_app.invalidation import invalidate

generations = wiring.get_generations()
wiring.start()
scopes = scopes_of(user_id="u", model_name="m", version=1)
"""

OBSERVER = (
    PROCESS
    + """
seen = generations.of(scopes)
print("ready", flush=True)
refresh = time.monotonic() + 1.0
while True:
    time.sleep(0.0002)
    now = generations.of(scopes)
    if now != seen:
        print(now, time.monotonic(), flush=True)
        seen = now
    if time.monotonic() >= refresh:  # what the reconciler does at each pass
        generations.refresh()
        refresh = time.monotonic() + 1.0
"""
)

COST = (
    PROCESS
    + """
from threading import Thread
from django.db import connection

def ask(times):
    for _ in range(times):
        generations.of(scopes)
    connection.close()

ask(200)
costs = []
for threads, times in ((1, 3000), (16, 400)) * 3:
    workers = [Thread(target=ask, args=(times,)) for _ in range(threads)]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    costs.append((time.monotonic() - began) / threads / times * 1e6)
print(sorted(costs[::2])[1], sorted(costs[1::2])[1])
wiring.reset()
"""
)

WRITER = (
    PROCESS
    + """
time.sleep(1.0)
for _ in range(int(sys.argv[2])):
    epoch = invalidate(user_id="u")
    print(epoch, time.monotonic(), flush=True)
    time.sleep(float(sys.argv[3]))
wiring.reset()
"""
)


def lags(
    cache: dict[str, dict[str, Any]], environment: dict[str, str], rounds: int, pause: float
) -> list[float]:
    """Return for each invalidation how many seconds after its return the other process knew it."""

    def python(code: str, role: str, *arguments: str) -> subprocess.Popen[str]:
        settings = json.dumps({"CACHE": cache[role]})
        return subprocess.Popen(
            [sys.executable, "-c", code, settings, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    with python(OBSERVER, "observer") as observer:
        assert observer.stdout is not None
        assert observer.stdout.readline() == "ready\n"
        with python(WRITER, "writer", str(rounds), str(pause)) as writer:
            assert writer.stdout is not None
            returned = [line.split() for line in writer.stdout]
        time.sleep(1.5)
        observer.kill()
        seen = [line.split() for line in observer.stdout]
    known = [(int(generation), float(at)) for generation, at in seen]
    return [
        min(at for generation, at in known if generation >= int(epoch)) - float(at_return)
        for epoch, at_return in returned
    ]


def cost(cache: dict[str, Any], environment: dict[str, str]) -> tuple[float, ...]:
    """Return the microseconds that a generation costs, by one thread and by 16."""
    shown = subprocess.run(
        [sys.executable, "-c", COST, json.dumps({"CACHE": cache})],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return tuple(float(each) for each in shown.split())


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = 60 if options.quick else 400

    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "RECSERVE_VAR": folder, "RECSERVE_LOG_LEVEL": "ERROR"}
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
            env=environment,
            check=True,
        )
        epochs = {"EPOCH_FILE": str(Path(folder) / "epoch")}
        results = {
            "epoch file": lags({"observer": epochs, "writer": epochs}, environment, rounds, 0.01)
        }
        strict = {**epochs, "COHERENCE": "strict"}
        results["strict"] = lags({"observer": strict, "writer": strict}, environment, rounds, 0.01)
        costs = {"bounded": cost(epochs, environment), "strict": cost(strict, environment)}
        results["database alone"] = lags(
            {"observer": {}, "writer": {}}, environment, max(5, rounds // 40), 0.3
        )
        from tests import servers

        with servers.one() as server:
            redis = {"L2": {"BACKEND": "redis", "URL": server.url}}
            results["redis bus"] = lags(
                {"observer": redis, "writer": redis}, environment, rounds, 0.01
            )

    print(f"Lag after the invalidation returned, in ms; {rounds} invalidations\n")
    print(f"{'':18}{'p50':>9}{'p99':>9}{'most':>9}")
    summary = {}
    for name, values in results.items():
        ordered = sorted(value * 1000 for value in values)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        summary[name] = {"p50": statistics.median(ordered), "p99": p99, "max": ordered[-1]}
        print(f"{name:18}{summary[name]['p50']:9.2f}{p99:9.2f}{ordered[-1]:9.2f}")
    for mode, (alone, crowd) in costs.items():
        print(f"\na generation, {mode}: {alone:.1f} us alone, {crowd:.1f} us in 16 threads", end="")
    print()
    for name in ("epoch file", "redis bus", "strict"):
        p99 = summary[name]["p99"]
        verdict = "holds" if p99 <= BAR * 1000 else "MISSED"
        print(f"\n{name}: p99 {p99:.2f} ms, bar {BAR * 1000:g}: {verdict}")
    if options.json:
        print(json.dumps({"milliseconds": summary, "generation_us": costs}))


if __name__ == "__main__":
    main()
