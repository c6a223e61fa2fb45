"""What the open dashboard costs the server: CPU time of its web processes, watched and unwatched.

A server with two workers is asked 100 times a second all the while. Rounds alternate: nobody
watches, one page does, ten do. What they read is thrown away.

Run: python -m benchmarks.dashboard [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.journeys.conftest import Server, free_port, manage, start, stop  # noqa: E402
from tests.journeys.test_dashboard import signed_in  # noqa: E402

WORKERS, RATE = 2, 100
TICKS = os.sysconf("SC_CLK_TCK")


def processes(parent: int) -> list[int]:
    """Return a process and all that it started, and so on."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *(each for child in children for each in processes(int(child)))]


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time of processes, in seconds."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


@contextmanager
def load(server: Server) -> Iterator[None]:
    """Ask all the while."""
    ended = threading.Event()

    def ask() -> None:
        with server.client() as client:
            n = 0
            while not ended.wait(1 / RATE):
                client.post("predict", json={"user_id": str(n % 500)}).raise_for_status()
                n += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def watching(server: Server, pages: int) -> Iterator[None]:
    """Keep pages open: streams that are opened anew when they end."""
    ended = threading.Event()

    def watch(client: httpx.Client) -> None:
        while not ended.is_set():
            with client.stream("GET", "/admin/dashboard/stream/") as answer:
                for _ in answer.iter_lines():
                    if ended.is_set():
                        return

    with ExitStack() as stack:
        clients = [stack.enter_context(signed_in(server)) for _ in range(pages)]
        threads = [threading.Thread(target=watch, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        time.sleep(3)  # the first event, with the past, is not what an open page costs
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 15 s, not 6 of 50")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    rounds, seconds = (2, 15) if given.quick else (6, 50)
    shares: dict[int, list[float]] = {0: [], 1: [], 10: []}
    with tempfile.TemporaryDirectory(prefix="recserve-dashboard-") as folder:
        var, port = Path(folder), free_port()
        manage(var, "migrate", "--verbosity", "0")
        manage(var, "demo", "--port", str(port))
        server = start(var, port, workers=WORKERS)
        try:
            with load(server):
                time.sleep(3)
                pids = processes(server.process.pid)
                for _ in range(rounds):
                    for pages, found in shares.items():
                        with watching(server, pages):
                            before, began = cpu_seconds(pids), time.monotonic()
                            time.sleep(seconds)
                            spent = cpu_seconds(pids) - before
                            found.append(spent / (time.monotonic() - began))
        finally:
            stop(server)
    idle = statistics.median(shares[0])
    figures = {
        "unwatched_percent_of_a_core": 100 * idle,
        **{
            f"{pages}_pages_more_percent": 100 * (statistics.median(found) - idle)
            for pages, found in shares.items()
            if pages
        },
        "least_and_most_unwatched": [100 * min(shares[0]), 100 * max(shares[0])],
    }
    for name, value in figures.items():
        print(f"{name.replace('_', ' ')}: {value}")
    if given.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
