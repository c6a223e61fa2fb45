"""What a hit in L1 costs, and what an entry weighs, beside cachetools and a bare dict.

Run: ``python -m benchmarks.hit_path [--quick] [--json] [--plot FILE]``; it needs
``requirements/bench.txt``, and ``requirements/extras.txt`` for a plot. ``--plot`` measures
something else: what a hit costs with 1,000 to 1,000,000 entries, asked for at random.
Rounds of all contestants are interleaved, so that a slow moment of the machine hits all alike;
the figures are medians. The bars compare ``get`` with ``get``, which both answer None for a miss;
cachetools' subscription, which raises instead, is faster and has its own rows.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Any

from cachetools import LRUCache, TTLCache

from cache_app.core.keys import segment_of
from cache_app.core.levels import Levels, Stored
from cache_app.core.memory import MemoryLevel
from cache_app.core.partitions import PartitionedMemory, Share
from plugins.eviction.builtin import recserve_eviction_policies

TTL = 3600.0
BARS = {"lru": 0.75, "ttl": 0.2}
"""Bars of the default policy (SIEVE), as ratios to cachetools' caches."""


PARTS = {"L1 sieve, in one piece": 0, "L1 sieve, a share of it": 1}
"""L1 as it is served: how many segments have a share of it."""


def _parts(policy: Callable[..., Any], keys: list[str], segments: int) -> PartitionedMemory:
    """Return a full L1; where it is divided, all keys are of the segment that has half of it."""
    level = PartitionedMemory(
        lambda capacity, _: memory_level(policy, capacity),
        capacity=2 * len(keys),
        part_of=segment_of,
    )
    level.divide({"all": Share(0.5)} if segments else {})
    for key in keys:
        level.put(key, Stored(object(), 0.0, time.time() + TTL))
    level.settle(len(keys))
    return level


def memory_level(policy: Callable[..., Any], size: int) -> MemoryLevel:
    """Return an empty L1."""
    return MemoryLevel(policy, capacity=size, rng=Random(0))


def contestants(
    keys: list[str], only: Collection[str] | None = None
) -> Mapping[str, Callable[[str], Any]]:
    """Return full caches' look-ups by name; of ours, only those named."""
    size, expires = len(keys), time.time() + TTL
    bare = {key: object() for key in keys}
    lru: LRUCache[str, object] = LRUCache(size)
    ttl: TTLCache[str, object] = TTLCache(size, TTL)
    for key in keys:
        lru[key] = ttl[key] = object()
    found: dict[str, Callable[[str], Any]] = {
        "dict": bare.get,
        "cachetools.LRUCache": lru.get,
        "cachetools.LRUCache[]": lru.__getitem__,
        "cachetools.TTLCache": ttl.get,
        "cachetools.TTLCache[]": ttl.__getitem__,
    }
    for name, policy in recserve_eviction_policies().items():
        if only is not None and f"L1 {name} ({policy.hit_mode})" not in only:  # type: ignore[attr-defined]
            continue
        level = memory_level(policy, size)
        for key in keys:
            level.put(key, Stored(object(), 0.0, expires))
        found[f"L1 {name} ({policy.hit_mode})"] = level.get  # type: ignore[attr-defined]
        if name == "sieve":
            found["Levels.find over L1 sieve"] = Levels([level]).find
            found |= {name: _parts(policy, keys, n).get for name, n in PARTS.items()}
    return found


def nanoseconds(get: Callable[[str], Any], asked: list[str]) -> float:
    """Return what one look-up costs in CPU time, the loop included."""
    for key in asked[: len(asked) // 10]:  # the others have filled the processor's caches
        get(key)
    started = time.thread_time_ns()
    for key in asked:
        get(key)
    return (time.thread_time_ns() - started) / len(asked)


GROWING = ("dict", "cachetools.LRUCache", "L1 sieve (flag)", "L1 lru (stamp)", "L1 s3fifo (count)")
"""Whose cost is plotted by size."""


def by_size(sizes: list[int], rounds: int, asks: int) -> dict[str, list[float]]:
    """Return what a hit costs with each number of entries, by name, medians, in nanoseconds."""
    grown: dict[str, list[float]] = {name: [] for name in GROWING}
    for size in sizes:
        keys = [f"recserve:default:1:all:i{number}" for number in range(size)]
        asked = Random(size).choices(keys, k=asks)
        everyone = contestants(keys, only=GROWING)
        times: dict[str, list[float]] = {name: [] for name in GROWING}
        for _ in range(rounds):
            for name in GROWING:
                times[name].append(nanoseconds(everyone[name], asked))
        for name in GROWING:
            grown[name].append(statistics.median(times[name]))
        del everyone
        gc.collect()
    return grown


def draw(sizes: list[int], grown: Mapping[str, list[float]], path: str) -> None:
    """Write the plot of `by_size`."""
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, costs in grown.items():
        axes.plot(sizes, costs, marker="o", label=name)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("entries, asked for at random")
    axes.set_ylabel("ns a hit, loop included")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path)


def print_growth(*, quick: bool, plot: str, as_json: bool) -> None:
    """Measure by size, print a table, and draw it."""
    sizes = [1_000, 10_000, 100_000] if quick else [1_000, 10_000, 100_000, 1_000_000]
    gc.disable()
    grown = by_size(sizes, *((3, 20_000) if quick else (5, 50_000)))
    print(f"{'ns a hit by entries':28}" + "".join(f"{size:>12,}" for size in sizes))
    for name, costs in grown.items():
        print(f"{name:28}" + "".join(f"{cost:12.0f}" for cost in costs))
    over = [ours - bare for ours, bare in zip(grown[GROWING[2]], grown["dict"], strict=True)]
    print(f"{'sieve beyond dict':28}" + "".join(f"{cost:12.0f}" for cost in over))
    draw(sizes, grown, plot)
    if as_json:
        print(json.dumps({"sizes": sizes, "ns_per_hit": grown}))


def bytes_per_entry(fill: Callable[[list[tuple[str, object]]], object], size: int) -> float:
    """Return what a cache allocates per entry, beyond the key and the value."""
    pairs: list[tuple[str, object]] = [
        (f"recserve:default:1:all:i{i}", object()) for i in range(size)
    ]
    gc.collect()
    tracemalloc.start()
    try:
        kept = fill(pairs)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    del kept
    return taken / size


def fills(size: int) -> Mapping[str, Callable[[list[tuple[str, object]]], object]]:
    """Return what fills each cache from pairs."""
    expires = time.time() + TTL

    def filled(cache: Any) -> Callable[[list[tuple[str, object]]], object]:
        def fill(pairs: list[tuple[str, object]]) -> object:
            made = cache()
            for key, value in pairs:
                made[key] = value
            return made

        return fill

    def level(policy: Callable[..., Any]) -> Callable[[list[tuple[str, object]]], object]:
        def fill(pairs: list[tuple[str, object]]) -> object:
            made = memory_level(policy, size)
            for key, value in pairs:
                made.put(key, Stored(value, 0.0, expires))
            return made

        return fill

    return {
        "dict": filled(dict),
        "cachetools.LRUCache": filled(lambda: LRUCache(size)),
        "cachetools.TTLCache": filled(lambda: TTLCache(size, TTL)),
        **{
            f"L1 {name} ({policy.hit_mode})": level(policy)  # type: ignore[attr-defined]
            for name, policy in recserve_eviction_policies().items()
        },
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    parser.add_argument("--plot", metavar="FILE", help="cost by number of entries, drawn")
    options = parser.parse_args()
    if options.plot:
        if importlib.util.find_spec("matplotlib") is None:
            parser.error("--plot needs matplotlib: pip install -r requirements/extras.txt")
        print_growth(quick=options.quick, plot=options.plot, as_json=options.json)
        return
    rounds, asks, size = (7, 20_000, 2_000) if options.quick else (25, 100_000, 2_000)
    keys = [f"recserve:default:1:all:i{number}" for number in range(size)]
    asked = Random(0).choices(keys, k=asks)
    gets = contestants(keys)
    times: dict[str, list[float]] = {name: [] for name in gets}
    gc.disable()
    for _ in range(rounds):
        for name, get in gets.items():
            times[name].append(nanoseconds(get, asked))
    gc.enable()
    medians = {name: statistics.median(each) for name, each in times.items()}
    weights = {name: bytes_per_entry(fill, 5 * size) for name, fill in fills(5 * size).items()}
    lru, ttl = medians["cachetools.LRUCache"], medians["cachetools.TTLCache"]

    print(f"{size} hot keys, {rounds} rounds of {asks} hits, medians; the loop is included\n")
    print(f"{'':28}{'ns/hit':>8}{'x LRU':>8}{'x TTL':>8}{'bytes/entry':>14}")
    for name, median in medians.items():
        weight = f"{weights[name]:.0f}" if name in weights else ""
        print(f"{name:28}{median:8.0f}{median / lru:8.2f}{median / ttl:8.2f}{weight:>14}")
    ours = medians["L1 sieve (flag)"]
    ratios = {"lru": ours / lru, "ttl": ours / ttl}
    for name, bar in BARS.items():
        verdict = "holds" if ratios[name] <= bar else "MISSED"
        print(f"\nsieve / cachetools {name}: {ratios[name]:.2f}, bar {bar}: {verdict}", end="")
    print()
    if options.json:
        print(json.dumps({"ns_per_hit": medians, "bytes_per_entry": weights, "ratios": ratios}))


if __name__ == "__main__":
    main()
