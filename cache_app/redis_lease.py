"""Leases in the Redis that is L2: of all processes that share it, one computes a missing key."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from cache_app.core.breaker import Breaker, PoolExhausted
from cache_app.core.lease_waits import LEASE_SECONDS, KeyLease
from cache_app.core.steps import Steps
from cache_app.redis_connections import Command
from cache_app.redis_servers import OneServer
from plugins.errors import LevelUnavailable

__all__ = ["RedisLeases"]

_PREFIX = b"rs-lease:"
"""Before every key. It is none of the level's (``rs:``), which removes and samples what it has."""
_VALUES = b"rs:"
"""What `cache_app.redis_level` puts before the same key."""
_FREE = b"return redis.call('PTTL', KEYS[1]) == -1 and redis.call('DEL', KEYS[1]) or 0"
_RELEASE = b"return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


class RedisLeases:
    """Leases of keys. Who takes and releases does one after the other; it raises nothing.

    It has a connection of its own, so that it waits for no request. A Redis that fails costs single
    flight among processes, never an answer: each then computes for itself.

    Args:
        servers: The Redis of the level whose keys are leased; nobody else's object.
        breaker: The level's breaker. While it is not closed there are no leases; whether Redis is
            back, the level finds out.
        seconds: How long a lease lasts, unless it is released.
    """

    def __init__(
        self, servers: OneServer, breaker: Breaker, *, seconds: float = LEASE_SECONDS
    ) -> None:
        self._servers = servers
        self._breaker = breaker
        self._milliseconds = int(seconds * 1000)
        self._errors = 0

    @property
    def errors(self) -> int:
        """Calls that Redis did not answer as it should."""
        return self._errors

    @property
    def available(self) -> bool:
        """Whether Redis answers, as far as is known."""
        return self._breaker.state == "closed"

    def taking(self, keys: Sequence[str]) -> Steps[list[KeyLease | None]]:
        """Return the lease of each key, in steps; None: another has it.

        If Redis does not answer, each key gets one, too; it may have been taken, so that it has a
        token, and is released like any other. With an empty token, Redis was not asked.
        """
        if not self.available:
            return [KeyLease(key) for key in keys]
        tokens = [secrets.token_bytes(16) for _ in keys]
        commands: list[Command] = []
        for key, token in zip(keys, tokens, strict=True):
            text = _text(key)
            # The lease first: who had it before has stored the value before releasing it.
            commands.append(("SET", _PREFIX + text, token, "NX", "PX", self._milliseconds))
            commands.append(("EXISTS", _VALUES + text))
            commands.append(("PTTL", _PREFIX + text))
        answers = yield from self._asking(commands)
        if answers is None or len(answers) != len(commands):
            return [KeyLease(key, token) for key, token in zip(keys, tokens, strict=True)]
        # A lease that never runs out is rubbish, which all would wait for again and again.
        forever = [key for key, left in zip(keys, answers[2::3], strict=True) if left == -1]
        if forever:
            yield from self._asking([("EVAL", _FREE, 1, _PREFIX + _text(key)) for key in forever])
        each = zip(keys, tokens, answers[::3], answers[1::3], strict=True)
        return [_lease(*of_key) for of_key in each]

    def releasing(self, leases: Sequence[KeyLease]) -> Steps[bool]:
        """In steps, give back leases still their takers'; return whether Redis answered."""
        answers = yield from self._asking(
            [("EVAL", _RELEASE, 1, _PREFIX + _text(lease.key), lease.token) for lease in leases]
        )
        return answers is not None

    def _asking(self, commands: Sequence[Command]) -> Steps[list[Any] | None]:
        """Return the answers; None if there are none."""
        try:
            answers = yield from self._servers.asking_all(commands)
        except PoolExhausted:
            self._errors += 1
            return None
        except (LevelUnavailable, ResponseError) as error:
            self._errors += 1
            # An error that Redis answered, such as a full memory, says that it is there.
            if not isinstance(error, ResponseError) and not isinstance(
                error.__cause__, ResponseError
            ):
                self._breaker.failed(self)
            return None
        self._breaker.succeeded(self)
        return answers

    def close(self) -> None:
        """Close the connection."""
        self._servers.close()


def _text(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _lease(key: str, token: bytes, taken: Any, stored: Any) -> KeyLease | None:
    """Return what Redis's answers mean."""
    return None if taken is None else KeyLease(key, token, bool(stored))
