"""The Redis server of a level: one, or a master behind Sentinels. A cluster: redis_cluster.py."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import redis
from redis.sentinel import Sentinel

from cache_app.core.steps import Question, Steps, run
from cache_app.redis_connections import (
    AWAY,
    ERRORS,
    Address,
    Command,
    Pool,
    close_idle,
    connect,
    connection_options,
    fail,
    pool_options,
)
from cache_app.redis_link import Ask, AskAll, Elsewhere, Link, Read
from plugins.errors import LevelUnavailable

__all__ = ["TURN", "Forkable", "Handle", "OneServer", "SentinelMaster", "Server", "Servers"]

R = TypeVar("R")

TURN = 0.1
"""Seconds to wait for another thread that looks for the servers."""


class Server(Protocol):
    """One server that holds keys."""

    def ask(self, *command: Any) -> Any:
        """Return the answer to a command.

        Raises:
            LevelUnavailable: There is none.
            ResponseError: The key's value is of the wrong type.
        """

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers to commands that are sent together.

        Raises:
            LevelUnavailable: One has none.
        """


class Servers(Protocol):
    """All servers of a level. Any thread uses them, several at once; a forked child reconnects.

    What steps ask may be asked by a thread, which waits, or by an event loop.
    """

    copies: int
    """How many of them have each key."""

    def getting(self, key: bytes) -> Steps[Any]:
        """Return a key's value, or None, in steps.

        Raises:
            LevelUnavailable: The server that has the key does not answer.
            ResponseError: The value is of the wrong type. It may also be None then.
        """

    def asking(self, key: bytes, *command: Any) -> Steps[Any]:
        """Return the answer of the server that has a key, in steps.

        Raises:
            LevelUnavailable: There is none.
            ResponseError: The key's value is of the wrong type.
        """

    def masters(self) -> Sequence[Server]:
        """Return the servers that hold the keys.

        Raises:
            LevelUnavailable: They cannot be found.
        """

    def close(self) -> None:
        """Close the idle connections; the next use opens new ones."""


class Forkable:
    """What a forked child forgets: sockets belong to its parent, and locks may be held there."""

    def __init__(self) -> None:
        self._forget()
        itself = weakref.ref(self)

        def in_child() -> None:
            servers = itself()
            if servers is not None:
                servers._forget()  # noqa: SLF001  (itself)

        os.register_at_fork(after_in_child=in_child)

    def _forget(self) -> None:
        raise NotImplementedError


class Handle:
    """A server, to be asked by whoever goes through all.

    Args:
        asking: Asks it what is made for its link, in steps.
    """

    def __init__(self, asking: Callable[[Callable[[Link], Question]], Steps[Any]]) -> None:
        self._asking = asking

    def ask(self, *command: Any) -> Any:
        """Return the answer."""
        return run(self._asking(lambda link: Ask(link, command)))

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers."""
        answers: list[Any] = run(self._asking(lambda link: AskAll(link, commands)))
        return answers


class OneServer(Forkable):
    """One Redis.

    Args:
        name: The level's name, for messages.
        url: Its URL: ``redis://``, ``rediss://`` or ``unix://``. What its query sets goes before
            the settings here.
        timeout: Seconds to wait for an answer; twice as many for a connection.
        access: redis-py's options of user, password and TLS, besides what the URL says.
    """

    copies = 1

    def __init__(
        self,
        name: str,
        url: str,
        *,
        timeout: float = 0.05,
        access: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = name
        self._url = url
        self._options = {**pool_options(timeout), **(access or {})}
        super().__init__()

    def _forget(self) -> None:
        # Nothing is connected before the first command.
        pool = Pool.from_url(self._url, **self._options)
        self._link = Link(redis.Redis(connection_pool=pool))

    def get(self, key: bytes) -> Any:
        """Return a key's value; together with others that are asked for at the same time."""
        return run(self.getting(key))

    def ask(self, key: bytes, *command: Any) -> Any:
        """Return the answer."""
        return run(self.asking(key, *command))

    def getting(self, key: bytes) -> Steps[Any]:
        """Return a key's value in steps; see `get`."""
        return self._running(Read(self._link, key))

    def asking(self, key: bytes, *command: Any) -> Steps[Any]:
        """Return the answer in steps."""
        return self._running(Ask(self._link, command))

    def asking_all(self, commands: Sequence[Command]) -> Steps[list[Any]]:
        """Return the answers to commands that are sent together, in steps."""
        return self._running(AskAll(self._link, commands))

    def masters(self) -> Sequence[Server]:
        """Return the server."""
        return [Handle(lambda question: self._running(question(self._link)))]

    def _running(self, question: Question) -> Steps[Any]:
        try:
            return (yield question)
        except ERRORS as error:
            fail(self._name, error)

    def close(self) -> None:
        """Close the idle connections."""
        close_idle(self._link.client)


class SentinelMaster(Forkable):
    """The master that Sentinels name. They are asked again whenever it fails.

    Reads go to the master too: a replica may have missed a removal.

    Args:
        name: The level's name, for messages.
        sentinels: Their addresses.
        service: The name that they know the master by.
        timeout: Seconds to wait for an answer; twice as many for a connection.
        access: redis-py's options of user, password, database and TLS for a pool to the master.
        sentinel_access: The same for a client to a Sentinel.
    """

    copies = 1

    def __init__(
        self,
        name: str,
        sentinels: Sequence[Address],
        service: str,
        *,
        timeout: float = 0.05,
        access: Mapping[str, Any] | None = None,
        sentinel_access: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = name
        self._addresses = list(sentinels)
        self._service = service
        self._sentinel_options = {**connection_options(timeout), **(sentinel_access or {})}
        self._options = {**pool_options(timeout), **(access or {})}
        super().__init__()

    def _forget(self) -> None:
        self._finding = threading.Lock()
        self._master: Link | None = None
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self._addresses, sentinel_kwargs=self._sentinel_options
        )

    def getting(self, key: bytes) -> Steps[Any]:
        """Return a key's value in steps; together with others of the same time."""
        return self._running(lambda master: Read(master, key))

    def asking(self, key: bytes, *command: Any) -> Steps[Any]:
        """Return the master's answer in steps."""
        return self._running(lambda master: Ask(master, command))

    def masters(self) -> Sequence[Server]:
        """Return the master."""
        return [Handle(self._running)]

    def _running(self, question: Callable[[Link], Question]) -> Steps[Any]:
        try:
            master: Link = self._master or (yield Elsewhere(self._find))
            try:
                return (yield question(master))
            except AWAY:
                if self._master is master:
                    self._master = None
                close_idle(master.client)
                raise
        except ERRORS as error:
            fail(self._name, error)

    def _find(self) -> Link:
        if not self._finding.acquire(timeout=TURN):
            raise LevelUnavailable(f"{self._name}: the sentinels do not answer.")
        try:
            master = self._master  # another thread may have found it
            if master is None:
                address = self._sentinel.discover_master(self._service)  # type: ignore[no-untyped-call]
                master = self._master = Link(connect(address, self._options))
            return master
        finally:
            self._finding.release()

    def close(self) -> None:
        """Close the idle connections."""
        if (master := self._master) is not None:
            self._master = None
            close_idle(master.client)
        for sentinel in self._sentinel.sentinels:
            sentinel.close()
