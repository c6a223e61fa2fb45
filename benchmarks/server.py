"""``POST /predict`` over HTTP: the lane by both entrances, Django's door, and others.

Run: ``python -m benchmarks.server [--quick] [--json] [--only hit,redis,…]``; it needs
``requirements/bench.txt`` and PyTorch. Every server is one process (recserve's with its model host
beside it) on one core; the client, in this process, has another, and a Redis shares that. Rounds
are interleaved, figures are medians, and a round with an answer that is no 200 ends the run. CPU is
the server's, its children's included, and not Redis's.

- ``lane`` is the lane as ``manage.py serve`` runs it, entered by uvicorn's protocol class; ``asgi``
  the same entered through ASGI; ``django`` Django's door of the same installation, and ``wsgi`` the
  same door under a WSGI server (granian, four threads).
- ``empty`` is an ASGI application that only reads the body; ``fastapi`` a service of the usual
  shape. ``redis`` and ``fastapi-redis`` are the lane and that service where answers are in a Redis
  and not in memory.

- ``litserve``, ``mlserver`` and ``triton`` (its Python backend) serve the same TorchScript file,
  with their batching on, without users, tokens and a cache, from environments that
  ``scripts/make-peers`` makes (``--peers``);
  ``lane-2`` is the lane with two workers, on two cores.

Rows are hits (``hit``), hits in Redis (``redis``), misses (``miss``), calls of ``/predict/batch``
with 32 misses (``batch``), ``/v2/models/default/infer`` of one row (``infer``), hits of one and two
workers (``workers``), and the memory that server and model take after some misses (``memory``).
``open-hit`` and ``open-miss`` are open loops: requests at random instants, 0.7 times as many as the
server answered in the closed loop of the same kind just before; how long one takes is counted from
the instant when it was due.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks.contestants import CLIENT_CORE, ROOT, Server, running
from benchmarks.http_load import (
    USERS,
    Load,
    OpenLoad,
    batches,
    bodies,
    feature_rows,
    inference,
    request_bytes,
)
from benchmarks.process_memory import of_processes, together

IN_REDIS = 2_000
"""Users whose answers are asked for in turn, where they are in Redis."""


class Row(NamedTuple):
    """What is asked, by how many connections, of whom."""

    kind: str
    connections: int
    servers: tuple[str, ...]

    @property
    def name(self) -> str:
        """How figures call it."""
        return f"{self.kind} {self.connections}"


class Ratio(NamedTuple):
    """How one server stands to another (the better of several) in a row, and the bar for it."""

    name: str
    row: str
    server: str
    to: tuple[str, ...]
    bar: float | None = None
    hoped: float | None = None
    workers: int = 1
    """As many as the server has more than the other: what it could answer if each had a core."""


ALL = ("lane", "asgi", "wsgi", "django", "empty", "fastapi")
# Memory first: what later rows leave in caches would count as well.
ROWS = (
    Row("memory", 64, ("lane", "litserve", "mlserver")),
    Row("hit", 16, ALL),
    Row("hit", 64, ALL),
    Row("redis", 64, ("redis", "fastapi-redis")),
    Row("miss", 64, ("lane", "wsgi", "fastapi", "litserve", "mlserver", "triton")),
    Row("batch", 4, ("lane", "fastapi")),
    Row("infer", 16, ("lane", "django")),
    Row("workers", 64, ("lane", "lane-2")),
    Row("open-hit", 64, ("lane", "asgi", "wsgi", "fastapi")),
    Row("open-miss", 64, ("lane", "fastapi", "litserve", "mlserver", "triton")),
)
LOAD = 0.7
"""Of what a server can answer: the open loop's."""
RATIOS = (
    Ratio("lane hit, of empty", "hit 64", "lane", ("empty",), 0.70, 2.0),
    Ratio("lane hit, x fastapi, 64", "hit 64", "lane", ("fastapi",), 8.0, 20.0),
    Ratio("lane hit, x fastapi, 16", "hit 16", "lane", ("fastapi",), 6.0, 20.0),
    Ratio("lane hit, x django", "hit 64", "lane", ("django",)),
    Ratio("asgi hit, of empty", "hit 64", "asgi", ("empty",), 0.70),
    Ratio("asgi hit, x fastapi, 64", "hit 64", "asgi", ("fastapi",), 8.0),
    Ratio("asgi hit, x fastapi, 16", "hit 16", "asgi", ("fastapi",), 6.0),
    Ratio("redis hit, x fastapi", "redis 64", "redis", ("fastapi-redis",), 8.0, 30.0),
    Ratio("lane miss, x fastapi", "miss 64", "lane", ("fastapi",), 7.0, 12.0),
    Ratio("lane miss, x peers", "miss 64", "lane", ("litserve", "mlserver"), 3.0, 8.0),
    Ratio("lane miss, x triton", "miss 64", "lane", ("triton",), 1.5, 3.0),
    Ratio("batch of 32, x fastapi", "batch 4", "lane", ("fastapi",), 8.0, 15.0),
    Ratio("wsgi hit, x fastapi, 64", "hit 64", "wsgi", ("fastapi",), 1.0, 1.5),
    Ratio("wsgi hit, x fastapi, 16", "hit 16", "wsgi", ("fastapi",), 1.0, 1.5),
    Ratio("wsgi miss, x fastapi", "miss 64", "wsgi", ("fastapi",)),
    Ratio("lane infer, x django", "infer 16", "lane", ("django",)),
    Ratio("two workers, x one", "workers 64", "lane-2", ("lane",), 1.6, workers=2),
)

_INFER = (
    b"/v2/models/default/infer",
    b'{"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 64], "data": %s}]}',
)
PEERS = {
    "litserve": (b"/predict", b'{"features": %s}'),
    "mlserver": _INFER,
    "triton": _INFER,
}
"""How those are asked that know neither users nor tokens."""
MEMORY_BAR = 1.1

Figures = dict[str, dict[str, float]]
"""By server and row."""


def asker(server: Server, kind: str) -> Callable[[], bytes]:
    """Return what gives the next request."""
    if (peer := PEERS.get(server.name)) is not None:
        path, template = peer
        each = feature_rows(template)
        return lambda: request_bytes(server.token, next(each), path)
    if kind in {"hit", "open-hit", "redis", "workers"}:
        users = IN_REDIS if kind == "redis" else USERS
        known = [
            request_bytes(server.token, each) for each in itertools.islice(bodies("hit"), users)
        ]
        return itertools.cycle(known).__next__
    if kind == "infer":
        asked = request_bytes(server.token, inference(), b"/v2/models/default/infer")
        return itertools.repeat(asked).__next__
    if kind == "batch":
        calls = batches(secrets.token_hex(4))
        path = b"/api/v1/predict/batch"
        return lambda: request_bytes(server.token, next(calls), path)
    fresh = bodies(secrets.token_hex(4))
    return lambda: request_bytes(server.token, next(fresh))


def measure(server: Server, row: Row, seconds: float) -> None:
    """Run one round, and add its figures to the server's."""
    load = Load(asker(server, row.kind))
    before = server.seconds()
    rate = uvloop.run(load.run(server.port, row.connections, seconds))
    server.rates.setdefault(row.name, []).append(rate)
    spent = (server.seconds() - before) / max(1, load.answers)
    server.cpu.setdefault(row.name, []).append(spent * 1e6)


def measure_open(server: Server, row: Row, seconds: float) -> None:
    """Run a closed round, and an open one by what that has shown; keep how long answers took."""
    asks = asker(server, row.kind)
    rate = uvloop.run(Load(asks).run(server.port, row.connections, seconds / 2))
    load = OpenLoad(asks, LOAD * rate)
    uvloop.run(load.run(server.port, row.connections, seconds))
    taken = sorted(load.seconds)
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        ms = taken[min(len(taken) - 1, int(part * len(taken)))] * 1000
        server.latency.setdefault(f"{row.name} {name}", []).append(ms)
    server.latency.setdefault(f"{row.name} asked", []).append(LOAD * rate)


def warm_up(server: Server, rows: tuple[Row, ...], seconds: float) -> None:
    """Fill the caches, and let the interpreter specialise."""
    for row in rows:
        if server.name in row.servers and row.connections != 16:
            measure(server, row, 4 * seconds if row.kind == "redis" else seconds)
        if row.kind == "memory" and server.name in row.servers:
            server.memory = of_processes(server.pids())
    server.rates.clear()
    server.cpu.clear()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    kinds = ",".join(dict.fromkeys(row.kind for row in ROWS))
    parser.add_argument("--only", default=kinds, help="some of %(default)s")
    parser.add_argument(
        "--peers", default=str(ROOT / ".peers"), help="what scripts/make-peers made (%(default)s)"
    )
    arguments = parser.parse_args()
    rounds, seconds = (3, 1.0) if arguments.quick else (5, 3.0)
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(kinds.split(",")):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {kinds}")
    rows = tuple(row for row in ROWS if row.kind in wanted)
    names = list(dict.fromkeys(name for row in rows for name in row.servers))
    os.sched_setaffinity(0, {CLIENT_CORE})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end the servers, too
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), names, Path(arguments.peers)) as (found, skipped),
    ):
        for server in found:
            warm_up(server, rows, seconds)
        for _ in range(rounds):
            for row in rows:
                for server in found:
                    if server.name not in row.servers or row.kind == "memory":
                        continue
                    if row.kind.startswith("open-"):
                        measure_open(server, row, seconds)
                    else:
                        measure(server, row, seconds)
        report(found, skipped, as_json=arguments.json)


def report(found: list[Server], skipped: dict[str, str], *, as_json: bool) -> None:
    """Print medians, and how they stand to the bars."""
    for name, reason in skipped.items():
        print(f"{name} is left out: {reason}.")
    rates, cpu = _medians(found, "rates"), _medians(found, "cpu")
    for server, rows in rates.items():
        for row, rate in rows.items():
            print(f"{server:13} {row:8} {rate:9,.0f} requests/s {cpu[server][row]:9.1f} µs of CPU")
    latency = _medians(found, "latency")
    _report_latency(latency)
    by_rate = compared(rates)
    # On a machine that others use, too, CPU time says more than requests per second.
    by_cpu = compared({name: {k: 1 / v for k, v in each.items()} for name, each in cpu.items()})
    for ratio in RATIOS:
        if ratio.name in by_cpu:
            by_cpu[ratio.name] *= ratio.workers
    for ratio in RATIOS:
        if ratio.name in by_rate:
            bar = "" if ratio.bar is None else f"   bar {ratio.bar:g}"
            bar += "" if ratio.hoped is None else f", hoped for {ratio.hoped:g}"
            print(
                f"{ratio.name:24} {by_rate[ratio.name]:6.2f} by requests/s "
                f"{by_cpu[ratio.name]:6.2f} by CPU{bar}"
            )
    memory = {each.name: together(each.memory) / 1024 for each in found if each.memory}
    for server in found:
        if server.memory:
            parts = ", ".join(f"{each.resident / 1024:.0f}" for each in server.memory)
            print(f"{server.name:13} {memory[server.name]:6.0f} MiB together ({parts})")
    if {"lane", "mlserver"} <= memory.keys():
        ratio = memory["lane"] / memory["mlserver"]
        print(f"{'lane memory, of mlserver':24} {ratio:6.2f}   bar {MEMORY_BAR:g} at most")
    if as_json:
        bars = {ratio.name: ratio.bar for ratio in RATIOS if ratio.bar is not None}
        told = {
            "rates": rates,
            "cpu": cpu,
            "ratios": by_rate,
            "ratios_by_cpu": by_cpu,
            "latency": latency,
        }
        print(json.dumps({**told, "memory": memory, "bars": bars, "skipped": skipped}))


def _report_latency(latency: Figures) -> None:
    for name, figures in latency.items():
        for row in ROWS:
            if f"{row.name} p50" in figures:
                p50, p99, asked = (
                    figures[f"{row.name} {each}"] for each in ("p50", "p99", "asked")
                )
                print(
                    f"{name:13} {row.name:12} p50 {p50:7.2f} ms, p99 {p99:7.2f} ms "
                    f"at {asked:,.0f} requests/s"
                )


def _medians(found: list[Server], what: str) -> Figures:
    return {
        server.name: {row: statistics.median(each) for row, each in getattr(server, what).items()}
        for server in found
    }


def compared(figures: Figures) -> dict[str, float]:
    """Return the ratios that can be had, by figures of which more is better."""
    ratios = {}
    for name, row, server, to, *_ in RATIOS:
        others = [figures[each][row] for each in to if row in figures.get(each, {})]
        if others and row in figures.get(server, {}):
            ratios[name] = figures[server][row] / max(others)
    return ratios


if __name__ == "__main__":
    main()
