"""Django's cache in a Redis by django-redis, made fit for a server: short waits, and a breaker.

What django-redis 7 leaves to be mended:

- It keys its pools by URL alone, so that one alias's time-outs apply to another's
  (``ConnectionFactory._pools``); here a pool belongs to its URL and all of its options.
- Its default time-out is 5 s, and each call waits for it anew; here it is 50 ms, and after five
  failures in a row nobody waits for a second.
- Bytes that its serializer cannot read raise; here they are a miss, and are removed.

Used through ``CACHES``: ``"BACKEND": "django_redis.cache.RedisCache"`` with the ``OPTIONS``
``CLIENT_CLASS`` and ``CONNECTION_FACTORY`` naming the classes here, as `recserve_project.settings`
does.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable
from typing import Any

import redis
from django_redis.client import DefaultClient
from django_redis.pool import ConnectionFactory

from cache_app.core.breaker import Breaker
from cache_app.redis_connections import ERRORS, connection_options

__all__ = ["BreakingClient", "BreakingFactory", "GuardedRedis"]

_TIMEOUT = 0.05
"""Seconds, where the alias says nothing."""


class GuardedRedis(redis.Redis):
    """A client behind a breaker. Whatever fails is a ConnectionError, which django-redis expects.

    Args:
        connection_pool: Its connections.
        breaker: Of the pool, and so of the server.
        kwargs: redis-py's options of a client.
    """

    def __init__(
        self, *, connection_pool: redis.ConnectionPool, breaker: Breaker, **kwargs: Any
    ) -> None:
        super().__init__(connection_pool=connection_pool, **kwargs)
        self._breaker = breaker

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Return the answer to a command.

        Raises:
            ConnectionError: There is none, or there was none a moment ago.
            ResponseError: The server refuses the command.
        """
        if not self._breaker.allow():
            raise redis.ConnectionError("Redis failed a moment ago and is not asked.")
        try:
            answer = super().execute_command(*args, **kwargs)  # type: ignore[no-untyped-call]
        except redis.ResponseError:  # it answered
            self._breaker.succeeded()
            raise
        except ERRORS as error:
            if isinstance(error.__context__, queue.Empty):  # our own connections are in use
                self._breaker.abandoned()
            else:
                self._breaker.failed()
            raise redis.ConnectionError(str(error)) from error
        except BaseException:
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        return answer


class BreakingFactory(ConnectionFactory):  # type: ignore[misc]  # it is untyped
    """Makes pools that fail soon, one for each URL with its options, each with a breaker."""

    _guarded: dict[str, tuple[redis.ConnectionPool, Breaker]] = {}  # noqa: RUF012  (per process)
    _lock = threading.Lock()

    def get_connection(self, params: dict[str, Any]) -> redis.Redis:
        """Return a client of the pool that these parameters have."""
        which = repr(sorted((key, repr(value)) for key, value in self._key(params).items()))
        given = {**connection_options(_TIMEOUT), **params}
        with self._lock:
            if which not in self._guarded:
                self._guarded[which] = (self.get_connection_pool(given), Breaker())
            pool, breaker = self._guarded[which]
        return GuardedRedis(connection_pool=pool, breaker=breaker, **self.redis_client_cls_kwargs)

    def _key(self, params: dict[str, Any]) -> dict[str, Any]:
        return {**params, **self.pool_cls_kwargs, "pool": self.pool_cls}


def _forget_in_child() -> None:
    # Another thread may have held the lock at the fork. Pools notice a fork themselves.
    BreakingFactory._lock = threading.Lock()  # noqa: SLF001  (of this module)


os.register_at_fork(after_in_child=_forget_in_child)


class BreakingClient(DefaultClient):  # type: ignore[misc]  # it is untyped
    """django-redis's client, for which unreadable bytes are a miss."""

    def get(
        self, key: Any, default: Any = None, version: int | None = None, client: Any = None
    ) -> Any:
        """Return a value, or the default if there is none that can be read."""
        try:
            return super().get(key, default=default, version=version, client=client)
        except ValueError:  # the serializer's
            self.delete(key, version=version)
            return default

    def get_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> dict[Any, Any]:
        """Return the values that are there and can be read, by key."""
        keys = list(keys)
        try:
            found: dict[Any, Any] = super().get_many(keys, version=version, client=client)
        except ValueError:
            missing = object()
            read = {key: self.get(key, missing, version=version) for key in keys}
            found = {key: value for key, value in read.items() if value is not missing}
        return found
