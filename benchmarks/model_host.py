"""What the model host costs a lone request, and what it saves beside a busy event loop.

Run: ``python -m benchmarks.model_host [--quick] [--json]``. One asyncio process plays a web worker:
256 clients ask the model for an answer each, again and again (misses), while 16 others look theirs
up in L1 and write it as JSON, without a pause (hits), so that the event loop is never idle. The
same model (64 features, 1,000 items, the 100 best) runs on a batcher's thread of that process, in a
model host whose answers a thread reads, and in a model host whose answers the event loop reads.
In the last row each miss also looks into a real Redis, takes a lease there, stores its answer and
gives the lease back, all on the event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
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

from cache_app.core.breaker import Breaker, GuardedLevel
from cache_app.core.codec import Codec
from cache_app.core.lease_waits import KeyLease, LeaseWaits
from cache_app.core.levels import Levels
from cache_app.core.memory import MemoryLevel
from cache_app.core.steps import Runner, Steps
from cache_app.redis_lease import RedisLeases
from cache_app.redis_level import RedisLevel
from cache_app.redis_loop import LoopLines
from cache_app.redis_servers import OneServer
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
from tests import servers

FEATURES, ITEMS, DEPTH = 64, 1000, 100
MISSES, HITS = 256, 16
CATALOGUE = Catalogue(
    tuple(f"i{n}" for n in range(ITEMS)), tuple(f"Item {n}" for n in range(ITEMS))
)
BAR_BUSY, BAR_HOP = 0.8, 0.2
IN_REDIS = "host, loop, Redis"

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


class InRedis:
    """What a miss does in a Redis below L1, on the loop's thread."""

    _keys = itertools.count()  # of all rounds

    def __init__(self, loop: Loop, url: str) -> None:
        self._loop = loop
        self._runner = Runner()
        self._runner.attach(loop, LoopLines(loop))
        one, another = (OneServer("l2", url, timeout=2.0) for _ in range(2))
        self._breaker = Breaker()
        level = GuardedLevel(RedisLevel("l2", one, Codec(Ranking)), self._breaker)
        self._levels = Levels([MemoryLevel(SIEVE, capacity=10_000), level])
        self._leases = RedisLeases(another, self._breaker)
        self._waits = LeaseWaits(self._leases, self._runner)

    async def miss(self, compute: Callable[[], asyncio.Future[Ranking]]) -> None:
        """Look up, lease, compute, store, and release."""
        key = f"miss-{next(self._keys)}"
        assert await self._taken(self._levels.finding(key)) is None
        waiter: asyncio.Future[KeyLease] = self._loop.create_future()
        self._waits.take(key, waiter.set_result, within=30.0)
        lease = await waiter
        ranking = await compute()
        await self._taken(
            self._levels.storing(key, ranking, ttl=60.0, stale=0.0, origin="miss", cost=None)
        )
        self._waits.release(lease)

    async def _taken(self, steps: Steps[Any]) -> Any:
        waiter = self._loop.create_future()

        def then(result: Any, error: BaseException | None) -> None:
            if error is None:
                waiter.set_result(result)
            else:
                waiter.set_exception(error)

        self._runner.run(steps, then)
        return await waiter

    def close(self) -> None:
        """Leave the loop; a Redis that has not answered ends the run: it was no fair one."""
        errors = self._levels.stats()["l2"].errors + self._leases.errors
        self._runner.detach()
        self._waits.moved()
        self._waits.close()
        if errors:
            raise SystemExit(f"Redis did not answer {errors} calls.")


async def rates(
    engine: Engine[Ranking], *, misses: int, hits: int, seconds: float, below: str | None = None
) -> list[float]:
    """Return misses and hits per second; ``below``: the URL of a Redis below L1."""
    loop = asyncio.get_running_loop()
    redis = None if below is None else InRedis(loop, below)
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
            if redis is None:
                await ask(loop, engine, row)
            else:
                await redis.miss(lambda: ask(loop, engine, row))
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
    found = [count / (loop.time() - began) for count in counts]
    if redis is not None:
        redis.close()
    return found


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

    with engines() as (kinds, _, attached), servers.one() as redis:
        hops: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, engine in kinds.items():
                hops[kind].append(statistics.median(lone(engine, requests)) * 1000)

        async def measure() -> dict[str, list[list[float]]]:
            attached.attach(asyncio.get_running_loop())
            compared = [(kind, engine, None) for kind, engine in kinds.items()]
            compared.append((IN_REDIS, kinds["host, loop"], redis.url))
            found: dict[str, list[list[float]]] = {kind: [] for kind, *_ in compared}
            for _ in range(rounds):
                for kind, engine, below in compared:
                    of_each = functools.partial(rates, engine, seconds=seconds, below=below)
                    alone = await of_each(misses=MISSES, hits=0)
                    busy = await of_each(misses=MISSES, hits=HITS)
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
        p50 = statistics.median(hops.get(kind, hops["host, loop"]))
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
        "kept_above_redis": result[IN_REDIS]["kept"],
        "bars_met": hop <= BAR_HOP
        and result["host, loop"]["kept"] >= BAR_BUSY
        and result[IN_REDIS]["kept"] >= BAR_BUSY,
    }
    print(summary)
    if options.json:
        print(json.dumps({"kinds": result, **summary}))


if __name__ == "__main__":
    main()
