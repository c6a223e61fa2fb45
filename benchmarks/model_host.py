"""What the model host costs a lone request, and what it saves beside a busy event loop.

Run: ``python -m benchmarks.model_host [--quick] [--json]``. One asyncio process plays a web worker:
256 clients ask the model for an answer each, again and again (misses), while 16 others look theirs
up in L1 and write it as JSON, without a pause (hits), so that the event loop is never idle. The
same model (64 features, 1,000 items, the 100 best) runs on a batcher's thread of that process, in a
model host whose answers a thread reads, and in a model host whose answers the event loop reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the host has it; before NumPy is imported

import numpy as np
import uvloop

from cache_app.core.levels import Levels
from cache_app.core.memory import MemoryLevel
from plugins import Priority
from plugins.eviction.sieve import SIEVE
from plugins.loading import load_plugins
from serving_app.core.artifacts import digest
from serving_app.core.engine import Engine, open_engine
from serving_app.core.ranking import Catalogue, Ranking
from serving_app.core.version_record import VersionRecord
from serving_app.host.client import HostClient
from serving_app.host.process import HostConfig
from serving_app.host.supervisor import HostSupervisor, host_command

FEATURES, ITEMS, DEPTH = 64, 1000, 100
MISSES, HITS = 256, 16
CATALOGUE = Catalogue(
    tuple(f"i{n}" for n in range(ITEMS)), tuple(f"Item {n}" for n in range(ITEMS))
)
BAR_BUSY, BAR_HOP = 0.8, 0.2

Loop = asyncio.AbstractEventLoop


def ask(loop: Loop, engine: Engine[Ranking], row: Any) -> asyncio.Future[Ranking]:
    """Submit a row on the loop's thread, and return what the loop's tasks can await."""
    waiter: asyncio.Future[Ranking] = loop.create_future()
    here = threading.get_ident()

    def done(answer: Future[Ranking]) -> None:
        if threading.get_ident() == here:
            waiter.set_result(answer.result())
        else:
            loop.call_soon_threadsafe(lambda: waiter.set_result(answer.result()))

    engine.submit((row,), DEPTH, seconds=60.0, priority=Priority.LIVE).add_done_callback(done)
    return waiter


async def rates(engine: Engine[Ranking], *, misses: int, hits: int, seconds: float) -> list[float]:
    """Return misses and hits per second."""
    loop = asyncio.get_running_loop()
    row = np.random.default_rng(0).standard_normal(FEATURES).astype(np.float32)
    levels = Levels([MemoryLevel(SIEVE, capacity=10_000)])
    ranking = await ask(loop, engine, row)
    keys = [f"key-{n}" for n in range(1000)]
    for key in keys:
        levels.store(key, ranking, ttl=3600.0, stale=0.0)
    counts = [0, 0]
    end = loop.time() + seconds

    async def miss() -> None:
        while loop.time() < end:
            await ask(loop, engine, row)
            counts[0] += 1

    async def hit(n: int) -> None:
        while loop.time() < end:
            n += 1
            found = levels.find(keys[n % 1000])
            assert found is not None
            msgspec.json.encode(found.value.cut(10, ()))
            counts[1] += 1
            await asyncio.sleep(0)

    began = loop.time()
    await asyncio.gather(*(miss() for _ in range(misses)), *(hit(n) for n in range(hits)))
    return [count / (loop.time() - began) for count in counts]


def lone(engine: Engine[Ranking], requests: int) -> list[float]:
    """Return the seconds that each of some requests took, one after the other."""
    row = np.random.default_rng(0).standard_normal(FEATURES).astype(np.float32)
    taken = []
    for _ in range(requests):
        began = time.perf_counter()
        engine.submit((row,), DEPTH, seconds=60.0, priority=Priority.LIVE).result(60)
        taken.append(time.perf_counter() - began)
    return taken


@contextmanager
def engines() -> Iterator[tuple[dict[str, Engine[Ranking]], HostClient, HostClient]]:
    """Yield an engine of each kind, and the connections of the two that are in a host."""
    with tempfile.TemporaryDirectory(prefix="recserve-") as folder:
        store = Path(folder)
        rng = np.random.default_rng(1)
        weights = rng.standard_normal((FEATURES, ITEMS)).astype(np.float32)
        np.savez(store / "model.npz", weights=weights, bias=np.zeros(ITEMS, np.float32))
        names = tuple(f"f{n}" for n in range(FEATURES))
        sha256 = digest(store / "model.npz")
        record = VersionRecord("m", 1, "model.npz", sha256, "numpy_linear", "c", "", names)
        socket = store / "host.sock"
        config = HostConfig(str(socket), folder, log_level="ERROR", ends_with_stdin=True)
        supervisor = HostSupervisor(host_command(config), socket)
        supervisor.start()
        registry = load_plugins()
        clients = HostClient(socket), HostClient(socket)
        openers: list[Callable[..., Engine[Ranking]]] = [
            open_engine,
            *(each.open_engine for each in clients),
        ]
        opened = [
            opener(
                record,
                store=store,
                registry=registry,
                items=ITEMS,
                finish=partial(Ranking.of, CATALOGUE),
            )
            for opener in openers
        ]
        try:
            yield dict(zip(("thread", "host, thread", "host, loop"), opened, strict=True)), *clients
        finally:
            opened[0].close()
            for client in clients:
                client.close()
            supervisor.stop()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds, seconds, requests = (3, 1.0, 500) if options.quick else (7, 3.0, 3000)

    with engines() as (kinds, _, attached):
        hops: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, engine in kinds.items():
                hops[kind].append(statistics.median(lone(engine, requests)) * 1000)

        async def measure() -> dict[str, list[list[float]]]:
            attached.attach(asyncio.get_running_loop())
            found: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
            for _ in range(rounds):
                for kind, engine in kinds.items():
                    alone = await rates(engine, misses=MISSES, hits=0, seconds=seconds)
                    busy = await rates(engine, misses=MISSES, hits=HITS, seconds=seconds)
                    found[kind].append([alone[0], busy[0], busy[1]])
                    quiet = await rates(engine, misses=0, hits=HITS, seconds=seconds / 3)
                    found[kind][-1].append(quiet[1])
            attached.detach()
            return found

        found = uvloop.run(measure())

    result: dict[str, dict[str, float]] = {}
    print(
        "| model runs | p50 ms alone | misses/s | misses/s beside hits | kept | hits/s | of own |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kind, rows in found.items():
        alone, busy, hits, quiet = (statistics.median(column) for column in zip(*rows, strict=True))
        kept = statistics.median(row[1] / row[0] for row in rows)
        p50 = statistics.median(hops[kind])
        result[kind] = {
            "p50_ms": round(p50, 4),
            "misses": round(alone),
            "misses_beside_hits": round(busy),
            "kept": round(kept, 3),
            "hits": round(hits),
            "hits_kept": round(hits / quiet, 3),
        }
        print(
            f"| {kind} | {p50:.3f} | {alone:,.0f} | {busy:,.0f} | {kept:.2f} | {hits:,.0f} "
            f"| {hits / quiet:.2f} |"
        )
    hop = result["host, thread"]["p50_ms"] - result["thread"]["p50_ms"]
    summary = {
        "hop_ms": round(hop, 4),
        "kept": result["host, loop"]["kept"],
        "kept_by_a_thread": result["thread"]["kept"],
        "bars_met": hop <= BAR_HOP and result["host, loop"]["kept"] >= BAR_BUSY,
    }
    print(summary)
    if options.json:
        print(json.dumps({"kinds": result, **summary}))


if __name__ == "__main__":
    main()
