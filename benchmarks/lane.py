"""Processor time of one hit by entrance, without sockets: what of it is uvicorn's, what the lane's.

Run: ``python -m benchmarks.lane [--quick] [--json] [--redis]
[--profile ENTRANCE | --logged]``; it needs ``requirements/bench.txt`` and PyTorch.
Requests go into uvicorn's protocol class as a socket would give them, 64 connections at a time, and
answers are taken off its transport; so the system calls are missing, and nothing else. Rounds are
interleaved, figures are medians, in microseconds of the process's own processor time, which says
something on a busy machine, too.

``--redis`` measures hits in a Redis below L1, a real one, which has a single entry then; system
calls to it are not missing.

``--logged`` measures what a hit's line in the access log costs, written at once and on a thread: in
the event loop's thread, and in the process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import io
import itertools
import json
import logging
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.contestants import ITEMS, ROOT, SET_UP
from benchmarks.http_load import FEATURES, bodies, request_bytes

CONNECTIONS, REQUESTS, USERS = 64, 6_400, 200
_NOWHERE = os.open(os.devnull, os.O_WRONLY)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)})
        self.written: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written.append(bytes(data))
        if self._waiter is not None and data.endswith(b"}"):
            self._waiter.set_result(None)
            self._waiter = None

    async def answered(self) -> None:
        """Return when the end of an answer was written."""
        if not (self.written and self.written[-1].endswith(b"}")):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def is_closing(self) -> bool:
        """Return False."""
        return False

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Nowhere(io.TextIOBase):
    """Takes lines as a file does, without keeping them."""

    def write(self, text: str) -> int:
        """Let the system take it, as from a file."""
        return os.write(_NOWHERE, text.encode())


class Entrance:
    """A protocol class with an application, and some connections."""

    def __init__(self, name: str, http: Any, application: Any) -> None:
        from uvicorn import Config
        from uvicorn.server import ServerState

        self.name = name
        config = Config(application, http=http, access_log=False, log_config=None, lifespan="off")
        config.load()
        state = ServerState()
        self.connections: list[tuple[Any, Transport]] = []
        for _ in range(CONNECTIONS):
            protocol = config.http_protocol_class(config=config, server_state=state, app_state={})
            transport = Transport()
            protocol.connection_made(transport)
            self.connections.append((protocol, transport))
        self.spent: list[float] = []

    async def run(self, requests: itertools.cycle[bytes], number: int = REQUESTS) -> None:
        """Ask, and note the microseconds of each request."""
        started = time.process_time()
        for _ in range(number // CONNECTIONS):
            for protocol, transport in self.connections:
                transport.written.clear()
                protocol.data_received(next(requests))
            for _, transport in self.connections:
                await transport.answered()
        self.spent.append((time.process_time() - started) / number * 1e6)
        if not all(t.written[0].startswith(b"HTTP/1.1 200") for _, t in self.connections):
            raise SystemExit(f"{self.name}: {self.connections[0][1].written[0]!r}")


def entrances() -> list[Entrance]:
    """Return what is compared."""
    from benchmarks.peers.empty_asgi import application as empty
    from recserve_project.asgi import application

    found = [
        Entrance("empty", "httptools", empty),
        Entrance("lane", "httptools", application),
    ]
    try:
        from serving_app.api.protocol import LaneProtocol
    except ImportError:
        return found
    return [*found, Entrance("protocol", LaneProtocol, application)]


async def measure(token: str, arguments: argparse.Namespace) -> None:
    """Measure, and print."""
    from serving_app import wiring

    await asyncio.to_thread(wiring.start)
    wiring.attach(asyncio.get_running_loop())
    await asyncio.to_thread(wiring.wait_until_ready)
    compared = entrances()
    known = [request_bytes(token, each) for each in itertools.islice(bodies("hit"), USERS)]
    requests = itertools.cycle(known)
    for entrance in reversed(compared):  # fill the cache, and let the interpreter specialise
        await entrance.run(requests)
        entrance.spent.clear()
    if arguments.logged:
        lines = await logged(compared[-1], requests, quick=arguments.quick)
        if arguments.json:
            print(json.dumps(lines))
        wiring.detach()
        await asyncio.to_thread(wiring.stop)
        return
    if arguments.profile:
        (entrance,) = (each for each in compared if each.name == arguments.profile)
        profiler = cProfile.Profile(builtins=False)
        profiler.enable()
        await entrance.run(requests, 2 * REQUESTS)
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
        return
    for _ in range(9 if arguments.quick else 25):
        for entrance in compared:
            await entrance.run(requests)
    least = statistics.median(compared[0].spent)
    for entrance in compared:
        spent = statistics.median(entrance.spent)
        more = f"{spent - least:+7.1f} µs {least / spent:5.2f}"
        print(f"{entrance.name:10} {spent:7.1f} µs a hit {more}")
    if arguments.json:
        print(json.dumps({each.name: statistics.median(each.spent) for each in compared}))
    wiring.detach()
    await asyncio.to_thread(wiring.stop)


async def logged(
    entrance: Entrance, requests: itertools.cycle[bytes], *, quick: bool
) -> dict[str, tuple[float, float]]:
    """Return, by its line, what a hit takes of the loop's thread and of all; print it."""
    from serving_app import request_log
    from serving_app.log_format import JSONFormatter
    from serving_app.log_writer import Lines

    spent: dict[str, list[tuple[float, float]]] = {"none": [], "at once": [], "deferred": []}
    handler = Lines(Nowhere())
    handler.setFormatter(JSONFormatter())
    request_log.logger.handlers, request_log.logger.propagate = [handler], False
    for _ in range(9 if quick else 25):
        for line, found in spent.items():
            request_log.logger.setLevel(logging.WARNING if line == "none" else logging.INFO)
            if line == "deferred":
                request_log.defer()
            thread, process = time.thread_time(), time.process_time()
            await entrance.run(requests)
            thread = time.thread_time() - thread
            request_log.write_at_once()  # what waits is the process's, too
            process = time.process_time() - process
            found.append((thread / REQUESTS * 1e6, process / REQUESTS * 1e6))
    medians = {
        line: (statistics.median(t for t, _ in found), statistics.median(p for _, p in found))
        for line, found in spent.items()
    }
    for line, (thread, process) in medians.items():
        print(f"line {line:9} {thread:7.1f} µs of the loop's thread {process:7.1f} µs in all")
    return medians


def main() -> None:
    """Make an installation, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--redis", action="store_true")
    parser.add_argument("--profile", default="")
    parser.add_argument("--logged", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ.update(
            DJANGO_SETTINGS_MODULE="recserve_project.settings",
            RECSERVE_VAR=str(Path(folder) / "var"),
            RECSERVE_LOG_LEVEL="WARNING",
            RECSERVE_MODEL_HOST="off",
        )
        made = subprocess.run(
            [sys.executable, "-c", SET_UP, str(FEATURES), str(ITEMS)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
        _, token = json.loads(made.stdout.splitlines()[-1])
        import django

        django.setup()
        if arguments.redis:
            from django.conf import settings

            from tests import servers

            url = stack.enter_context(servers.one()).url
            l2 = {"BACKEND": "redis", "URL": url}
            settings.RECSERVE["CACHE"] = {"L1": {"CAPACITY": 1}, "L2": l2}
        uvloop.run(measure(token, arguments))


if __name__ == "__main__":
    main()
