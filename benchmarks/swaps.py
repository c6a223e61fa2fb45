"""What callers notice of 200 swaps and roll-backs.

Run: ``python -m benchmarks.swaps [--quick] [--json]``. A real server with two worker processes and
the generated demo is asked over HTTP at 70 % of what it answers at most, open-loop: requests are
due at fixed times, whether or not earlier ones have been answered, and their latency counts from
when they were due. Each has a context of its own, so that all go to a model. Meanwhile production
is promoted from the PyTorch version to one in NumPy with the opposite ranking, and rolled back, in
turn.

The peer is the same server under the same load a moment before, while nothing is swapped; the load
runs in both parts of each round, steady first, and each round's ratio is of its own parts. A swap
comes every `EVERY` seconds, so that each is followed by every process; at a faster pace, most would
be undone before a process looked.

L1 is small, and full before it begins, so that what memory grows by is not cached answers.

An answer must be of a version that was live when it was asked, or has become live since: of the one
that was promoted when the request was sent, or, as processes follow within `RECONCILE_SECONDS`, of
one that was within the last `FOLLOW` seconds, or of one promoted before the answer came.
As swaps come faster than that, either of the two versions is allowed while they do; but each answer
must begin with the item that the version it names gives this user, so that none is computed by one
version and named after, or cached for, the other.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import numpy as np

from tests.journeys.conftest import Server, free_port, manage, start, stop

WORKERS = 2
CLIENTS = 16
LOAD = 0.7
EVERY = 1.5
"""Seconds from one swap to the next."""
FOLLOW = 2.5
"""Seconds within which the slowest process follows: a look at the database a second, and a load."""
VERSIONS = (2, 5)
"""The demo's PyTorch version of ``default``, and the one that `oppose` adds."""
MOST_P99 = 1.25
MOST_MEMORY = 1.1


class Asked(NamedTuple):
    """One request."""

    sent: float
    done: float
    late: float
    """Seconds from when it was due to its answer."""
    status: int
    version: int
    user: str
    item: str
    """The first of the answer."""


class Load:
    """Clients that ask at given times, or, without a rate, as fast as they are answered."""

    def __init__(self, server: Server, users: list[str]) -> None:
        self._server = server
        self._users = users
        self._n = 0
        self._lock = threading.Lock()
        self._clients = [server.client() for _ in range(CLIENTS)]

    def run(self, seconds: float, rate: float | None) -> list[Asked]:
        """Ask for some seconds, ``rate`` requests a second."""
        started = time.monotonic()
        turn = iter(range(10**9))
        asked: list[Asked] = []

        def client(http: httpx.Client) -> None:
            while True:
                with self._lock:
                    n = next(turn)
                    self._n += 1
                    number = self._n
                due = time.monotonic() if rate is None else started + n / rate
                if due - started >= seconds:
                    return
                time.sleep(max(0.0, due - time.monotonic()))
                body = {
                    "user_id": self._users[number % len(self._users)],
                    "context": {"n": number},
                }
                sent = time.monotonic()
                try:
                    response = http.post("predict", json=body)
                    status = response.status_code
                    answer = response.json()
                except httpx.TransportError:
                    status, answer = 0, {}
                done = time.monotonic()
                version = answer.get("model_version") or 0
                item = next(iter(answer.get("recommendations", ())), "")
                user = str(body["user_id"])
                asked.append(Asked(sent, done, done - due, status, version, user, item))

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client, self._clients))
        return asked


def oppose(server: Server) -> None:
    """Register a version whose scores are the negatives of the demo's NumPy version."""
    with server.administrator() as http:
        versions = http.get("models/default/versions", params={"page_size": 50}).json()["results"]
        model = next(each for each in versions if each["framework"] == "numpy_linear")
        of = server.var / "models" / model["artifact"]
        with np.load(of) as arrays:
            negated = {**arrays, "weights": -arrays["weights"], "bias": -arrays["bias"]}
        np.savez(of.with_name("opposite.npz"), **negated)
        taken = ("framework", "catalogue", "feature_names", "output", "feature_source")
        body = {name: model[name] for name in (*taken, "feature_source_options")}
        body["artifact"] = str(Path(model["artifact"]).with_name("opposite.npz"))
        made = http.post("models/default/versions", json=body)
        assert made.json().get("number") == VERSIONS[1], made.text


def first_items(server: Server, users: list[str], version: int) -> dict[tuple[int, str], str]:
    """Return the first item of each user by the version that is live."""
    with server.client() as http:
        found = {}
        for start in range(0, len(users), 50):
            requests = [{"user_id": user} for user in users[start : start + 50]]
            answer = http.post("predict/batch", json={"requests": requests}).json()
            for user, result in zip(users[start:], answer["results"], strict=False):
                assert result["model_version"] == version, result
                found[version, user] = result["recommendations"][0]
        return found


def memory(server: Server) -> float:
    """Return the resident bytes of the server's processes, without mapped files, in MiB.

    The embedded L2 is such a file; it grows by what is asked, and belongs to the system's cache.
    """
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,rss="], capture_output=True, text=True, check=True
    )
    rows = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    family = {server.process.pid}
    for _ in range(3):
        family |= {pid for pid, parent, _ in rows if parent in family}
    return sum(_own_memory(pid, rss) for pid, _, rss in rows if pid in family) / 1024


def _own_memory(pid: int, rss: int) -> int:
    """Return a process's memory in KiB, that of files left out where the system tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return rss
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return rss if found is None else int(found[1])


class Swapper(threading.Thread):
    """Promotes and rolls back in turn, and remembers when which version was to be live."""

    def __init__(self, server: Server, every: float) -> None:
        super().__init__(daemon=True)
        self._http = server.administrator()
        self._every = every
        self.ended = threading.Event()
        self.live: list[tuple[float, int]] = []
        """When a swap was asked for, and to which version; the first is what was live before."""
        self.swaps = 0

    def note(self, version: int) -> None:
        """Remember what is live."""
        self.live.append((time.monotonic(), version))

    def promote(self, version: int) -> None:
        """Promote a version, and wait until one process has it."""
        self.note(version)
        body = {"version": version, "wait_seconds": 120}
        self._http.post("models/default/promote", json=body).raise_for_status()

    def run(self) -> None:
        """Swap until told to end."""
        began = time.monotonic()
        while not self.ended.is_set():
            if self.swaps % 2 == 0:
                self.promote(VERSIONS[1])
            else:
                self.note(VERSIONS[0])
                self._http.post("models/default/rollback").raise_for_status()
            self.swaps += 1
            self.ended.wait(max(0.0, began + self.swaps * self._every - time.monotonic()))

    def may_answer(self, asked: Asked) -> set[int]:
        """Return the versions that may have answered a request."""
        until = [*[at for at, _ in self.live[1:]], float("inf")]
        return {
            version
            for (since, version), end in zip(self.live, until, strict=True)
            if since <= asked.done and end >= asked.sent - FOLLOW
        }


def p99(asked: list[Asked]) -> float:
    """Return the 99th percentile in milliseconds."""
    return float(np.percentile([each.late for each in asked], 99) * 1000)


def measure(server: Server, users: list[str], *, swaps: int, rounds: int) -> dict[str, Any]:
    """Run steady and swapping halves in turn."""
    load = Load(server, users)
    swapper = Swapper(server, 0.0)
    firsts: dict[tuple[int, str], str] = {}
    for version in (*VERSIONS, *VERSIONS[:1]):  # both are warm, and the first is live
        swapper.promote(version)
        time.sleep(FOLLOW)
        firsts |= first_items(server, users, version)
        load.run(2.0, None)
    differ = sum(firsts[VERSIONS[0], user] != firsts[VERSIONS[1], user] for user in users)
    assert differ > 0.9 * len(users), "the two versions can hardly be told apart"
    capacity = len(load.run(4.0, None)) / 4.0
    rate = LOAD * capacity
    load.run(2.0, rate)
    before = memory(server)
    ratios, steady_p99, swap_p99 = [], [], []
    failed = wrong = mistaken = answers = done = 0
    seen: set[int] = set()
    for _ in range(rounds):
        seconds = EVERY * swaps / rounds
        steady = load.run(max(5.0, seconds / 3), rate)
        one = Swapper(server, EVERY)
        one.note(VERSIONS[0])
        with ThreadPoolExecutor(1) as pool:
            loaded = pool.submit(load.run, seconds + 1.0, rate)
            one.start()
            swapping = loaded.result()
            one.ended.set()
            one.join()
        done += one.swaps
        answers += len(swapping)
        failed += sum(each.status != 200 for each in steady + swapping)
        wrong += sum(
            each.status == 200 and each.version not in one.may_answer(each) for each in swapping
        )
        mistaken += sum(
            each.status == 200 and firsts.get((each.version, each.user)) != each.item
            for each in steady + swapping
        )
        seen |= {each.version for each in swapping}
        steady_p99.append(p99(steady))
        swap_p99.append(p99(swapping))
        ratios.append(swap_p99[-1] / steady_p99[-1])
        if one.swaps % 2:  # begin each round with the same version
            one.note(VERSIONS[0])
            one.promote(VERSIONS[0])
        time.sleep(FOLLOW)
    after = memory(server)
    return {
        "swaps": done,
        "answers_during_swaps": answers,
        "versions_seen": sorted(seen),
        "failed": failed,
        "wrong_version": wrong,
        "not_what_its_version_answers": mistaken,
        "capacity_per_s": round(capacity, 1),
        "p99_steady_ms": round(statistics.median(steady_p99), 2),
        "p99_swapping_ms": round(statistics.median(swap_p99), 2),
        "p99_ratio": round(statistics.median(ratios), 3),
        "memory_ratio": round(after / before, 3),
        "memory_mib": round(after, 1),
    }


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 swaps in place of 200")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        var, port = Path(folder), free_port()
        manage(var, "migrate", "--verbosity", "0")
        manage(var, "demo", "--port", str(port))
        ids = next((var / "models").glob("demo-*/factorisation_features/ids.npy"))
        users = [str(user) for user in np.load(ids)[:500]]
        server = start(var, port, workers=WORKERS, settings="benchmarks.small_cache_settings")
        try:
            oppose(server)
            swaps, rounds = (20, 2) if options.quick else (200, 5)
            found = measure(server, users, swaps=swaps, rounds=rounds)
        finally:
            stop(server)
    for name, value in found.items():
        print(f"{name:24} {value}")
    bars = {
        "no failed request": found["failed"] == 0,
        "no answer of a version that was not live": found["wrong_version"] == 0,
        "each answer is its version's": found["not_what_its_version_answers"] == 0,
        f"p99 at most {MOST_P99} x steady": found["p99_ratio"] <= MOST_P99,
        f"memory at most {MOST_MEMORY} x": found["memory_ratio"] <= MOST_MEMORY,
    }
    for bar, holds in bars.items():
        print(f"{'holds ' if holds else 'MISSED'} {bar}")
    if options.json:
        print(json.dumps({**found, "bars": bars}))


if __name__ == "__main__":
    main()
