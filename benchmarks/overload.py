"""What a batcher makes of more requests than its model can answer, in time, beside fixed windows.

Open loop: requests arrive at random instants whether or not others were answered. The model is a
TorchScript recommender; what its batches cost is measured first, and the rates follow from that.
The deadline is that of 12 full batches. One thread of the same process plays the clients; a
request's time begins when it is sent, and how late it was sent is shown (lag). The ideal is
measured before and after each row, as the machine may not be alone.

Run: python -m benchmarks.overload [--quick] [--json]
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from plugins import ModelSpec, QueueFull
from plugins.frameworks.pytorch import PyTorch
from serving_app.core.batcher import Batcher
from serving_app.core.ranking import top_k

FEATURES, ITEMS, MAX_BATCH, DEPTH = 64, 50_000, 32, 100
BATCHES_IN_TIME = 12
"""The deadline, in full batches."""


def open_model(folder: Path) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return what runs a batch through a TorchScript model, and cuts its best items."""
    import torch

    path = folder / "model.pt"
    layers = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 64),
        torch.nn.Linear(64, ITEMS),
    )
    torch.jit.save(torch.jit.script(layers.eval()), path)
    model = PyTorch().load(ModelSpec("bench", 1, "pytorch", path))

    def run(rows: Sequence[Any]) -> Sequence[Any]:
        scores = next(iter(model.predict({"features": np.stack(rows)}).values()))
        positions, best = top_k(scores, DEPTH)
        return list(zip(positions, best, strict=True))

    return run


class Window:
    """A batcher of the usual shape: the first request opens a window, then its batch runs."""

    def __init__(self, run: Callable[[Sequence[Any]], Sequence[Any]], seconds: float) -> None:
        self._run, self._seconds = run, seconds
        self._queue: list[tuple[Any, Future[Any]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, row: Any, **_: Any) -> Future[Any]:
        """Queue a row."""
        future: Future[Any] = Future()
        with self._changed:
            self._queue.append((row, future))
            self._changed.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                self._changed.wait_for(
                    lambda: len(self._queue) >= MAX_BATCH or self._closed, self._seconds
                )
                batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
            for (_, future), result in zip(
                batch, self._run([row for row, _ in batch]), strict=True
            ):
                future.set_result(result)

    def close(self) -> None:
        """End the thread, whatever is queued."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()


def offer(
    batcher: Any, rate: float, seconds: float, deadline: float, *, obey: bool, seed: int
) -> dict[str, float]:
    """Let requests arrive, and return what became of them."""
    rng = Random(seed)
    row = np.random.default_rng(seed).standard_normal(FEATURES).astype(np.float32)
    begin = time.monotonic()
    arrivals: list[tuple[float, int, bool]] = []
    at, new = 0.0, 0
    while (at := at + rng.expovariate(rate)) < seconds:
        arrivals.append((at, new, False))
        new += 1
    waits: list[float] = []
    refusals: list[float] = []
    lags: list[float] = []
    refused = returned = accepted = 0
    while arrivals:
        due, number, back = heapq.heappop(arrivals)
        while (now := time.monotonic() - begin) < due:
            time.sleep(min(due - now, 0.0005))
        arrived = time.monotonic()
        lags.append(now - due)
        returned += back
        called = time.perf_counter()
        try:
            future = batcher.submit(row, seconds=deadline, key=number)
        except QueueFull as refusal:
            refusals.append(time.perf_counter() - called)
            refused += not back
            if obey and due + refusal.retry_after < seconds:
                heapq.heappush(arrivals, (due + refusal.retry_after, number, True))
            continue
        accepted += back
        future.add_done_callback(
            lambda done, arrived=arrived: (
                waits.append(time.monotonic() - arrived) if not done.exception() else None
            )
        )
    lasted = time.monotonic() - begin
    time.sleep(min(1.0, 5 * deadline))
    in_time = sum(wait <= deadline for wait in list(waits))
    refusals.sort()
    return {
        "new": new,
        "in_time": in_time,
        "per_second": in_time / lasted,
        "refused": refused / max(1, new),
        "p50_ms": 1000 * statistics.median(waits) if waits else float("nan"),
        "refusal_p99_ms": 1000 * refusals[int(0.99 * len(refusals))] if refusals else 0.0,
        "lag_p99_ms": 1000 * sorted(lags)[int(0.99 * len(lags))],
        "returned": returned,
        "obeying_accepted": accepted / returned if returned else 1.0,
    }


def capacity(run: Callable[[Sequence[Any]], Sequence[Any]], seconds: float) -> float:
    """Return the rows a second of a batcher that always has enough to do: the ideal."""
    batcher: Batcher[Any, Any] = Batcher(run, name="capacity", max_batch=MAX_BATCH)
    row = np.zeros(FEATURES, np.float32)
    done, stop = [0], [False]

    def again(_: Any) -> None:
        done[0] += 1
        if not stop[0]:
            batcher.submit(row, seconds=1e3).add_done_callback(again)

    for _ in range(4 * MAX_BATCH):
        batcher.submit(row, seconds=1e3).add_done_callback(again)
    time.sleep(0.2)
    before, started = done[0], time.monotonic()
    time.sleep(seconds)
    rate = (done[0] - before) / (time.monotonic() - started)
    stop[0] = True
    batcher.close()
    return rate


def follow(run: Callable[[Sequence[Any]], Sequence[Any]]) -> dict[str, float]:
    """Make the model five times slower, and return how its fit stands 50 batches later."""
    slower = [1]

    def slowed(rows: Sequence[Any]) -> Sequence[Any]:
        for _ in range(slower[0] - 1):
            run(rows)
        return run(rows)

    batcher: Batcher[Any, Any] = Batcher(slowed, name="slower", max_batch=MAX_BATCH)
    rows = list(np.zeros((MAX_BATCH, FEATURES), np.float32))

    def batches(count: int) -> float:
        started = time.monotonic()
        for _ in range(count):
            batcher.submit_many(rows, seconds=1e3).result()
        return (time.monotonic() - started) / count

    batches(50)
    slower[0] = 5
    batches(40)
    true = batches(10)
    stats = batcher.stats()
    batcher.close()
    return {"fit_of_true": (stats.cost_per_batch + stats.cost_per_row * MAX_BATCH) / true}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds a load")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    sys.setswitchinterval(0.0005)  # the clients' thread is no part of what is measured
    seconds = 4.0 if given.quick else 10.0
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = open_model(Path(folder))
        row = np.zeros(FEATURES, np.float32)
        for _ in range(20):
            run([row] * MAX_BATCH)
        for load in (0.02, 0.85, 1.3, 2.0):
            ideal_rate = capacity(run, 1.0)
            deadline = BATCHES_IN_TIME * MAX_BATCH / ideal_rate
            batchers: dict[str, Callable[[], Any]] = {
                "adaptive": lambda: Batcher(run, name="bench", max_batch=MAX_BATCH),
                "window of 5 ms": lambda: Window(run, 0.005),
                "window of 50 ms": lambda: Window(run, 0.050),
            }
            for name, make in batchers.items():
                before = capacity(run, 0.7)
                batcher = make()
                result = offer(
                    batcher,
                    load * ideal_rate,
                    seconds,
                    deadline,
                    obey=name == "adaptive" and load > 1,
                    seed=7,
                )
                batcher.close()
                ideal = min(result["new"] / seconds, (before + capacity(run, 0.7)) / 2)
                result["goodput_of_ideal"] = result["per_second"] / ideal
                results[f"{load:.0%} {name}"] = result
                print(
                    f"{load:5.0%} {name:16} goodput {result['goodput_of_ideal']:6.1%} of ideal  "
                    f"p50 {result['p50_ms']:8.2f} ms  refused {result['refused']:6.2%} "
                    f"(p99 {result['refusal_p99_ms']:.2f} ms)  "
                    f"obeying accepted {result['obeying_accepted']:.1%} of {result['returned']}  "
                    f"lag p99 {result['lag_p99_ms']:.1f} ms",
                    flush=True,
                )
        alone = []
        for _ in range(200):
            started = time.perf_counter()
            run([row])
            alone.append(time.perf_counter() - started)
            time.sleep(0.002)
        results["unbatched_p50_ms"] = 1000 * statistics.median(alone)
        results["five_times_slower"] = follow(run)
    print(f"one row, unbatched: p50 {results['unbatched_p50_ms']:.2f} ms")
    print(f"fit 50 batches after 5 x slower: {results['five_times_slower']['fit_of_true']:.2f}")
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
