"""Whether one request can harm another: abandoned ones, and a poisoned row in every batch.

Threads send a batcher in their own process 100,000 requests; the answer to each tells which it
was. 30 % are cancelled at random moments: at once, while they are queued, while they run, or when
they are answered already. The model writes down what it ran. Then each batch has one row that makes
the model fail, for the whole batch, as real ones do.

Run: python -m benchmarks.isolation [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, wait
from random import Random
from typing import Any

from plugins import InferenceError
from serving_app.core.batcher import Batcher

MAX_BATCH, THREADS, AHEAD = 32, 8, 64
"""Threads that ask, and how many requests each has under way."""
ABANDONED = 0.3


class Model:
    """Returns what it is given, after a while, and remembers it. Run by one thread."""

    def __init__(self, seconds: float, poison: frozenset[int] = frozenset()) -> None:
        self.seconds, self.poison = seconds, poison
        self.ran: set[int] = set()

    def __call__(self, rows: Sequence[int]) -> Sequence[int]:
        """Return each row's negative.

        Raises:
            ValueError: One of them is poisoned.
        """
        self.ran.update(rows)
        time.sleep(self.seconds)
        if not self.poison.isdisjoint(rows):
            raise ValueError("a poisoned row")
        return [-row for row in rows]


def abandon(requests: int) -> dict[str, Any]:
    """Cancel some of many requests, and return what became of all."""
    model = Model(0.001)
    batcher: Batcher[int, int] = Batcher(model, name="isolation", max_batch=MAX_BATCH)
    counts = {"innocent_failed": 0, "wrong_answer": 0, "answered": 0, "too_late_to_abandon": 0}
    queued: set[int] = set()
    unsettled: list[int] = []
    lock = threading.Lock()

    def settle(number: int, future: Future[int], *, cancelled: bool) -> None:
        try:
            answer = future.result(30)
        except CancelledError:
            what = "innocent_failed" if not cancelled else ""
        except TimeoutError:
            unsettled.append(number)
            return
        except Exception:  # noqa: BLE001  (counted)
            what = "innocent_failed"
        else:
            what = "answered" if answer == -number else "wrong_answer"
        if what:
            with lock:
                counts[what] += 1

    def client(seed: int) -> None:
        rng = Random(seed)
        under_way: list[tuple[int, Future[int], float | None, bool]] = []
        for number in range(seed, requests, THREADS):
            future = batcher.submit(number, seconds=60.0)
            leaves = None
            if rng.random() < ABANDONED:
                leaves = time.monotonic() + rng.choice((0.0, rng.uniform(0, 0.03)))
            under_way.append((number, future, leaves, False))
            while len(under_way) >= AHEAD or (number + THREADS >= requests and under_way):
                now = time.monotonic()
                for at, (each, its, when, gone) in enumerate(under_way):
                    if when is not None and when <= now and not gone:
                        cancelled = its.cancel()
                        under_way[at] = each, its, None, cancelled
                        with lock:
                            if cancelled:
                                queued.add(each)
                            else:
                                counts["too_late_to_abandon"] += 1
                done = [entry for entry in under_way if entry[1].done() and entry[2] is None]
                for each, its, _, gone in done:
                    settle(each, its, cancelled=gone)
                under_way = [e for e in under_way if not (e[1].done() and e[2] is None)]
                if not done:
                    time.sleep(0.0002)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    executed = len(queued & model.ran)
    return {
        "requests": requests,
        **counts,
        "never_settled": len(unsettled),
        "abandoned_while_queued": len(queued),
        "of_these_executed": executed,
        "never_executed": 1 - executed / max(1, len(queued)),
    }


def poison(batches: int) -> dict[str, Any]:
    """Put a row that fails its whole batch into every batch, and return who saw an error."""
    bad = frozenset(batch * MAX_BATCH + batch % MAX_BATCH for batch in range(batches))
    model = Model(0.0, bad)
    batcher: Batcher[int, int] = Batcher(model, name="poison", max_batch=MAX_BATCH, max_queue=10**6)
    futures = [batcher.submit(n, seconds=600.0) for n in range(batches * MAX_BATCH)]
    wait(futures, 300)
    failed = {n for n, future in enumerate(futures) if future.exception(0) is not None}
    wrong = sum(n not in bad and future.result(0) != -n for n, future in enumerate(futures))
    own = sum(isinstance(futures[n].exception(0), InferenceError) for n in bad)
    stats = batcher.stats()
    batcher.close()
    return {
        "rows": len(futures),
        "poisoned": len(bad),
        "poisoned_that_saw_an_error": own,
        "innocent_failed": len(failed - bad),
        "wrong_answer": wrong,
        "batches": stats.batches,
        "failed_batches": stats.failed_batches,
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    requests = 10_000 if given.quick else 100_000
    results = {"abandoned": abandon(requests), "poisoned": poison(requests // (10 * MAX_BATCH))}
    for what, figures in results.items():
        print(f"{what}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
