"""Connections to a Redis that fail soon, and what redis-py's errors mean.

redis-py's defaults would stall a request for up to a minute on a hung server (5 s, 10 times). All
time-outs and retries are therefore set here: nothing is tried twice on the request's path.

**Why not django-redis**: it keys its pools by URL alone, so another alias's time-outs may apply
(``ConnectionFactory._pools``), and it has no cluster client (jazzband/django-redis#208). It serves
Django's own ``CACHES``.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any, NoReturn

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.retry import Retry

from cache_app.core.breaker import PartlyUnavailable, PoolExhausted
from plugins.errors import LevelUnavailable

__all__ = [
    "AWAY",
    "ERRORS",
    "Address",
    "Command",
    "Pool",
    "close_idle",
    "connect",
    "connection_options",
    "execute",
    "fail",
    "get_all",
    "pool_options",
    "together",
]

Address = tuple[str, int]
Command = tuple[Any, ...]

_CONNECTIONS = 32
"""Connections to one server at most, per process."""
_NONSENSE = (redis.InvalidResponse, ValueError, TypeError, AttributeError, LookupError)
"""What redis-py, which trusts the server, raises for answers of something that is no Redis."""
AWAY = (
    *(redis.ConnectionError, redis.TimeoutError, ClusterDownError, ReadOnlyError, OSError),
    *_NONSENSE,
)
"""Errors after which the server may be another. A demoted master stays connected and answers
READONLY (redis-py#435, django-redis#616); a loading one raises a ConnectionError."""
ERRORS = (redis.RedisError, *AWAY)


def pool_options(timeout: float) -> dict[str, Any]:
    """Return what a pool of connections to one server is made with.

    A thread waits for a connection as long as it would for an answer.
    """
    return {
        **connection_options(timeout),
        "max_connections": _CONNECTIONS,
        "timeout": timeout,
    }


class Pool(redis.BlockingConnectionPool):
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


def connect(address: Address, options: dict[str, Any]) -> redis.Redis:
    """Return a client that connects with its first command."""
    host, port = address
    pool = Pool(host=host, port=port, **options)  # type: ignore[no-untyped-call]
    return redis.Redis(connection_pool=pool)


def execute(client: redis.Redis, command: Command) -> Any:
    """Return the answer to a command."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


def close_idle(client: redis.Redis) -> None:
    """Close the idle connections. The others are their users': answers may still come."""
    client.connection_pool.disconnect(inuse_connections=False)
