"""What each eviction policy hits on a real trace, beside libCacheSim's implementation of it.

Run: ``python -m benchmarks.hit_ratio [--quick] [--json] [--trace FILE]``. The trace is replayed
through `MemoryLevel`, the code that serves, with 1 % and 10 % of its different keys as capacity;
``--quick`` takes its first 100,000 requests. libCacheSim runs in the same process where its
Python binding is installed (``pip install libcachesim``; GPL, never a dependency); without it
only our figures are printed.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache_app.core.simulation import belady, simulate
from cache_app.core.traces import Trace, read_trace
from plugins.contracts import EvictionPolicy
from plugins.eviction.builtin import recserve_eviction_policies
from plugins.eviction.w_tinylfu import WTinyLFU

DATA = Path(os.environ.get("RECSERVE_DATA", "../shared/data"))
TRACE = DATA / "traces" / "scarab_recs_first60.npz"
SHARES = (0.01, 0.1)
QUICK = 100_000
BAR = 0.3
"""Points by which a policy may differ from libCacheSim's."""
PEERS = {
    "belady": "Belady",
    "lru": "LRU",
    "lfu": "LFU",
    "fifo": "FIFO",
    "sieve": "Sieve",
    "clock": "Clock",
    "s3fifo": "S3FIFO",
    "two_q": "TwoQ",
    "arc": "ARC",
    "lirs": "LIRS",
    "gdsf": "GDSF",
    "w_tinylfu": "WTinyLFU",
    "w_tinylfu, window fixed": "WTinyLFU",
}
"""libCacheSim's classes, with their defaults, by the names of our policies."""


def policies() -> Mapping[str, Callable[..., EvictionPolicy]]:
    """Return the policies to replay, by name."""
    return {
        **recserve_eviction_policies(),
        "w_tinylfu, window fixed": functools.partial(WTinyLFU, adaptive=False),
    }


def ours(trace: Trace, name: str, capacity: int) -> float:
    """Return our hit ratio, in percent."""
    if name == "belady":
        return 100 * belady(trace, capacity)
    return 100 * simulate(trace, policies()[name], capacity).hit_ratio


def theirs(library: Any, trace: Trace, name: str, capacity: int) -> float:
    """Return libCacheSim's hit ratio, in percent."""
    cache = getattr(library, PEERS[name])(capacity)
    request = library.Request()
    request.obj_size = 1
    hits = 0
    uses = next_uses(trace) if name == "belady" else trace.ids
    # One request is used for all, as making each costs more than looking it up.
    for now, (key, use) in enumerate(zip(trace.ids.tolist(), uses.tolist(), strict=True)):
        request.obj_id = key
        request.clock_time = now
        request.next_access_vtime = use
        hits += cache.get(request)
    return 100 * hits / len(trace)


def next_uses(trace: Trace) -> Any:
    """Return for each request where the same key is asked for next, or libCacheSim's never."""
    last: dict[int, int] = {}
    uses = np.full(len(trace), np.iinfo(np.int64).max)
    for now, key in enumerate(trace.ids.tolist()):
        if key in last:
            uses[last[key]] = now
        last[key] = now
    return uses


def main() -> None:
    """Replay, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK} requests only")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    parser.add_argument("--trace", type=Path, default=TRACE, help=f"instead of {TRACE}")
    options = parser.parse_args()
    try:
        trace = read_trace(options.trace)
    except (OSError, ValueError) as error:
        sys.exit(f"{error}\nGive a trace by --trace, or the folder of data by RECSERVE_DATA.")
    if options.quick:
        trace = Trace(trace.ids[:QUICK])
    footprint = len(np.unique(trace.ids))
    found = importlib.util.find_spec("libcachesim")
    library = importlib.import_module("libcachesim") if found else None
    peer = f"libCacheSim {library.__version__}" if library else "libCacheSim is not installed"
    print(f"{options.trace.name}: {len(trace)} requests, {footprint} keys; {peer}")

    result: dict[str, dict[str, dict[str, float]]] = {"ours": {}, "libcachesim": {}}
    within: dict[str, bool] = {}
    for share in SHARES:
        capacity = max(1, int(share * footprint))
        print(f"\n{share:.0%}, {capacity} entries, hit ratio %")
        print(f"{'':26}{'ours':>8}{'theirs':>8}{'differs':>9}{'us/request':>12}")
        for name in ["belady", *policies()]:
            started = time.process_time()
            ratio = ours(trace, name, capacity)
            cost = 1e6 * (time.process_time() - started) / len(trace)
            result["ours"].setdefault(name, {})[str(share)] = ratio
            line = f"{name:26}{ratio:8.2f}"
            if library and name in PEERS:
                other = theirs(library, trace, name, capacity)
                result["libcachesim"].setdefault(name, {})[str(share)] = other
                close = abs(ratio - other) <= BAR
                within[name] = within.get(name, True) and close
                line += f"{other:8.2f}{ratio - other:+9.3f}{cost:12.2f}"
                line += "" if close else f"  more than {BAR}"
            else:
                line += f"{'':17}{cost:12.2f}"
            print(line, flush=True)
    if library:
        close = [name for name, holds in within.items() if holds]
        print(f"\nWithin {BAR} points at both sizes: {', '.join(close)}")
        print(f"Not: {'; '.join(name for name in within if name not in close) or 'none'}")
    if options.json:
        print(json.dumps({**result, "within": within}))


if __name__ == "__main__":
    main()
