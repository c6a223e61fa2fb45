"""The Redis server of a level: one, or a master behind Sentinels. A cluster: redis_cluster.py.

redis-py's defaults would stall a request for up to a minute on a hung server (5 s, 10 times). All
time-outs and retries are therefore set here: nothing is tried twice on the request's path.

**Why not django-redis**: it keys its pools by URL alone, so another alias's time-outs may apply
(``ConnectionFactory._pools``), and it has no cluster client (jazzband/django-redis#208). It serves
Django's own ``CACHES``.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from cache_app.core.breaker import PartlyUnavailable, PoolExhausted
from cache_app.core.merged_reads import MergedReads
from plugins.errors import LevelUnavailable

__all__ = [
    "AWAY",
    "ERRORS",
    "TURN",
    "Address",
    "Forkable",
    "Handle",
    "OneServer",
    "SentinelMaster",
    "Server",
    "Servers",
    "close_idle",
    "connect",
    "connection_options",
    "execute",
    "fail",
    "pool_options",
    "together",
]

Address = tuple[str, int]
Command = tuple[Any, ...]
R = TypeVar("R")

_CONNECTIONS = 32
"""Connections to one server at most, per process."""
TURN = 0.1
"""Seconds to wait for another thread that looks for the servers."""
_NONSENSE = (redis.InvalidResponse, ValueError, TypeError, AttributeError, LookupError)
"""What redis-py, which trusts the server, raises for answers of something that is no Redis."""
AWAY = (
    *(redis.ConnectionError, redis.TimeoutError, ClusterDownError, ReadOnlyError, OSError),
    *_NONSENSE,
)
"""Errors after which the server may be another. A demoted master stays connected and answers
READONLY (redis-py#435, django-redis#616); a loading one raises a ConnectionError."""
ERRORS = (redis.RedisError, *AWAY)


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
    """All servers of a level. Any thread uses them, several at once; a forked child reconnects."""

    copies: int
    """How many of them have each key."""

    def get(self, key: bytes) -> Any:
        """Return a key's value, or None.

        Raises:
            LevelUnavailable: The server that has the key does not answer.
            ResponseError: The value is of the wrong type. It may also be None then.
        """

    def ask(self, key: bytes, *command: Any) -> Any:
        """Return the answer of the server that has a key.

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


def pool_options(timeout: float) -> dict[str, Any]:
    """Return what a pool of connections to one server is made with.

    A thread waits for a connection as long as it would for an answer.
    """
    return {
        **connection_options(timeout),
        "max_connections": _CONNECTIONS,
        "timeout": timeout,
    }


class _Pool(redis.BlockingConnectionPool):
    """A pool that says so when all of its connections are in use."""

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Return a connection.

        Raises:
            PoolExhausted: There is none within the time-out.
        """
        try:
            return super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]
        except redis.ConnectionError as error:
            if isinstance(error.__context__, queue.Empty):
                raise PoolExhausted(
                    f"All {self.max_connections} connections were in use for {self.timeout} s."
                ) from error
            raise


def connection_options(timeout: float) -> dict[str, Any]:
    """Return what a connection that fails soon, and once, is made with."""
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": 2 * timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,  # a PING before a command doubles what a hung server costs
        "protocol": 2,  # needs no HELLO; nothing here needs RESP3
        "driver_info": None,  # nor CLIENT SETINFO, twice per connection
    }


def fail(name: str, error: Exception) -> NoReturn:
    """Raise what an error of redis-py means."""
    if isinstance(error, ResponseError) and "WRONGTYPE" in str(error):
        raise error
    if isinstance(error, OutOfMemoryError):
        raise PartlyUnavailable(f"{name} is full: {error}") from error
    raise LevelUnavailable(f"{name}: {type(error).__name__}: {error}") from error


def together(
    client: redis.Redis, commands: Sequence[Command], *, errors_as_answers: bool = False
) -> list[Any]:
    """Return the answers to commands that are sent in one go; the first error is raised."""
    with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return pipeline.execute(raise_on_error=not errors_as_answers)


def get_all(client: redis.Redis, keys: Sequence[bytes]) -> Sequence[Any]:
    """Return the values of keys on one server, in order; None for one that is not there.

    A single value of the wrong type raises a ResponseError; among several it is None.
    """
    if len(keys) == 1:
        return [execute(client, ("GET", *keys))]
    values = execute(client, ("MGET", *keys))
    if not isinstance(values, list):
        raise redis.InvalidResponse(f"MGET answered {values!r:.100}")
    return values


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


def connect(address: Address, options: dict[str, Any]) -> redis.Redis:
    """Return a client that connects with its first command."""
    host, port = address
    pool = _Pool(host=host, port=port, **options)  # type: ignore[no-untyped-call]
    return redis.Redis(connection_pool=pool)


def execute(client: redis.Redis, command: Command) -> Any:
    """Return the answer to a command."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


def close_idle(client: redis.Redis) -> None:
    """Close the idle connections. The others are their users': answers may still come."""
    client.connection_pool.disconnect(inuse_connections=False)


class Handle:
    """A server, to be asked by whoever goes through all."""

    def __init__(self, run: Callable[[Callable[[redis.Redis], Any]], Any]) -> None:
        self._run = run

    def ask(self, *command: Any) -> Any:
        """Return the answer."""
        return self._run(lambda client: execute(client, command))

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers."""
        answers: list[Any] = self._run(lambda client: together(client, commands))
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
        pool = _Pool.from_url(self._url, **self._options)
        self._client = redis.Redis(connection_pool=pool)
        self._reads = MergedReads(lambda keys: self._run(lambda client: get_all(client, keys)))

    def get(self, key: bytes) -> Any:
        """Return a key's value; together with others that are asked for at the same time."""
        return self._reads.get(key)

    def ask(self, key: bytes, *command: Any) -> Any:
        """Return the answer."""
        return self._run(lambda client: execute(client, command))

    def masters(self) -> Sequence[Server]:
        """Return the server."""
        return [Handle(self._run)]

    def _run(self, work: Callable[[redis.Redis], R]) -> R:
        try:
            return work(self._client)
        except ERRORS as error:
            fail(self._name, error)

    def close(self) -> None:
        """Close the idle connections."""
        close_idle(self._client)


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
        self._master: redis.Redis | None = None
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self._addresses, sentinel_kwargs=self._sentinel_options
        )
        self._reads = MergedReads(lambda keys: self._run(lambda client: get_all(client, keys)))

    def get(self, key: bytes) -> Any:
        """Return a key's value; together with others that are asked for at the same time."""
        return self._reads.get(key)

    def ask(self, key: bytes, *command: Any) -> Any:
        """Return the master's answer."""
        return self._run(lambda client: execute(client, command))

    def masters(self) -> Sequence[Server]:
        """Return the master."""
        return [Handle(self._run)]

    def _run(self, work: Callable[[redis.Redis], R]) -> R:
        try:
            master = self._master or self._find()
            try:
                return work(master)
            except AWAY:
                if self._master is master:
                    self._master = None
                close_idle(master)
                raise
        except ERRORS as error:
            fail(self._name, error)

    def _find(self) -> redis.Redis:
        if not self._finding.acquire(timeout=TURN):
            raise LevelUnavailable(f"{self._name}: the sentinels do not answer.")
        try:
            master = self._master  # another thread may have found it
            if master is None:
                address = self._sentinel.discover_master(self._service)  # type: ignore[no-untyped-call]
                master = self._master = connect(address, self._options)
            return master
        finally:
            self._finding.release()

    def close(self) -> None:
        """Close the idle connections."""
        if (master := self._master) is not None:
            self._master = None
            close_idle(master)
        for sentinel in self._sentinel.sentinels:
            sentinel.close()
