"""What live requests notice of a warm-up that runs beside them, and how soon it stops.

A real server with the demo, and a client in a process of its own that sends requests at fixed
times, whatever the answers do; latencies count from those times. Some are hits, the others new
questions, that the model computes. Short spells with and without a running warm-up follow one
another in random order, so that what else the machine does meets both. The warm-up asks for
questions that nobody has asked, at the defaults of a schedule.

Run: python -m benchmarks.warmup_load [--quick] [--json]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
USERS, MISSES, THREADS = 300, 0.3, 8
"""Users who ask, the part of their questions that are new, and threads that send."""
_IDLE = 2.0
SETTLE = 1.0
"""Seconds at the start of a spell that are not counted."""


class Caller:
    """A client of the API."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._used = 0.0
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer's body."""
        sent = None if body is None else json.dumps(body)
        if self._used + _IDLE < time.monotonic():  # the server closes what is idle
            self._connection.close()
        self._used = time.monotonic()
        self._connection.request(method, f"/api/v1/{path}", sent, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text else None


def client(given: Mapping[str, Any]) -> None:
    """Send requests at their times, and print the latencies in ms; runs in its own process."""
    latencies: list[float] = []
    gap = THREADS / given["rate"]
    began = time.perf_counter() + 0.2

    def send(number: int) -> None:
        call = Caller(given["port"], given["token"])
        rng = random.Random(f"{given['spell']}-{number}")
        due = began + gap * number / THREADS
        while due < began + given["seconds"]:
            time.sleep(max(0.0, due - time.perf_counter()))
            new = rng.random() < MISSES
            context = {"new": rng.random()} if new else {"page": "home"}
            call("POST", "predict", {"user_id": str(rng.randrange(1, USERS)), "context": context})
            if due > began + SETTLE:
                latencies.append((time.perf_counter() - due) * 1000)
            due += gap

    threads = [threading.Thread(target=send, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(latencies))


@contextmanager
def server(folder: Path, workers: int) -> Iterator[dict[str, Any]]:
    """The demo's server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "RECSERVE_VAR": str(folder), "RECSERVE_LOG_LEVEL": "WARNING"}
    manage = [sys.executable, "manage.py"]
    for command in (["migrate", "-v0"], ["demo", "--port", str(port)]):
        subprocess.run([*manage, *command], cwd=ROOT, env=env, check=True, capture_output=True)
    demo = json.loads((folder / "demo.json").read_text())
    serve = ["serve", "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen([*manage, *serve], cwd=ROOT, env=env)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                token = Caller(port, "")("POST", "token", _credentials(demo))["access"]
                break
            except (OSError, http.client.HTTPException):
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        yield {"port": port, "token": demo["token"], "operator": token}
    finally:
        process.terminate()
        process.wait(60)


def _credentials(demo: Mapping[str, str]) -> dict[str, str]:
    return {"username": demo["username"], "password": demo["password"]}


def spell(running: Mapping[str, Any], number: int, rate: float, seconds: float) -> list[float]:
    """Return the latencies of one spell, in ms."""
    given = {"port": running["port"], "token": running["token"], "rate": rate}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.warmup_load", "--client"],
        input=json.dumps({**given, "seconds": seconds, "spell": number}),
        cwd=ROOT,
        check=True,
        text=True,
        capture_output=True,
    )
    return list(json.loads(done.stdout))


def begin(call: Caller, number: int) -> int:
    """Start a warm-up that has much to do, and return it once it is under way."""
    requests = [
        {"user_id": str(n % USERS + 1), "context": {"warm": [number, n]}} for n in range(1500)
    ]
    body = {"strategy": "from_list", "options": {"requests": requests}, "budget": len(requests)}
    pk: int = call("POST", "cache/warmup", body)["id"]
    while not call("GET", f"warmup-runs/{pk}")["warmed"]:
        time.sleep(0.05)
    return pk


def end(call: Caller, pk: int) -> dict[str, float]:
    """Stop it; return what it did, and the seconds until it had stopped."""
    told = time.monotonic()
    call("POST", f"warmup-runs/{pk}/stop")
    while (run := call("GET", f"warmup-runs/{pk}"))["state"] == "running":
        time.sleep(0.02)
    return {"warmed": run["warmed"], "seconds": run["seconds"], "stopped": time.monotonic() - told}


def p(latencies: list[float], percent: float) -> float:
    """Return a percentile."""
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def compare(arms: Mapping[str, list[list[float]]], rng: random.Random) -> dict[str, Any]:
    """Return the percentiles of both arms, and their ratio with its interval over spells."""
    figures: dict[str, Any] = {}
    for percent in (50, 99):
        pooled = {arm: p([x for each in arms[arm] for x in each], percent) for arm in arms}
        ratios = []
        for _ in range(1000):
            drawn = {
                arm: [x for each in rng.choices(spells, k=len(spells)) for x in each]
                for arm, spells in arms.items()
            }
            ratios.append(p(drawn["with"], percent) / p(drawn["without"], percent))
        figures[f"p{percent}_ms"] = {arm: round(value, 3) for arm, value in pooled.items()}
        figures[f"p{percent}_ratio"] = round(pooled["with"] / pooled["without"], 3)
        figures[f"p{percent}_ratio_90"] = [round(p(ratios, q), 3) for q in (5, 95)]
    return figures


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and short spells")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rate", type=float, default=100.0, help="live requests a second")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        client(json.loads(sys.stdin.read()))
        return
    pairs, seconds = (3, 3.0) if given.quick else (40, 4.0)
    arms: dict[str, list[list[float]]] = {"without": [], "with": []}
    stops: list[dict[str, float]] = []
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), given.workers) as running:
        call = Caller(running["port"], running["operator"])
        spell(running, -1, given.rate, seconds)  # everything that is made once, is
        for number in range(pairs):
            for arm in rng.sample(list(arms), 2):
                run = begin(call, number) if arm == "with" else None
                arms[arm].append(spell(running, 2 * number + (arm == "with"), given.rate, seconds))
                if run is not None:
                    stops.append(end(call, run))
    results = {
        "rate": given.rate,
        "workers": given.workers,
        "requests": {arm: sum(map(len, spells)) for arm, spells in arms.items()},
        **compare(arms, rng),
        "warmed_per_second": round(
            sum(each["warmed"] for each in stops) / sum(each["seconds"] for each in stops), 1
        ),
        "stopped_seconds": {
            "median": round(statistics.median(each["stopped"] for each in stops), 3),
            "longest": round(max(each["stopped"] for each in stops), 3),
        },
    }
    for name, value in results.items():
        print(f"{name.replace('_', ' '):<20}{value}")
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
