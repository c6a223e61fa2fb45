"""Look-ups of many threads in one Redis: merged, as a level makes them, against one by one.

Run: ``python -m benchmarks.redis_reads [--quick] [--json]``. N threads look up values of 250 bytes
in a real server on loopback, each its next one as soon as it has the last; either with
`OneServer.get`, which asks for all that queued meanwhile with one MGET, or with redis-py's GET over
the same pool of 32 connections, where who finds none waits for one. The two take turns.

Then N tasks of one event loop do the same: over its own connection (`cache_app.redis_loop`), and
over redis.asyncio's client with as few ``MGET``. Microseconds there are of processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis.asyncio
import uvloop

from cache_app.core.steps import Runner
from cache_app.redis_loop import LoopLines
from cache_app.redis_servers import OneServer
from tests import servers

KEYS = 2000
Results = dict[str, dict[str, dict[str, float]]]


def measure(get: Callable[[bytes], Any], threads: int, each: int) -> tuple[float, list[float]]:
    """Return microseconds per look-up of all threads together, and how long each took, in ms."""
    barrier = threading.Barrier(threads + 1)
    took: list[float] = []

    def run(first: int) -> None:
        own = []
        barrier.wait()
        for number in range(each):
            key = b"k%d" % ((first * 7919 + number * 31) % KEYS)
            began = time.perf_counter()
            value = get(key)
            own.append((time.perf_counter() - began) * 1000)
            assert value.startswith(key + b"."), f"{key!r} has got {value!r:.20}"
        took.extend(own)

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - began) / (threads * each) * 1e6, sorted(took)


async def on_loop(url: str, widths: Sequence[int], total: int, rounds: int) -> Results:
    """Return microseconds of the process's time per look-up, by the number of tasks and the way."""
    loop = asyncio.get_running_loop()
    one, client = OneServer("l2", url, timeout=5.0), redis.asyncio.Redis.from_url(url, protocol=2)
    runner = Runner()
    runner.attach(loop, LoopLines(loop))
    asked: list[tuple[bytes, asyncio.Future[bytes]]] = []
    flushes: set[asyncio.Task[None]] = set()

    async def flush() -> None:
        those = asked[:]
        asked.clear()
        values = await client.mget([key for key, _ in those])
        for (_, waiter), value in zip(those, values, strict=True):
            waiter.set_result(value)

    def by_redis_py(key: bytes, waiter: asyncio.Future[bytes]) -> None:
        if not asked:
            loop.call_soon(lambda: flushes.add(loop.create_task(flush())))
        asked.append((key, waiter))

    def by_own(key: bytes, waiter: asyncio.Future[bytes]) -> None:
        runner.run(one.getting(key), lambda value, _: waiter.set_result(value))

    async def run(way: Callable[[bytes, asyncio.Future[bytes]], None], first: int, n: int) -> None:
        for number in range(n):
            key = b"k%d" % ((first * 7919 + number * 31) % KEYS)
            waiter: asyncio.Future[bytes] = loop.create_future()
            way(key, waiter)
            value = await waiter
            assert value.startswith(key + b"."), f"{key!r} has got {value!r:.20}"

    found: Results = {}
    for width in widths:
        runs: dict[str, list[float]] = {}
        each = max(8, total // width)
        for _ in range(rounds):
            for name, way in (("loop", by_own), ("redis.asyncio", by_redis_py)):
                began = time.process_time()
                await asyncio.gather(*(run(way, number, each) for number in range(width)))
                spent = (time.process_time() - began) / (width * each) * 1e6
                runs.setdefault(name, []).append(spent)
                flushes.clear()
        for name, of_way in runs.items():
            us = statistics.median(of_way)
            found.setdefault(str(width), {})[name] = {"cpu_us_a_key": us}
            print(f"{width:8} {name:14}{us:8.1f}")
    runner.detach()
    await client.aclose()
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    options = parser.parse_args()
    total, rounds = (4000, 3) if options.quick else (16000, 5)

    results: Results = {}
    with servers.one() as redis_:
        for number in range(KEYS):
            redis_.client.set(b"k%d" % number, b"k%d." % number + b"x" * 240)
        one = OneServer("l2", redis_.url, timeout=5.0)
        ways = {"one by one": lambda key: one.ask(key, "GET", key), "merged": one.get}
        print(f"{'threads':>8} {'':12}{'us a key':>10}{'p50 ms':>9}{'p99 ms':>9}")
        for threads in (1, 4, 16, 64, 250):
            runs: dict[str, list[tuple[float, list[float]]]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, get in ways.items():
                    runs[way].append(measure(get, threads, max(8, total // threads)))
            for way, of_way in runs.items():
                found = {
                    "us_a_key": statistics.median(us for us, _ in of_way),
                    "p50_ms": statistics.median(took[len(took) // 2] for _, took in of_way),
                    "p99_ms": statistics.median(took[len(took) * 99 // 100] for _, took in of_way),
                }
                results.setdefault(str(threads), {})[way] = found
                print(f"{threads:8} {way:12}{found['us_a_key']:10.0f}", end="")
                print(f"{found['p50_ms']:9.2f}{found['p99_ms']:9.2f}")
        one.close()
        print(f"{'tasks':>8} {'':14}{'us of processor time a key':>8}")
        by_tasks = uvloop.run(on_loop(redis_.url, (1, 4, 16, 64, 250), total, rounds))
    if options.json:
        print(json.dumps({"threads": results, "tasks": by_tasks}))


if __name__ == "__main__":
    main()
