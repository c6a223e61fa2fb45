"""What a batcher makes of more requests than its model can answer, in time, beside fixed windows.

Open loop: requests arrive at random instants whether or not others were answered. As in a
deployment, this process plays the clients, and the model runs in a model host, another process,
asked over its socket; with --in-process both are in this one. The model is TorchScript with 50,000
items. The ideal is the rate of the same host, asked by the same process in a closed loop (for a
window: the batcher's), measured before and after each row, as the machine may not be alone. The
deadline is that of 12 full batches; a request's time begins when it is sent and ends when its
answer is decoded, and how late it was sent is shown (lag).

On a machine that is not alone, the clients' own work leaves the model less of the processors than
it had in the closed loop, and clients that are not let run make answers late. So two more figures
are shown: what left the batcher late, and the goodput by processor time, that is, the answers in
time for each second of it that the process of the model used, of those of the closed loop. With
--accelerator the model waits instead of computing, as a process does whose model runs on a device
of its own: nothing of what is measured is then lost to clients that compute beside the model.

Run: python -m benchmarks.overload [--quick] [--json] [--in-process | --accelerator]
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import msgspec

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the host has it; before NumPy is imported

import numpy as np

from plugins import BatchTimes, ModelSpec, Priority, QueueFull
from plugins.frameworks import pytorch
from plugins.frameworks.pytorch import PyTorch
from plugins.loading import load_plugins
from serving_app.core import collector
from serving_app.core import engine as engines
from serving_app.core.artifacts import digest
from serving_app.core.batcher import Batcher, BatcherStats
from serving_app.core.engine import Engine, open_engine
from serving_app.core.latency import BOUNDS
from serving_app.core.top_k import top_k
from serving_app.core.version_record import VersionRecord
from serving_app.host.client import HostClient
from serving_app.host.process import HostConfig, run
from serving_app.host.supervisor import HostSupervisor, host_command

FEATURES, ITEMS, MAX_BATCH, DEPTH = 64, 50_000, 32, 100
BATCHES_IN_TIME = 12
"""The deadline, in full batches."""
FEW_ITEMS = 1_000
"""Of the model that waits: the best of them are found by this processor."""
SECONDS_PER_BATCH, SECONDS_PER_ROW = 0.0013, 0.00009
"""What the model that waits takes: about as long as the other one."""
WINDOWS = {"window of 5 ms": 0.005, "window of 50 ms": 0.050}


def make_model(store: Path, items: int) -> VersionRecord:
    """Write a TorchScript recommender into the store, and return its record."""
    import torch

    layers = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 64),
        torch.nn.Linear(64, items),
    )
    torch.jit.save(torch.jit.script(layers.eval()), store / "model.pt")
    return VersionRecord(
        "bench",
        1,
        "model.pt",
        digest(store / "model.pt"),
        "pytorch",
        "catalogue",
        "",
        tuple(f"f{n}" for n in range(FEATURES)),
        max_batch=MAX_BATCH,
    )


def direct(store: Path, framework: PyTorch) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return what runs a batch through the model here, and cuts its best items."""
    model = framework.load(ModelSpec("bench", 1, "pytorch", store / "model.pt"))

    def run_batch(rows: Sequence[Any]) -> Sequence[Any]:
        scores = next(iter(model.predict({"features": np.stack(rows)}).values()))
        positions, best = top_k(scores, DEPTH)
        return list(zip(positions, best, strict=True))

    return run_batch


class Window:
    """A batcher of the usual shape: the first request opens a window, then its batch runs."""

    def __init__(self, run_batch: Callable[..., Any], *, seconds: float, **_: Any) -> None:
        self._run, self._seconds = run_batch, seconds
        self._queue: list[tuple[Any, Future[Any]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, part: Any, **_: Any) -> Future[Any]:
        """Queue a row."""
        future: Future[Any] = Future()
        future.batch = BatchTimes(0, 0.0, 0.0)  # type: ignore[attr-defined]  # the host sends it
        with self._changed:
            self._queue.append((part, future))
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
            results = self._run([row for row, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if future.set_running_or_notify_cancel():
                    future.set_result(result)

    def stats(self) -> BatcherStats:
        """Count nothing."""
        return BatcherStats.merged([])

    def close(self) -> None:
        """End the thread, whatever is queued."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()


class Accelerated(PyTorch):
    """Loads a model that lets its caller wait, as if another device computed."""

    def load(self, spec: ModelSpec) -> Any:
        """Load the model for its signature only."""
        return Waiting(super().load(spec))


class Waiting:
    """A model whose batch takes as long as on an accelerator, and no processor time.

    Args:
        model: What it stands for.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        (self._name,) = model.predict({"features": np.zeros((1, FEATURES), np.float32)})
        rng = np.random.default_rng(1)
        self._scores = rng.standard_normal((MAX_BATCH, FEW_ITEMS)).astype(np.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, inputs: Any) -> dict[str, Any]:
        """Wait, and give scores that were there before."""
        rows = len(inputs["features"])
        time.sleep(SECONDS_PER_BATCH + SECONDS_PER_ROW * rows)
        return {self._name: self._scores[:rows]}


def other_host(window: str, accelerator: str, config: str) -> None:
    """Be a model host with another batcher or model. Called in a process of its own."""
    if float(window):
        engines.Batcher = partial(Window, seconds=float(window))  # type: ignore[assignment,misc]
    if accelerator:
        pytorch.PyTorch = Accelerated  # type: ignore[misc]
    run(msgspec.json.decode(config, type=HostConfig))


Place: TypeAlias = tuple[Engine[Any], Callable[[], float]]
"""An engine, and what tells the processor time that its process has used."""


@contextmanager
def in_host(
    record: VersionRecord, store: Path, window: float, *, accelerator: bool = False
) -> Iterator[Place]:
    """Yield an engine in a model host of its own; a window of 0 is recserve's batcher."""
    socket = store / f"host-{window}.sock"
    config = HostConfig(str(socket), str(store), log_level="ERROR", ends_with_stdin=True)
    command = host_command(config)
    if window or accelerator:
        program = "import sys; from benchmarks.overload import *; other_host(*sys.argv[1:])"
        options = [str(window), "yes" if accelerator else ""]
        command = [sys.executable, "-c", program, *options, command[-1]]
    supervisor = HostSupervisor(command, socket)
    supervisor.start()
    client = HostClient(socket)
    try:
        engine = client.open_engine(
            record,
            store=store,
            registry=load_plugins(),
            items=FEW_ITEMS if accelerator else ITEMS,
            finish=_finish,
        )
        yield engine, partial(_used_by, supervisor.pid)
    finally:
        client.close()
        supervisor.stop()


@contextmanager
def in_process(record: VersionRecord, store: Path, window: float) -> Iterator[Place]:
    """Yield an engine in this process; a window of 0 is recserve's batcher."""
    ours = engines.Batcher
    if window:
        engines.Batcher = partial(Window, seconds=window)  # type: ignore[assignment,misc]
    try:
        engine = open_engine(
            record, store=store, registry=load_plugins(), items=ITEMS, finish=_finish
        )
    finally:
        engines.Batcher = ours  # type: ignore[misc]
    try:
        yield engine, time.process_time
    finally:
        engine.close()


def _used_by(pid: int | None) -> float:
    """Return the processor time of a process, in seconds; Linux tells it."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def _finish(positions: Any, scores: Any) -> Any:
    return positions, scores


class Clients:
    """Requests that arrive at random instants, and what becomes of them.

    Args:
        engine: What is asked.
        deadline: Seconds after which an answer is of no use.
        obey: Whether who is refused comes back when told to.
        seed: Of the arrivals.
    """

    def __init__(self, engine: Engine[Any], deadline: float, *, obey: bool, seed: int) -> None:
        self._engine, self.deadline, self._obey = engine, deadline, obey
        self._rng = Random(seed)
        self._row = (np.random.default_rng(seed).standard_normal(FEATURES).astype(np.float32),)
        self._begin = 0.0
        self._told: deque[tuple[float, int, bool]] = deque()
        """Who comes back, and when."""
        self.waits: list[float] = []
        self.refusals: list[float] = []
        self.lags: list[float] = []
        self.new = self.refused = self.returned = self.accepted = 0

    def ask(self, number: int, *, back: bool) -> None:
        """Send one request."""
        asked = time.monotonic()
        try:
            future = self._engine.submit(
                self._row,
                DEPTH,
                seconds=self.deadline,
                priority=Priority.LIVE,
                key=str(number),
            )
        except QueueFull as refusal:
            self._refuse(refusal, asked, number, back=back)
            return
        future.add_done_callback(lambda done: self._answer(done, asked, number, back=back))

    def _answer(self, done: Future[Any], asked: float, number: int, *, back: bool) -> None:
        error = done.exception()
        if isinstance(error, QueueFull):
            self._refuse(error, asked, number, back=back)
            return
        self.accepted += back
        if error is None:
            self.waits.append(time.monotonic() - asked)

    def _refuse(self, refusal: QueueFull, asked: float, number: int, *, back: bool) -> None:
        now = time.monotonic()
        self.refusals.append(now - asked)
        self.refused += not back
        if self._obey:
            self._told.append((now - self._begin + (refusal.retry_after or 1.0), number, True))

    def arrive(self, rate: float, seconds: float) -> dict[str, float]:
        """Let requests arrive, and return what became of them."""
        arrivals: list[tuple[float, int, bool]] = []
        at = 0.0
        while (at := at + self._rng.expovariate(rate)) < seconds:
            arrivals.append((at, self.new, False))
            self.new += 1
        self._begin = begin = time.monotonic()
        while arrivals or time.monotonic() - begin < seconds:
            while self._told:
                heapq.heappush(arrivals, self._told.popleft())
            now = time.monotonic() - begin
            if not arrivals or now < arrivals[0][0]:
                time.sleep(0.0005 if not arrivals else min(arrivals[0][0] - now, 0.0005))
                continue
            due, number, back = heapq.heappop(arrivals)
            if due > seconds:
                break
            self.lags.append(now - due)
            self.returned += back
            self.ask(number, back=back)
        lasted = time.monotonic() - begin
        time.sleep(min(1.0, 5 * self.deadline))
        return self.result(lasted)

    def result(self, lasted: float) -> dict[str, float]:
        """Return the figures of that many seconds."""
        waits, refusals, lags = list(self.waits), sorted(self.refusals), sorted(self.lags)
        in_time = sum(wait <= self.deadline for wait in waits)
        return {
            "new": self.new,
            "in_time": in_time,
            "per_second": in_time / lasted,
            "late": len(waits) - in_time,
            "refused": self.refused / max(1, self.new),
            "p50_ms": 1000 * statistics.median(waits) if waits else float("nan"),
            "deadline_ms": 1000 * self.deadline,
            "refusal_p99_ms": 1000 * refusals[int(0.99 * len(refusals))] if refusals else 0.0,
            "lag_p99_ms": 1000 * lags[int(0.99 * len(lags))],
            "returned": self.returned,
            "obeying_accepted": self.accepted / self.returned if self.returned else 1.0,
        }


def capacity(engine: Engine[Any], seconds: float) -> tuple[float, int]:
    """Return the rows a second of an engine that always has enough to do, and all that it did."""
    row = (np.zeros(FEATURES, np.float32),)
    done, asked, stop = [0], [0], [False]

    def ask() -> None:
        asked[0] += 1
        future = engine.submit(row, DEPTH, seconds=1e3, priority=Priority.LIVE)
        future.add_done_callback(again)

    def again(_: Any) -> None:
        done[0] += 1
        if not stop[0]:
            ask()

    for _ in range(4 * MAX_BATCH):
        ask()
    time.sleep(0.2)
    before, started = done[0], time.monotonic()
    time.sleep(seconds)
    rate = (done[0] - before) / (time.monotonic() - started)
    stop[0] = True
    while done[0] < asked[0]:
        time.sleep(0.001)
    return rate, done[0]


def unbatched(run_batch: Callable[[Sequence[Any]], Sequence[Any]]) -> dict[str, float]:
    """Return the milliseconds of a call for one row, at the median, with pauses between them.

    Here, and on a thread that waits for calls, which must be woken first, as a batcher's must.
    """
    row = np.zeros(FEATURES, np.float32)
    here, there = [], []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(200):
            for seconds, call in (
                (here, lambda: run_batch([row])),
                (there, lambda: pool.submit(run_batch, [row]).result()),
            ):
                started = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - started)
                time.sleep(0.005)
    return {
        "unbatched_p50_ms": 1000 * statistics.median(here),
        "unbatched_on_a_thread_p50_ms": 1000 * statistics.median(there),
    }


def late_at_batcher(before: BatcherStats, after: BatcherStats, deadline: float) -> float:
    """Return the part of the results that left the batcher late, to 12 % of the deadline."""
    counts = Counter(after.total_seconds.buckets)
    counts.subtract(before.total_seconds.buckets)
    late = sum(n for bucket, n in counts.items() if BOUNDS[min(bucket, len(BOUNDS) - 1)] > deadline)
    return late / max(1, counts.total())


def follow(run_batch: Callable[[Sequence[Any]], Sequence[Any]]) -> dict[str, float]:
    """Make the model five times slower, and return how its fit stands 50 batches later."""
    slower = [1]

    def slowed(rows: Sequence[Any]) -> Sequence[Any]:
        for _ in range(slower[0] - 1):
            run_batch(rows)
        return run_batch(rows)

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
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--in-process", action="store_true", help="clients and model share one")
    places.add_argument("--accelerator", action="store_true", help="the model only waits")
    parser.add_argument("--loads", default="0.02,0.85,1.3,2.0", help="of the ideal, by commas")
    parser.add_argument("--no-windows", action="store_true", help="recserve's batcher alone")
    given = parser.parse_args()
    sys.setswitchinterval(0.0005)  # the clients' threads are no part of what is measured
    seconds = 4.0 if given.quick else 10.0
    place = in_process if given.in_process else partial(in_host, accelerator=given.accelerator)
    kinds = {"adaptive": 0.0} if given.no_windows else {"adaptive": 0.0, **WINDOWS}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="recserve-") as folder:
        store = Path(folder)
        record = make_model(store, FEW_ITEMS if given.accelerator else ITEMS)
        run_batch = direct(store, Accelerated() if given.accelerator else PyTorch())
        for name, window in kinds.items():
            with (
                place(record, store, window) as (engine, used),
                place(record, store, 0.0) if window else nullcontext((engine, used)) as ours,
            ):
                reference, used_by_reference = ours
                capacity(reference, 1.0)  # the model warms up
                collector.settle()  # as in a web worker: a full collection would stop all clients
                for load in map(float, given.loads.split(",")):
                    began = used_by_reference()
                    before, done = capacity(reference, 0.7)
                    closed_loop = done / (used_by_reference() - began)
                    counted, began = engine.stats(), used()
                    clients = Clients(
                        engine,
                        BATCHES_IN_TIME * MAX_BATCH / before,
                        obey=not window and load > 1,
                        seed=7,
                    )
                    result = clients.arrive(load * before, seconds)
                    result["late_at_batcher"] = late_at_batcher(
                        counted, engine.stats(), clients.deadline
                    )
                    result["per_cpu_second"] = result["in_time"] / max(0.01, used() - began)
                    result["by_processor_time"] = result["per_cpu_second"] / closed_loop
                    after, _ = capacity(reference, 0.7)
                    ideal = min(result["new"] / seconds, (before + after) / 2)
                    result |= {
                        "goodput_of_ideal": result["per_second"] / ideal,
                        "capacity_before": before,
                        "capacity_after": after,
                    }
                    if load < 0.1:
                        result |= unbatched(run_batch)
                    results[f"{load:.0%} {name}"] = result
                    print(
                        f"{load:5.0%} {name:16} goodput {result['goodput_of_ideal']:6.1%} of "
                        f"ideal {ideal:6.0f}/s, "
                        f"{result['by_processor_time']:6.1%} by processor time  "
                        f"p50 {result['p50_ms']:8.2f} ms of "
                        f"{result['deadline_ms']:.0f}  late {result['late'] / result['new']:.1%} "
                        f"(at the batcher {result['late_at_batcher']:.1%})  "
                        f"refused {result['refused']:6.2%} "
                        f"(p99 {result['refusal_p99_ms']:.2f} ms)  obeying accepted "
                        f"{result['obeying_accepted']:.1%} of {result['returned']:.0f}  "
                        f"lag p99 {result['lag_p99_ms']:.1f} ms"
                        + (
                            f"  one row, unbatched: {result['unbatched_p50_ms']:.2f} ms, "
                            f"on a thread {result['unbatched_on_a_thread_p50_ms']:.2f} ms"
                            if "unbatched_p50_ms" in result
                            else ""
                        ),
                        flush=True,
                    )
        results["five_times_slower"] = follow(run_batch)
    print(f"fit 50 batches after 5 x slower: {results['five_times_slower']['fit_of_true']:.2f}")
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
