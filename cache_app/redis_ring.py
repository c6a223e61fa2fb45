"""Several independent Redis servers as the servers of a level: a key's server by a hash ring.

The servers know nothing of each other, so nothing is elected, moved or repaired: what a server
loses is computed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.connection import parse_url
from redis.exceptions import ResponseError

from cache_app.core.breaker import Breaker, PartlyUnavailable, PoolExhausted
from cache_app.core.hash_ring import HashRing
from cache_app.core.steps import Steps, run
from cache_app.redis_connections import Command
from cache_app.redis_servers import OneServer, Server
from plugins.errors import LevelUnavailable

__all__ = ["RingNodes", "node_name"]

_REMOVALS = frozenset({"UNLINK"})
"""Commands that have failed if they failed for one copy."""


def node_name(url: str) -> str:
    """Return what places a node on the ring: where it is, without credentials and options.

    A new password, or TLS, moves no key.

    Raises:
        ValueError: It is no URL of a Redis.
    """
    parts = parse_url(url)  # type: ignore[no-untyped-call]
    where = parts.get("path") or f"{parts.get('host', 'localhost')}:{parts.get('port', 6379)}"
    return f"{where}/{parts.get('db', 0)}"


class _RingNode:
    """A node: its server, and its breaker."""

    def __init__(self, name: str, where: str, server: OneServer, breaker: Breaker) -> None:
        self._name = f"{name}: {where}"
        self.server = server
        self.breaker = breaker

    def getting(self, key: bytes) -> Steps[Any]:
        """Return a key's value in steps."""
        return self._guarded(self.server.getting(key))

    def asking(self, *command: Any) -> Steps[Any]:
        """Return the answer in steps."""
        return self._guarded(self.server.asking(b"", *command))

    def ask(self, *command: Any) -> Any:
        """Return the answer."""
        return run(self.asking(*command))

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers."""
        answers: list[Any] = run(self._guarded(self.server.asking_all(commands)))
        return answers

    def _guarded(self, steps: Steps[Any]) -> Steps[Any]:
        who = object()
        if not self.breaker.allow(who):
            steps.close()
            raise PartlyUnavailable(f"{self._name} failed a moment ago.")
        try:
            answer = yield from steps
        except (ResponseError, PartlyUnavailable):  # it answered: a wrong type, or it is full
            self.breaker.succeeded(who)
            raise
        except PoolExhausted:
            self.breaker.abandoned(who)
            raise
        except LevelUnavailable as error:
            self.breaker.failed(who)
            raise PartlyUnavailable(str(error)) from error
        except BaseException:
            self.breaker.failed(who)
            raise
        self.breaker.succeeded(who)
        return answer


class RingNodes:
    """Independent Redis servers, each behind a breaker of its own.

    A key whose node is away costs its share of the look-ups; the others go on. With ``replicas``
    above 1, its copies are read meanwhile. A node that comes back is used as it is. What it missed
    meanwhile it does not get: an old value may be read again until it expires (an invalidation
    changes keys, and is not touched by that), or a value be missing that another copy has. A
    removal that a node missed raises.

    Args:
        name: The level's name, for messages.
        urls: The nodes' URLs, with their weights. The same, or there is no common cache, in every
            process.
        replicas: Nodes that have a copy of each key.
        timeout: Seconds to wait for an answer; twice as many for a connection.
        access: redis-py's options of TLS for every node.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        urls: Mapping[str, float],
        *,
        replicas: int = 1,
        timeout: float = 0.05,
        access: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self.copies = replicas
        self._nodes: dict[str, _RingNode] = {}
        for url in urls:
            where = node_name(url)
            server = OneServer(f"{name}: {where}", url, timeout=timeout, access=access)
            self._nodes[where] = _RingNode(name, where, server, Breaker(clock=clock))
        self._ring = HashRing({node_name(url): weight for url, weight in urls.items()})

    def getting(self, key: bytes) -> Steps[Any]:
        """Return the value that the first node of a key that answers has, in steps.

        Raises:
            PartlyUnavailable: None of the key's nodes answers.
            ResponseError: The key's value is of the wrong type.
        """
        failure: LevelUnavailable | None = None
        for where in self._ring.nodes(key, self.copies):
            try:
                return (yield from self._nodes[where].getting(key))
            except (PartlyUnavailable, PoolExhausted) as error:
                failure = error
        assert failure is not None, "a key has a node"
        raise failure

    def asking(self, key: bytes, *command: Any) -> Steps[Any]:
        """Return the answer of the first node of a key that answers; all are told the command.

        In steps, one node after the other.

        Raises:
            PartlyUnavailable: None of the key's nodes answers; or one did not remove the key.
            ResponseError: The key's value is of the wrong type.
        """
        answers: list[Any] = []
        failure: LevelUnavailable | None = None
        for where in self._ring.nodes(key, self.copies):
            try:
                answers.append((yield from self._nodes[where].asking(*command)))
            except (PartlyUnavailable, PoolExhausted) as error:
                failure = error
        if failure is not None and (not answers or command[0] in _REMOVALS):
            raise failure
        # A copy that was not there does not hide that another was removed.
        return next(filter(None, answers), answers[0])

    def masters(self) -> Sequence[Server]:
        """Return the nodes, also those that are away."""
        return list(self._nodes.values())

    def close(self) -> None:
        """Close the idle connections."""
        for node in self._nodes.values():
            node.server.close()
