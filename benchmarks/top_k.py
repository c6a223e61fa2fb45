"""What the exact top 10 and top 100 of a batch of score rows cost, beside ``torch.topk``.

Run: ``python -m benchmarks.top_k [--quick] [--json]``. Scores are normal, float32, of 10,000 and
100,000 items, in batches of 1 to 64; all run on one thread. *Loop* is what recserve did before: one
partition of the batch, then a sort for each row in Python. It and ours order ties by position;
``torch.topk`` promises no order of ties, and so does a little less. Figures are medians of
interleaved runs, in microseconds per row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_app.core.top_k import top_k

Scores = NDArray[np.float32]


def loop(scores: Scores, depth: int) -> tuple[NDArray[np.intp], Scores]:
    """Return the top-k by one partition of the batch and a loop over its rows."""
    batch, n = scores.shape
    positions = np.empty((batch, depth), dtype=np.intp)
    last = np.partition(scores, n - depth, axis=1)[:, n - depth]
    for i in range(batch):
        candidates = np.flatnonzero(scores[i] >= last[i])
        positions[i] = candidates[np.argsort(-scores[i, candidates], kind="stable")[:depth]]
    return positions, np.take_along_axis(scores, positions, axis=1)


def measured(items: int, batch: int, depth: int, runs: int) -> dict[str, Any]:
    """Return the microseconds per row of each way, and ours as a ratio to the others."""
    import torch

    torch.set_num_threads(1)
    scores = np.random.default_rng(items + batch).standard_normal((batch, items), dtype=np.float32)
    tensor = torch.from_numpy(scores)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: top_k(scores, depth),
        "loop": lambda: loop(scores, depth),
        "torch": lambda: torch.topk(tensor, depth),
    }
    assert np.array_equal(ways["ours"]()[0], ways["loop"]()[0])
    assert np.array_equal(ways["ours"]()[1], ways["torch"]()[0].numpy())
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            taken[name].append((time.perf_counter() - started) / batch * 1e6)
    row: dict[str, Any] = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "items": items,
        "batch": batch,
        "depth": depth,
        **row,
        "to_loop": row["ours"] / row["loop"],
        "to_torch": row["ours"] / row["torch"],
    }


def main() -> None:
    """Print a table, and with ``--json`` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = 15 if options.quick else 101
    rows = [
        measured(items, batch, depth, runs)
        for items in (10_000, 100_000)
        for batch in ((1, 64) if options.quick else (1, 4, 16, 64))
        for depth in (10, 100)
    ]
    print(f"{'items':>7} {'batch':>5} {'depth':>5} {'ours':>8} {'loop':>8} {'torch':>8} µs per row")
    for row in rows:
        print(
            f"{row['items']:>7} {row['batch']:>5} {row['depth']:>5} {row['ours']:>8.1f} "
            f"{row['loop']:>8.1f} {row['torch']:>8.1f}  ours is {row['to_loop']:.2f} of the loop, "
            f"{row['to_torch']:.2f} of torch"
        )
    if options.json:
        print(json.dumps({"benchmark": "top_k", "quick": options.quick, "rows": rows}))


if __name__ == "__main__":
    main()
