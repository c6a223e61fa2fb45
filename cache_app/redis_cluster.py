"""The nodes of a Redis Cluster, as the servers of a level.

**Why not redis-py's RedisCluster** (8.1.0, ``redis/cluster.py``): a request that meets a cluster
that is down sleeps 0.25 s (``_execute_command``, ``except ClusterDownError``), and one that meets a
dead node reads the slot table anew, under a lock on which the others queue to do the same
(``NodesManager.initialize``): with six nodes hung, each thread waits for six time-outs more than
the one before it. And one breaker for all nodes would take the healthy ones away with the dead one.
Here each node has a breaker, and one background thread at a time reads the table.

The rules of redirection are those of the Redis Cluster specification, "MOVED redirection" and "ASK
redirection".
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ResponseError

from cache_app.core.breaker import Breaker, PartlyUnavailable, PoolExhausted
from cache_app.core.steps import Question, Steps
from cache_app.redis_connections import (
    AWAY,
    ERRORS,
    Address,
    Command,
    close_idle,
    connect,
    execute,
    fail,
    pool_options,
)
from cache_app.redis_link import Ask, AskAll, Elsewhere, Link, Read
from cache_app.redis_servers import TURN, Forkable, Handle, Server
from plugins.errors import LevelUnavailable

__all__ = ["ClusterNodes"]

_SLOTS = 16384
_REFRESH = 0.25
"""Seconds between readings of the slot table at least."""


class _ClusterNode:
    """A node of a cluster: its connections, and its breaker."""

    def __init__(self, address: Address, client: redis.Redis, breaker: Breaker) -> None:
        self.address = address
        self.link = Link(client, slots=True)
        self.breaker = breaker


class ClusterNodes(Forkable):
    """The masters of a Redis Cluster, each behind a breaker of its own.

    A key whose node is away costs its share of the look-ups; the others go on.

    Args:
        name: The level's name, for messages.
        addresses: Nodes to begin with; the cluster names the others.
        timeout: Seconds to wait for an answer; twice as many for a connection.
        access: redis-py's options of user, password and TLS for a pool to a node.
        clock: Monotonic seconds.
    """

    copies = 1

    def __init__(
        self,
        name: str,
        addresses: Sequence[Address],
        *,
        timeout: float = 0.05,
        access: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._seeds = list(addresses)
        self._timeout = timeout
        self._options = {**pool_options(timeout), **(access or {})}
        self._clock = clock
        super().__init__()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._nodes: dict[Address, _ClusterNode] = {}
        self._table: list[_ClusterNode | None] = []
        """The node of each slot; empty before the first reading."""
        self._not_before = float("-inf")

    def getting(self, key: bytes) -> Steps[Any]:
        """Return a key's value in steps; with others that its node is asked for meanwhile."""
        return self._asking(key, lambda link: Read(link, key), ("GET", key))

    def asking(self, key: bytes, *command: Any) -> Steps[Any]:
        """Return the answer of the node that has the key, in steps."""
        return self._asking(key, lambda link: Ask(link, command), command)

    def _asking(
        self, key: bytes, question: Callable[[Link], Question], command: Command
    ) -> Steps[Any]:
        try:
            table = self._table or (yield Elsewhere(self._read_first))
            node = table[key_slot(key)]
            if node is None:
                self._read_soon()
                raise PartlyUnavailable(f"{self._name}: no node has the key's slot.")
            try:
                return (yield from self._guarded(node, question(node.link)))
            except MovedError as error:  # the slot has another owner for good
                self._read_soon()
                owner = self._node((error.host or node.address[0], error.port))
                return (yield from self._guarded(owner, Ask(owner.link, command)))
            except AskError as error:  # the slot moves, and this key is there already
                owner = self._node((error.host or node.address[0], error.port))
                both = AskAll(owner.link, [("ASKING",), command])
                return (yield from self._guarded(owner, both))[-1]
        except ERRORS as error:
            fail(self._name, error)

    def masters(self) -> Sequence[Server]:
        """Return the nodes that have slots."""
        table = self._table or self._read_first()
        nodes = {node.address: node for node in table if node is not None}
        return [Handle(functools.partial(self._asking_node, node)) for node in nodes.values()]

    def _asking_node(self, node: _ClusterNode, question: Callable[[Link], Question]) -> Steps[Any]:
        try:
            return (yield from self._guarded(node, question(node.link)))
        except (MovedError, AskError) as error:
            self._read_soon()
            raise PartlyUnavailable(f"{self._name}: slots are moving.") from error
        except ERRORS as error:
            fail(self._name, error)

    def _guarded(self, node: _ClusterNode, question: Question) -> Steps[Any]:
        host, port = node.address
        who = object()
        if not node.breaker.allow(who):
            self._read_soon()  # a replica may have taken over
            raise PartlyUnavailable(f"{self._name}: {host}:{port} failed a moment ago.")
        try:
            answer = yield question
        except AWAY as error:
            node.breaker.failed(who)
            self._read_soon()
            raise PartlyUnavailable(f"{self._name}: {host}:{port}: {error}") from error
        except ResponseError:  # it answered
            node.breaker.succeeded(who)
            raise
        except PoolExhausted:
            node.breaker.abandoned(who)
            raise
        except BaseException:
            node.breaker.failed(who)
            raise
        node.breaker.succeeded(who)
        return answer

    def _node(self, address: Address) -> _ClusterNode:
        with self._lock:
            if address not in self._nodes:
                self._nodes[address] = _ClusterNode(
                    address,
                    connect(address, self._options),
                    Breaker(clock=self._clock),
                )
            return self._nodes[address]

    def _read_soon(self) -> None:
        """Have the slot table read by another thread; one reads at a time, and not too often."""
        with self._lock:
            if self._clock() < self._not_before:
                return
            self._not_before = self._clock() + _REFRESH
        with contextlib.suppress(RuntimeError):  # no more threads: later, perhaps
            threading.Thread(target=self._read, name=f"{self._name}-slots", daemon=True).start()

    def _read_first(self) -> list[_ClusterNode | None]:
        """Return the slot table; read it, as there is none.

        Raises:
            LevelUnavailable: No node tells it.
        """
        if not self._reading.acquire(timeout=TURN):
            raise LevelUnavailable(f"{self._name}: the cluster's nodes do not answer.")
        try:
            if not self._table:
                self._read_from_any(until=self._clock() + 4 * self._timeout)
        finally:
            self._reading.release()
        if not self._table:
            raise LevelUnavailable(f"{self._name}: no node of the cluster answers.")
        return self._table

    def _read(self) -> None:
        if self._reading.acquire(blocking=False):
            try:
                self._read_from_any(until=float("inf"))
            finally:
                self._reading.release()

    def _read_from_any(self, *, until: float) -> None:
        """Take the slot table of the first node that tells it; keep the old one else."""
        with self._lock:
            known = list(self._nodes.values())
        candidates = {node.address: node for node in known}
        for address in self._seeds:
            candidates.setdefault(address, self._node(address))
        nodes = list(candidates.values())
        random.shuffle(nodes)
        nodes.sort(key=lambda node: node.breaker.state != "closed")
        for node in nodes:
            if self._clock() >= until:
                return
            try:
                ranges = execute(node.link.client, ("CLUSTER SLOTS",))
                table = self._table_of(ranges, node.address[0])
            except ERRORS:
                continue
            if any(table):
                self._table = table
                self._close_others({each.address for each in table if each is not None})
                return

    def _table_of(self, ranges: Any, asked: str) -> list[_ClusterNode | None]:
        """Return the node of each slot from ``[[first, last, [host, port, …], …], …]``."""
        table: list[_ClusterNode | None] = [None] * _SLOTS
        for first, last, (host, port, *_), *_replicas in ranges:
            if not 0 <= first <= last < _SLOTS:
                raise ValueError(f"There are no slots {first} to {last}.")
            # An empty host: the one that was asked. It may be bytes.
            text = host.decode() if isinstance(host, bytes) else host
            node = self._node((text or asked, int(port)))
            table[first : last + 1] = [node] * (last + 1 - first)
        return table

    def _close_others(self, used: set[Address]) -> None:
        """Forget the nodes that have no slots any more, but for those to begin with."""
        with self._lock:
            gone = [at for at in self._nodes if at not in used and at not in self._seeds]
            nodes = [self._nodes.pop(address) for address in gone]
        for node in nodes:
            close_idle(node.link.client)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            nodes = list(self._nodes.values())
        for node in nodes:
            close_idle(node.link.client)
