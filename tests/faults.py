"""What befalls a Redis: real servers in each arrangement, and the faults that are injected."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis

from tests import servers
from tests.servers import RedisCluster, RedisServer, SentinelSet, wait_for

__all__ = ["ARRANGEMENTS", "Arrangement", "Fault"]

_MOVED_SLOTS = 200


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong for a while."""

    name: str
    inject: Callable[[], object]
    """Begins it."""
    mend: Callable[[], object]
    """Ends it; returns when the servers are well again."""


@dataclass(frozen=True)
class Arrangement:
    """Running servers, the level's settings for them, and what may befall them."""

    level: str
    """``l2`` or ``l3``."""
    cache: dict[str, Any]
    """What goes into ``RECSERVE["CACHE"]``."""
    faults: list[Fault]


@contextlib.contextmanager
def one() -> Iterator[Arrangement]:
    """One Redis as L2."""
    with servers.one() as server, contextlib.ExitStack() as stack:
        stack.callback(server.go_on)
        rubbish = _Rubbish(server)
        stack.callback(rubbish.stop)
        yield Arrangement(
            "l2",
            {"L2": {"BACKEND": "redis", "URL": server.url}, "L3": {}},
            [
                Fault("stop", server.stop, server.go_on),
                Fault("kill", server.kill, lambda: _start(server)),
                Fault("full", lambda: _fill(server), lambda: _maxmemory(server, "0")),
                Fault("rubbish", rubbish.start, rubbish.stop),
            ],
        )


def _start(server: RedisServer) -> None:
    server.start()
    server.wait()


def _maxmemory(server: RedisServer, size: str) -> None:
    server.client.config_set("maxmemory", size)


def _fill(server: RedisServer) -> None:
    server.client.config_set("maxmemory-policy", "noeviction")
    _maxmemory(server, "100kb")  # less than an empty one takes


class _Rubbish:
    """Overwrites every key of the levels, again and again, with what nobody can read."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.written = 0

    def start(self) -> None:
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        client = redis.Redis(port=self._server.port, protocol=2)
        kinds = itertools.cycle((b"", b"7", b"\x80\x04K\x01.", b"RS" + bytes(60), os.urandom(300)))
        with contextlib.suppress(redis.RedisError):
            while not self._ended.wait(0.02):
                for key in client.scan_iter("rs*", count=500):
                    kind = next(kinds)
                    if kind:
                        client.set(key, kind)
                    else:
                        client.delete(key)
                        client.rpush(key, "a list")
                    self.written += 1
        client.close()


@contextlib.contextmanager
def sentinel() -> Iterator[Arrangement]:
    """A master, two replicas and three Sentinels as L3."""
    with servers.sentinels() as group:
        l3 = {"BACKEND": "sentinel", "SENTINELS": group.addresses, "SERVICE": group.service}
        yield Arrangement("l3", {"L2": {}, "L3": l3}, [_failover(group)])


def _failover(group: SentinelSet) -> Fault:
    killed: list[RedisServer] = []

    def inject() -> None:
        killed.append(group.master())
        killed[-1].kill()

    def mend() -> None:
        old = killed.pop()
        wait_for(lambda: group.master() is not old, what="the Sentinels name another master")
        new = group.master()
        wait_for(lambda: new.client.info("replication")["role"] == "master", what="it is one")

    return Fault("failover", inject, mend)


@contextlib.contextmanager
def cluster() -> Iterator[Arrangement]:
    """Three masters with a replica each as L3."""
    with servers.cluster() as nodes:
        l3 = {"BACKEND": "cluster", "NODES": nodes.addresses[:3]}
        yield Arrangement(
            "l3",
            {"L2": {}, "L3": l3},
            [
                Fault("slots", lambda: _move_slots(nodes), lambda: None),
                _node_killed(nodes),
            ],
        )


def _node_killed(nodes: RedisCluster) -> Fault:
    """Return the death of a master; its replica takes over."""
    dead, key = nodes.servers[0], b"{}"
    while nodes.owner(key) is not dead:
        key += b"x"

    def taken_over() -> bool:
        time.sleep(0.1)  # to read slot tables all the time would be a load of its own
        # By all who are alive: whoever is asked for the slot table must know it.
        living = [server for server in nodes.servers if server is not dead]
        return all(nodes.owner(key, of=server) is not dead for server in living)

    return Fault("node", dead.kill, lambda: wait_for(taken_over, what="the replica takes over"))


def _move_slots(nodes: RedisCluster) -> None:
    """Move slots, with their keys, from the second master to the third."""
    source, target = nodes.servers[1:3]
    ids = {
        server: server.client.execute_command("CLUSTER MYID").decode()
        for server in (source, target)
    }
    first = servers.SLOTS // 3
    for slot in range(first, first + _MOVED_SLOTS):
        target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
        while keys := source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            source.client.execute_command(
                *("MIGRATE", servers.HOST, target.port, "", 0, 2000, "REPLACE", "KEYS", *keys)
            )
        for server in (target, source):
            server.client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])


ARRANGEMENTS: dict[str, Callable[[], contextlib.AbstractContextManager[Arrangement]]] = {
    "one": one,
    "sentinel": sentinel,
    "cluster": cluster,
}
"""By name."""
