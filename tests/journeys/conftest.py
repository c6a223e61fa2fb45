"""A really running server with the demo, as `make run` starts it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def manage(var: Path, *arguments: str, check: bool = True, **more: Any):
    """Run manage.py on an installation of its own."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        check=False,
        env=environment(var),
        capture_output=True,
        text=True,
        timeout=600,
        **more,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def environment(var: Path, settings: str = "") -> dict[str, str]:
    unset = ("DJANGO_SETTINGS_MODULE", "RECSERVE_VAR")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    own = {"DJANGO_SETTINGS_MODULE": settings} if settings else {}
    log = {"RECSERVE_LOG_LEVEL": "INFO"}
    return {**kept, **own, **database_of(var), "RECSERVE_VAR": str(var), **log}


def database_of(var: Path) -> dict[str, str]:
    """Where the tests run on PostgreSQL, give an installation a database of its own there.

    In the one that is configured it would meet what other installations have counted.
    """
    given = "RECSERVE_DATABASE_URL"
    url = os.environ.get(given, "")
    if not url.startswith("postgres"):
        return {}
    import psycopg

    name = f"of_{hashlib.blake2b(str(var).encode(), digest_size=8).hexdigest()}"
    with psycopg.connect(url, autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        if known.fetchone() is None:
            connection.execute(f'CREATE DATABASE "{name}"')
    return {given: urlsplit(url)._replace(path=f"/{name}").geturl()}


@dataclass
class Server:
    """A running server, and what its demo says of it."""

    process: subprocess.Popen[bytes]
    demo: dict[str, Any]
    var: Path
    log: Path
    first_status: int
    """What readiness said the first time that the server took a connection."""

    @property
    def url(self) -> str:
        return self.demo["url"]

    def client(self, token: str | None = None) -> httpx.Client:
        return httpx.Client(
            base_url=f"{self.url}/api/v1/",
            headers={"Authorization": f"Bearer {token or self.demo['token']}"},
            timeout=120,
        )

    def administrator(self) -> httpx.Client:
        credentials = {"username": self.demo["username"], "password": self.demo["password"]}
        tokens = httpx.post(f"{self.url}/api/v1/token", json=credentials, timeout=60).json()
        return self.client(tokens["access"])


def start(var: Path, port: int, *, workers: int = 1, settings: str = "") -> Server:
    """Start the server and wait until it is ready."""
    log = var / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "manage.py", "serve"),
                *("--port", str(port), "--workers", str(workers)),
            ],
            cwd=ROOT,
            env=environment(var, settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    demo = json.loads((var / "demo.json").read_text())
    demo["url"] = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            first = httpx.get(f"{demo['url']}/api/v1/health/ready", timeout=5)
            return Server(process, demo, var, log, first.status_code)
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"the server is not ready: {log.read_text()}")


def runs(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not asked for its status does not.

    Its parent may be gone, and nobody else ask.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def stop(server: Server) -> int:
    """Ask the server to end, as an operator would, and return its exit status."""
    server.process.send_signal(signal.SIGTERM)
    return server.process.wait(30)


@pytest.fixture(scope="session")
def installation(tmp_path_factory) -> tuple[Path, int]:
    """A fresh database with the demo in it, on the real purchases where they are here.

    Training takes longest: where the database is a file, one process of a run does it for all.
    """
    var, port = tmp_path_factory.mktemp("var"), free_port()
    if database_of(var):
        _make_demo(var, port)
        return var, port
    mine = tmp_path_factory.getbasetemp()
    run = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    with (run / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (run / "demo").exists():
            made = run / "demo-in-the-making"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            _make_demo(made, port)
            made.rename(run / "demo")
    shutil.copytree(run / "demo", var, dirs_exist_ok=True)
    return var, port


def _make_demo(var: Path, port: int) -> None:
    manage(var, "migrate", "--verbosity", "0")
    arguments = ["demo", "--port", str(port)]
    if os.environ.get("RECSERVE_DATA"):
        arguments += ["--data", str(Path(os.environ["RECSERVE_DATA"]) / "recs" / "online-retail")]
    manage(var, *arguments)


@pytest.fixture(scope="session")
def server(installation):
    """The demo's server."""
    running = start(*installation)
    yield running
    stop(running)
