"""Look-ups of many threads in one Redis: merged, as a level makes them, against one by one.

Run: ``python -m benchmarks.redis_reads [--quick] [--json]``. N threads look up values of 250 bytes
in a real server on loopback, each its next one as soon as it has the last; either with
`OneServer.get`, which asks for all that queued meanwhile with one MGET, or with redis-py's GET over
the same pool of 32 connections, where who finds none waits for one. The two take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from cache_app.redis_servers import OneServer
from tests import servers

KEYS = 2000


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


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    options = parser.parse_args()
    total, rounds = (4000, 3) if options.quick else (16000, 5)

    results: dict[str, dict[str, dict[str, float]]] = {}
    with servers.one() as redis:
        for number in range(KEYS):
            redis.client.set(b"k%d" % number, b"k%d." % number + b"x" * 240)
        one = OneServer("l2", redis.url, timeout=5.0)
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
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
