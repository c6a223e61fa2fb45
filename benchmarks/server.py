"""``POST /predict`` over HTTP: the lane by both entrances, Django's door, and others.

Run: ``python -m benchmarks.server [--quick] [--json]``; it needs ``requirements/bench.txt`` and
PyTorch. Every server is one uvicorn process (recserve's with its model host beside it) on one core;
the client, in this process, has another. Rounds are interleaved, figures are medians, and a round
with an answer that is no 200 ends the run. CPU is the server's, its children's included.
``lane`` is the lane as ``manage.py serve`` runs it, entered by uvicorn's protocol class; ``asgi``
is the same entered through ASGI; ``empty`` is an ASGI application that only reads the body.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import random
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import uvloop

ROOT = Path(__file__).resolve().parents[1]
FEATURES, ITEMS, USERS = 64, 10_000, 200
BARS = {
    "lane hit, of empty": 2.0,
    "lane hit, x fastapi, 64": 20.0,
    "asgi hit, of empty": 0.70,
    "asgi hit, x fastapi, 64": 8.0,
    "asgi hit, x fastapi, 16": 6.0,
    "lane miss, x fastapi": 7.0,
}

SET_UP = """
import json, sys
from pathlib import Path
import django
django.setup()
import torch
from django.conf import settings
from django.core.management import call_command
from serving_app import access
from serving_app.registration import Draft, promote, register

call_command("migrate", verbosity=0)
features, items = int(sys.argv[1]), int(sys.argv[2])
store = Path(settings.RECSERVE["SERVING"]["MODEL_STORE"])
store.mkdir(parents=True, exist_ok=True)
torch.manual_seed(1)
model = torch.nn.Sequential(
    torch.nn.Linear(features, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(),
    torch.nn.Linear(64, items, bias=False),
)
torch.jit.trace(model.eval(), torch.zeros(2, features)).save(str(store / "model.pt"))
lines = ["item,title", *(f"item-{n},Item {n}" for n in range(items))]
(store / "items.csv").write_text("\\n".join(lines) + "\\n")
names = tuple(f"f{n}" for n in range(features))
draft = Draft(
    artifact="model.pt", framework="pytorch", catalogue="items.csv", feature_names=names
)
promote(register("default", draft))
print(json.dumps([str(store / "model.pt"), access.create_token("bench", role="predict")[1]]))
"""


def cores() -> tuple[int, int]:
    """Return the core of the servers and the client's; the same, where there is one."""
    there = sorted(os.sched_getaffinity(0))
    return there[0], there[-1]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """A server under test."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    token: str
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def seconds(self) -> float:
        """Return the CPU seconds that it and its children have used."""
        total, ticks = 0, os.sysconf("SC_CLK_TCK")
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError):
                parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(parts[11]) + int(parts[12])
                for task in Path(f"/proc/{pid}/task").iterdir():
                    waiting += map(int, (task / "children").read_text().split())
        return total / ticks


class Connection(asyncio.Protocol):
    """Asks, waits for the answer, and asks again, until told to stop."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._parts = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: Any = transport
        transport.write(self._load.request())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Count an answer, once it is complete."""
        data = self._parts + data if self._parts else data
        head = data.find(b"\r\n\r\n")
        at = data.lower().find(b"content-length: ", 0, max(0, head))
        if head < 0 or len(data) < head + 4 + int(data[at + 16 : data.find(b"\r\n", at)]):
            self._parts = data
            return
        self._parts = b""
        if not data.startswith(b"HTTP/1.1 200"):
            self._load.failed = data
        self._load.answers += 1
        if self._load.going:
            self._transport.write(self._load.request())
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that it has ended."""
        self._load.open -= 1
        if not self._load.open:
            self._load.ended.set()


class Load:
    """What some connections ask, and what they counted."""

    def __init__(self, request: Callable[[], bytes]) -> None:
        self.request = request
        self.answers = 0
        self.going = True
        self.failed = b""
        self.open = 0
        self.ended = asyncio.Event()

    async def run(self, port: int, connections: int, seconds: float) -> float:
        """Return the answers per second."""
        loop = asyncio.get_running_loop()
        self.open = connections
        for _ in range(connections):
            await loop.create_connection(lambda: Connection(self), "127.0.0.1", port)
        before, started = self.answers, loop.time()
        await asyncio.sleep(seconds)
        rate = (self.answers - before) / (loop.time() - started)
        self.going = False
        await asyncio.wait_for(self.ended.wait(), 10)
        if self.failed:
            raise SystemExit(f"An answer was no 200: {self.failed[:600]!r}")
        return rate


def request_bytes(token: str, body: bytes, path: bytes = b"/api/v1/predict") -> bytes:
    """Return a request as it goes over the wire."""
    return (
        b"POST "
        + path
        + b" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
        + token.encode()
        + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )


def bodies(prefix: str) -> Iterator[bytes]:
    """Yield bodies of 64 features, each of a user of its own."""
    rng = random.Random(1)
    rows = [[round(rng.uniform(-1, 1), 6) for _ in range(FEATURES)] for _ in range(USERS)]
    for n in itertools.count():
        user = f"{prefix}-{n:09d}"
        yield json.dumps({"user_id": user, "features": rows[n % USERS]}).encode()


def inference() -> bytes:
    """Return a body of the Open Inference Protocol: a row in, and the best 10 of its scores out."""
    rng = random.Random(1)
    row = [round(rng.uniform(-1, 1), 6) for _ in range(FEATURES)]
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, FEATURES], "data": row}
    wish = {"name": "scores", "parameters": {"classification": 10}}
    return json.dumps({"inputs": [tensor], "outputs": [wish]}).encode()


def start(
    name: str, command: list[str], port: int, token: str, environment: dict[str, str]
) -> Server:
    """Start a server on its core, and return it when it takes connections."""
    core = cores()[0]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    os.sched_setaffinity(process.pid, {core})  # what it starts inherits that
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return Server(name, process, port, token)
        except OSError as error:
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"{name} does not start.") from error
            time.sleep(0.1)


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[list[Server]]:
    """Run all servers."""
    settings = {
        "DJANGO_SETTINGS_MODULE": "recserve_project.settings",
        "RECSERVE_VAR": str(folder / "var"),
        "RECSERVE_LOG_LEVEL": "WARNING",  # no access log; the others have none, either
    }
    made = subprocess.run(
        [sys.executable, "-c", SET_UP, str(FEATURES), str(ITEMS)],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        check=True,
    )
    model, token = json.loads(made.stdout.splitlines()[-1])
    uvicorn = [sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning"]
    ports = iter([free_port() for _ in range(5)])
    running: list[Server] = []
    try:
        asgi = {"RECSERVE_LANE_ENTRANCE": "asgi"}
        hits_alone = {"RECSERVE_MODEL_HOST": "off"}
        for name, more in (
            ("lane", {}),
            ("asgi", asgi | hits_alone),
            ("django", asgi | {"RECSERVE_LANE": "off"}),
        ):
            port = next(ports)
            serve = [sys.executable, "manage.py", "serve", "--port", str(port)]
            running.append(start(name, serve, port, token, settings | more))
        port = next(ports)
        empty = [*uvicorn, "--port", str(port), "--lifespan", "off"]
        command = [*empty, "benchmarks.peers.empty_asgi:application"]
        running.append(start("empty", command, port, token, {}))
        if importlib.util.find_spec("fastapi") is not None:
            port, secret = next(ports), secrets.token_hex(32)
            claims = {"sub": "bench", "exp": int(time.time()) + 86_400}
            own = jwt.encode(claims, secret, algorithm="HS256")
            given = {"PEER_MODEL": model, "PEER_SECRET": secret}
            command = [*uvicorn, "--port", str(port), "benchmarks.peers.fastapi_app:application"]
            running.append(start("fastapi", command, port, own, given))
        yield running
    finally:
        for server in running:
            server.process.terminate()
        for server in running:
            server.process.wait(30)


def measure(server: Server, kind: str, connections: int, seconds: float) -> None:
    """Run one round, and add its figures to the server's."""
    if kind == "hit":
        known = [
            request_bytes(server.token, each) for each in itertools.islice(bodies("hit"), USERS)
        ]
        request = itertools.cycle(known).__next__
    elif kind == "infer":
        asked = request_bytes(server.token, inference(), b"/v2/models/default/infer")
        request = itertools.repeat(asked).__next__
    else:
        fresh = bodies(secrets.token_hex(4))
        request = iter(lambda: request_bytes(server.token, next(fresh)), b"").__next__
    before = server.seconds()
    load = Load(request)
    rate = uvloop.run(load.run(server.port, connections, seconds))
    name = f"{kind} {connections}"
    server.rates.setdefault(name, []).append(rate)
    spent = (server.seconds() - before) / max(1, load.answers)
    server.cpu.setdefault(name, []).append(spent * 1e6)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rounds, seconds = (3, 1.0) if arguments.quick else (5, 3.0)
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as running:
        os.sched_setaffinity(0, {cores()[1]})
        for server in running:  # fill the caches, and let the interpreters specialise
            measure(server, "hit", 16, seconds)
            server.rates.clear()
            server.cpu.clear()
        for _ in range(rounds):
            for connections in (16, 64):
                for server in running:
                    measure(server, "hit", connections, seconds)
            for server in running:
                if server.name in {"lane", "fastapi"}:
                    measure(server, "miss", 64, seconds)
                if server.name in {"lane", "django"}:
                    measure(server, "infer", 16, seconds)
        report(running, as_json=arguments.json)


def report(running: list[Server], *, as_json: bool) -> None:
    """Print medians, and how they stand to the bars."""
    medians = {
        server.name: {name: statistics.median(each) for name, each in server.rates.items()}
        for server in running
    }
    for server in running:
        for name, rate in medians[server.name].items():
            spent = statistics.median(server.cpu[name])
            print(f"{server.name:8} {name:8} {rate:9,.0f} requests/s {spent:8.1f} µs of CPU each")
    cpu = {
        server.name: {name: statistics.median(each) for name, each in server.cpu.items()}
        for server in running
    }
    ratios = compared(medians)
    # On a machine that others use, too, CPU time says more than requests per second.
    by_cpu = compared({name: {k: 1 / v for k, v in each.items()} for name, each in cpu.items()})
    for name, ratio in ratios.items():
        bar = f"   bar {BARS[name]:g}" if name in BARS else ""
        print(f"{name:24} {ratio:6.2f} by requests/s {by_cpu[name]:6.2f} by CPU{bar}")
    if as_json:
        print(
            json.dumps(
                {
                    "rates": medians,
                    "cpu": cpu,
                    "ratios": ratios,
                    "ratios_by_cpu": by_cpu,
                    "bars": BARS,
                }
            )
        )


def compared(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return how the lane stands to the others, by figures of which more is better."""
    ratios = {}
    for name in ("lane", "asgi"):
        of = figures[name]
        ratios[f"{name} hit, of empty"] = of["hit 64"] / figures["empty"]["hit 64"]
        ratios[f"{name} hit, x django"] = of["hit 64"] / figures["django"]["hit 64"]
        if (peer := figures.get("fastapi")) is not None:
            ratios[f"{name} hit, x fastapi, 64"] = of["hit 64"] / peer["hit 64"]
            ratios[f"{name} hit, x fastapi, 16"] = of["hit 16"] / peer["hit 16"]
            if "miss 64" in of:
                ratios[f"{name} miss, x fastapi"] = of["miss 64"] / peer["miss 64"]
    ratios["lane infer, x django"] = figures["lane"]["infer 16"] / figures["django"]["infer 16"]
    ratios["lane infer, of miss"] = figures["lane"]["infer 16"] / figures["lane"]["miss 64"]
    return ratios


if __name__ == "__main__":
    main()
