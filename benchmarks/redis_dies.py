"""What callers notice when Redis stands still, dies, is full, talks nonsense, or changes hands.

Run: ``python -m benchmarks.redis_dies [--faults stop,kill,…] [--quick] [--json]``. A real server
with the generated demo has real Redis servers below L1, and four threads ask it over HTTP, each its
next question as soon as it has an answer. Half of the questions are hot (L1), a third come back
after L1 has forgotten them (the Redis), the others are new (the model). L1 is small, 60 entries, so
that the level below has much to do. Meanwhile one fault after the other is injected:

- one Redis as L2: ``stop`` (SIGSTOP), ``kill`` (SIGKILL, and a new, empty one), ``full``
  (``noeviction`` and no room), ``rubbish`` (all keys are overwritten, 50 times a second);
- three servers and three Sentinels as L3: ``failover`` (the master is killed);
- a cluster of six as L3: ``slots`` (200 slots move to another master), ``node`` (a master is
  killed, and its replica takes over).

A breaker must open within 250 ms: what was asked later, until the fault is mended, is compared with
what was asked in the healthy phases of the same servers. What was asked in those 250 ms has a row
of its own, and so has the recovery, until /health says that the level is ok; its seconds count from
the moment when the servers are well again. With --quick a phase has some 300 requests: one pause of
the server for another reason decides its 99th percentile.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import httpx
import numpy as np

from tests import servers
from tests.faults import ARRANGEMENTS, Arrangement, Fault
from tests.journeys.conftest import ROOT, environment, free_port, manage

THREADS = 4
BETWEEN_TRIES = 0.2
"""Seconds that a fault lasts longer than others: the breaker tries once a second, and a Redis that
came back just before it does would be found at once."""
OPENING = 0.25
"""Seconds after which the breaker must be open."""
MOST_ADDED = 20.0
"""Milliseconds that the 99th percentile may grow by, once it is open."""
MOST_RECOVERY = 2.0
"""Seconds in which it must close, once Redis is back."""
FAULTS = {
    **dict.fromkeys(("stop", "kill", "full", "rubbish"), "one"),
    "failover": "sentinel",
    **dict.fromkeys(("slots", "node"), "cluster"),
}
"""The faults, with the arrangement of each."""
HOT, POOL = 30, 150
"""Questions that come again at once, and those that come again later."""

SETTINGS = """
from recserve_project.settings import *

RECSERVE["CACHE"] |= {"L1": {"CAPACITY": 60}, **%r}
"""


class Asked(NamedTuple):
    """One request: when, for how long, and what came of it."""

    at: float
    seconds: float
    status: int
    """0: no answer at all."""
    source: str


class Load(threading.Thread):
    """Asks, and asks again."""

    fresh = itertools.count()

    def __init__(self, url: str, token: str, users: list[str], number: int) -> None:
        super().__init__(daemon=True)
        self.asked: list[Asked] = []
        self.ended = threading.Event()
        self._rng = Random(number)
        self._users = users
        self._client = httpx.Client(
            base_url=f"{url}/api/v1/", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    def _question(self) -> dict[str, Any]:
        rng, users = self._rng, self._users
        kind = rng.random()
        if kind < 0.5:
            return {"user_id": users[rng.randrange(HOT) % len(users)]}
        if kind < 0.8:
            number = rng.randrange(POOL)
            return {"user_id": users[number % len(users)], "context": {"page": number}}
        return {"user_id": rng.choice(users), "context": {"visit": next(self.fresh)}}

    def run(self) -> None:
        """Ask until told to end."""
        with self._client as client:
            while not self.ended.is_set():
                body = self._question()
                at = time.monotonic()
                status, source = 0, "none"
                with contextlib.suppress(httpx.TransportError):
                    response = client.post("predict", json=body)
                    status = response.status_code
                seconds = time.monotonic() - at
                if status == 200:
                    source = response.json()["source"]
                self.asked.append(Asked(at, seconds, status, source))


@contextlib.contextmanager
def serving(cache: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Run a server with the generated demo and these levels; give its URL, a token, the users."""
    with tempfile.TemporaryDirectory() as folder:
        var = Path(folder)
        port = free_port()
        manage(var, "migrate", "--verbosity", "0")
        manage(var, "demo", "--port", str(port))
        demo = json.loads((var / "demo.json").read_text("utf-8"))
        ids = next((var / "models").glob("demo-*/factorisation_features/ids.npy"))
        users = [user.decode() for user in np.load(ids, allow_pickle=False)]
        (var / "settings_of_redis_dies.py").write_text(SETTINGS % (cache,), "utf-8")
        with (var / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", str(port)],
                cwd=ROOT,
                env={
                    **environment(var),
                    "DJANGO_SETTINGS_MODULE": "settings_of_redis_dies",
                    "PYTHONPATH": os.pathsep.join((folder, os.environ.get("PYTHONPATH", ""))),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            servers.wait_for(
                lambda: process.poll() is not None or is_ready(demo["url"]), 120, what="it serves"
            )
            assert process.poll() is None, "the server ended"
            yield demo["url"], demo["token"], users
        except BaseException:
            print((var / "server.log").read_text("utf-8", "replace")[-4000:], file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def is_ready(url: str) -> bool:
    """Return whether the server answers, and is ready."""
    try:
        return httpx.get(f"{url}/api/v1/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def until_ok(url: str, level: str, most: float = 20.0) -> float:
    """Return how many seconds it took until /health said that the level is ok, every 20 ms."""
    began = time.monotonic()
    with httpx.Client(timeout=5) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                health = client.get(f"{url}/api/v1/health").json()
                if health["cache"][level] == "ok":
                    return time.monotonic() - began
            if time.monotonic() - began > most:
                raise AssertionError(f"{level} was not ok within {most} s")
            time.sleep(0.02)


class Phases:
    """When each phase began, and how long each recovery took."""

    def __init__(self) -> None:
        self.began: list[tuple[str, float]] = []
        self.recovery: dict[str, float] = {}

    def begin(self, name: str, lasts: float = 0.0) -> None:
        """Begin a phase, and wait."""
        self.began.append((name, time.monotonic()))
        time.sleep(lasts)

    def go_through(self, fault: Fault, url: str, level: str, seconds: float) -> None:
        """Go through a fault, from a healthy phase to the recovery."""
        name = fault.name
        self.begin(f"healthy before {name}", seconds)
        self.begin(f"{name}, first 250 ms")
        began = time.monotonic()
        fault.inject()
        time.sleep(max(0.0, began + OPENING - time.monotonic()))
        self.begin(name, seconds + BETWEEN_TRIES - OPENING)
        # Starting a server stops this process, and with it the clients, for a moment.
        self.begin(f"{name}, until ok")
        fault.mend()
        self.recovery[name] = until_ok(url, level)


def measure(
    arrangement: Arrangement, wanted: set[str], seconds: float
) -> tuple[Phases, list[Asked]]:
    """Go through the faults of an arrangement; return the phases, and what was asked."""
    phases = Phases()
    with serving(arrangement.cache) as (url, token, users):
        threads = [Load(url, token, users, number) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        phases.begin("warming up", seconds)
        until_ok(url, arrangement.level)
        for fault in arrangement.faults:
            if fault.name in wanted:
                phases.go_through(fault, url, arrangement.level, seconds)
        phases.begin("healthy at last", seconds)
        phases.begin("end")
        for thread in threads:
            thread.ended.set()
        for thread in threads:
            thread.join(60)
    return phases, [each for thread in threads for each in thread.asked]


def percentile(ordered: list[float], part: float) -> float:
    """Return a percentile of ordered values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def row(asked: list[Asked]) -> dict[str, Any]:
    """Return what one phase was like."""
    ordered = sorted(each.seconds * 1000 for each in asked)
    return {
        "requests": len(asked),
        "not_2xx": sum(not 200 <= each.status < 300 for each in asked),
        "p50": percentile(ordered, 0.5),
        "p99": percentile(ordered, 0.99),
        "max": ordered[-1],
        "sources": dict(Counter(each.source for each in asked)),
    }


def rows_of(phases: Phases, asked: list[Asked]) -> dict[str, dict[str, Any]]:
    """Return a row for each phase; a request belongs to the one in which it was asked."""
    by_phase: dict[str, list[Asked]] = {}
    for (name, start), (_, end) in itertools.pairwise(phases.began):
        by_phase[name] = [each for each in asked if start <= each.at < end]
    healthy = [each for name, some in by_phase.items() if "healthy" in name for each in some]
    kept = {name: some for name, some in by_phase.items() if "healthy" not in name and some}
    return {"healthy": row(healthy), **{name: row(some) for name, some in kept.items()}}


def show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print a table."""
    sources = sorted({source for found in rows.values() for source in found["sources"]})
    print(f"\n{title:23}{'requests':>9}{'not 2xx':>9}{'p50':>8}{'p99':>8}{'max':>8}", end="")
    print("".join(f"{source:>8}" for source in sources))
    for name, found in rows.items():
        print(f"{name:23}{found['requests']:9}{found['not_2xx']:9}", end="")
        print("".join(f"{found[key]:8.1f}" for key in ("p50", "p99", "max")), end="")
        of_all = 100 / found["requests"]
        print("".join(f"{found['sources'].get(source, 0) * of_all:8.1f}" for source in sources))


def bars_of(phases: Phases, rows: dict[str, dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """Return each bar with its figure, and whether it holds."""
    bars = []
    healthy = rows["healthy"]["p99"]
    for name, took in phases.recovery.items():
        p99 = rows[name]["p99"]
        bars += [
            (
                f"{name}: p99 at most {MOST_ADDED:g} ms longer",
                f"{p99:.1f} ms after {healthy:.1f} while healthy",
                p99 - healthy <= MOST_ADDED,
            ),
            (f"{name}: ok within {MOST_RECOVERY:g} s", f"{took:.2f} s", took <= MOST_RECOVERY),
        ]
    return bars


def main() -> None:
    """Measure, and print a table for each arrangement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", default=",".join(FAULTS), help="some of %(default)s")
    parser.add_argument("--quick", action="store_true", help="phases of 2 s, not of 5")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    options = parser.parse_args()
    seconds = 2.0 if options.quick else 5.0
    wanted = set(options.faults.split(","))
    if unknown := wanted - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")

    print(f"{THREADS} threads over HTTP, ms; the last columns are answers by source, in percent")
    told: dict[str, Any] = {"phases": {}, "recovery_seconds": {}, "holds": {}}
    bars: list[tuple[str, str, bool]] = []
    not_2xx = requests = 0
    for title, arrange in ARRANGEMENTS.items():
        if not wanted & {fault for fault, of in FAULTS.items() if of == title}:
            continue
        with arrange() as arrangement:
            phases, asked = measure(arrangement, wanted, seconds)
        rows = rows_of(phases, asked)
        show(title, rows)
        bars += bars_of(phases, rows)
        not_2xx += sum(not 200 <= each.status < 300 for each in asked)
        requests += len(asked)
        told["phases"][title] = rows
        told["recovery_seconds"] |= phases.recovery
    bars.insert(0, ("every answer 2xx", f"{not_2xx} of {requests} were not", not_2xx == 0))
    print()
    for bar, figure, holds in bars:
        print(f"{bar}: {figure}: {'holds' if holds else 'MISSED'}")
    if options.json:
        told["holds"] = {bar: holds for bar, _, holds in bars}
        print(json.dumps(told))


if __name__ == "__main__":
    main()
