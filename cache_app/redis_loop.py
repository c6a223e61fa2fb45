"""An event loop's own connections to Redis servers: no thread, one connection each, many questions.

A thread that reads a socket beside a busy event loop gets the interpreter every few milliseconds,
so the loop asks Redis itself. All that is asked for in one pass of the loop leaves together: the
look-ups as one MGET, the commands before it. Redis answers in the order in which it was asked, and
a connection's answers are matched to its own questions alone: a `_Line` and what it waits for live
and end together. An answer that nothing was asked for, or that cannot be read, ends it, too.

**Why not redis.asyncio** (redis-py 8.1.0): its client writes one command and waits for its answer,
so that what is asked meanwhile needs another connection. Where few ask at once, its command costs
three times as much of the loop's time (`benchmarks/redis_reads.py`). How to reach a server, and
what its errors mean, is redis-py's here, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.connection import DefaultParser

from cache_app.core.breaker import PoolExhausted
from cache_app.core.steps import Then
from cache_app.redis_connections import AWAY, Command
from cache_app.redis_link import Link

__all__ = ["LoopLines"]

logger = logging.getLogger(__name__)

_MOST_KEYS = 128
"""Keys in one MGET: the answer to all of them delays each."""
_MOST_WAITING = 10_000
"""Questions that one server has not answered, at most."""
_GRACE = 0.005
"""Seconds that an answer has left when its time is over: it may have come while the loop did other
things. The loop looks at its sockets in between."""
_MORE = object()
_parse_error = DefaultParser.parse_error

Loop = asyncio.AbstractEventLoop


class LoopLines:
    """The connections of one event loop. Its thread alone uses them."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lines: weakref.WeakKeyDictionary[Link, LoopLine] = weakref.WeakKeyDictionary()
        self._made: list[tuple[weakref.ref[Link], LoopLine]] = []
        self._elsewhere: dict[Callable[[], Any], list[Then]] = {}

    def to(self, link: Link) -> LoopLine:
        """Return the connection to a server; it connects with the first question."""
        line = self._lines.get(link)
        if line is None:
            self._close_unused()
            line = self._lines[link] = LoopLine(self._loop, link)
            self._made.append((weakref.ref(link), line))
        return line

    def _close_unused(self) -> None:
        """Close the connections to servers that nobody asks any more: masters of before."""
        unused = [line for link, line in self._made if link() is None]
        self._made = [made for made in self._made if made[0]() is not None]
        for line in unused:
            line.close()

    def elsewhere(self, call: Callable[[], Any], then: Then) -> None:
        """Call on a thread; who asks for the same call meanwhile hears of this one."""
        waiting = self._elsewhere.get(call)
        if waiting is not None:
            waiting.append(then)
            return
        self._elsewhere[call] = [then]

        def ended(answer: Any, error: BaseException | None) -> None:
            for each in self._elsewhere.pop(call):
                _tell(each, answer, error)

        def run() -> None:
            answer = failure = None
            try:
                answer = call()
            except Exception as error:  # noqa: BLE001  (handed on)
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(ended, answer, failure)

        try:
            threading.Thread(target=run, name="redis-elsewhere", daemon=True).start()
        except RuntimeError as error:  # no more threads
            ended(None, redis.ConnectionError(str(error)))

    def close(self) -> None:
        """Close all; what is under way fails."""
        made, self._made = self._made, []
        self._lines.clear()
        for _, line in made:
            line.close()


class LoopLine:
    """Questions of an event loop to one server. The loop's thread alone calls it.

    Nothing is asked twice: a connection that breaks, or on which an answer is late, takes what was
    asked over it along, and the next question connects anew.
    """

    def __init__(self, loop: Loop, link: Link) -> None:
        self._loop = loop
        pool = link.client.connection_pool  # the link itself is not kept: see `LoopLines`
        self._slots = link.slots
        self._tls = issubclass(pool.connection_class, redis.SSLConnection)
        self._options: dict[str, Any] = pool.connection_kwargs
        self._timeout: float = self._options["socket_timeout"]
        self._line: _Line | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._reads: list[tuple[bytes, Then]] = []
        self._asked: list[tuple[bytes, Then]] = []
        self._flushes = False

    def read(self, key: bytes, then: Then) -> None:
        """Ask for a key's value, with all others of this pass of the loop."""
        if self._has_room(then):
            self._reads.append((key, then))

    def ask(self, command: Command, then: Then) -> None:
        """Ask a command, with all others of this pass of the loop."""
        try:
            packed = _packed(*command)
        except TypeError as error:
            then(None, redis.DataError(str(error)))
            return
        if self._has_room(then):
            self._asked.append((packed, then))

    def close(self) -> None:
        """Close the connection; what is under way fails."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        error = redis.ConnectionError("The connection has been closed.")
        line, self._line = self._line, None
        if line is not None:
            line.end(error)
        self._fail(error)

    def _has_room(self, then: Then) -> bool:
        waiting = len(self._reads) + len(self._asked)
        if self._line is not None:
            waiting += len(self._line.waiting)
        if waiting >= _MOST_WAITING:
            then(None, PoolExhausted(f"{waiting} questions wait for an answer already."))
            return False
        if not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush)
        return True

    def _flush(self) -> None:
        """Send what was asked in this pass of the loop, or connect first."""
        self._flushes = False
        line = self._line
        if line is None or line.ended:
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
            return
        reads, self._reads = self._reads, []
        asked, self._asked = self._asked, []
        # What is stored first: who looks it up in the same pass finds it.
        parts = [packed for packed, _ in asked]
        thens: list[Then] = [then for _, then in asked]
        if self._slots or len(reads) == 1:
            parts += [_packed("GET", key) for key, _ in reads]
            thens += [then for _, then in reads]
        else:
            for start in range(0, len(reads), _MOST_KEYS):
                some = reads[start : start + _MOST_KEYS]
                parts.append(_packed("MGET", *[key for key, _ in some]))
                thens.append(_Merged([then for _, then in some]))
        if parts:
            line.send(b"".join(parts), thens)

    async def _connect(self) -> None:
        """Connect, say who we are, and send what waits for that; or fail it."""
        line = None
        try:
            async with asyncio.timeout(self._options["socket_connect_timeout"] + self._timeout):
                line = await self._open()
                for command in _greeting(self._options):
                    answered: asyncio.Future[Any] = self._loop.create_future()
                    line.send(_packed(*command), [_into(answered)])
                    await answered
        except asyncio.CancelledError:
            if line is not None:
                line.end(redis.ConnectionError("The connection has been closed."))
            raise
        except (*AWAY, redis.RedisError) as error:
            self._connecting = None
            failure = error if isinstance(error, redis.RedisError) else _away(error)
            if line is not None:
                line.end(failure)
            self._fail(failure)
            return
        self._connecting = None
        self._line = line
        self._flush()

    async def _open(self) -> _Line:
        options, timeout = self._options, self._timeout
        if "path" in options:
            _, line = await self._loop.create_unix_connection(
                lambda: _Line(self._loop, timeout), options["path"]
            )
            return line
        tls = None
        if self._tls:
            of_tls = {key: value for key, value in options.items() if key.startswith("ssl_")}
            tls = AsyncSSLConnection(**of_tls).ssl_context.get()
        _, line = await self._loop.create_connection(
            lambda: _Line(self._loop, timeout),
            options.get("host", "localhost"),
            options.get("port", 6379),
            ssl=tls,
        )
        return line

    def _fail(self, error: Exception) -> None:
        """Fail what was not sent."""
        waiting = [then for _, then in self._asked] + [then for _, then in self._reads]
        self._asked, self._reads = [], []
        for then in waiting:
            _tell(then, None, error)


def _packed(*command: Any) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def _greeting(options: dict[str, Any]) -> Sequence[Command]:
    """Return what is asked on a new connection: nothing else is, before it is answered."""
    commands: list[Command] = []
    if options.get("password") is not None:
        user = options.get("username")
        commands.append(("AUTH", *([user] if user else []), options["password"]))
    if options.get("client_name"):
        commands.append(("CLIENT", "SETNAME", options["client_name"]))
    if options.get("db"):
        commands.append(("SELECT", options["db"]))
    return commands


def _into(waiter: asyncio.Future[Any]) -> Then:
    def then(answer: Any, error: BaseException | None) -> None:
        if waiter.done():
            return
        if error is None:
            waiter.set_result(answer)
        else:
            waiter.set_exception(error)

    return then


def _away(error: BaseException) -> redis.ConnectionError:
    return redis.ConnectionError(f"{type(error).__name__}: {error}".removesuffix(": "))


def _tell(then: Then, answer: Any, error: BaseException | None) -> None:
    try:
        then(answer, error)
    except Exception:  # the others' answers are theirs all the same
        logger.exception("What waited for a Redis failed")


class _Merged:
    """Look-ups that share one answer: each gets the value in its own place."""

    __slots__ = ("_thens",)

    def __init__(self, thens: Sequence[Then]) -> None:
        self._thens = thens

    def __call__(self, answer: Any, error: BaseException | None) -> None:
        thens = self._thens
        if error is None and (not isinstance(answer, list) or len(answer) != len(thens)):
            error = redis.InvalidResponse(f"MGET answered {answer!r:.100}")
        if error is not None:
            for then in thens:
                _tell(then, None, error)
            return
        for then, value in zip(thens, answer, strict=True):
            _tell(then, value, None)


class _Line(asyncio.Protocol):
    """One connection, and what was asked over it and not answered yet, in order."""

    def __init__(self, loop: Loop, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._reader = hiredis.Reader(
            protocolError=redis.InvalidResponse, replyError=_parse_error, notEnoughData=_MORE
        )
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late: tuple[float, Then] | None = None
        self.waiting: deque[tuple[float, Then]] = deque()
        """Until when each answer has time, and who hears of it."""
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]

    def send(
        self, data: bytes, thens: Sequence[Callable[[Any, BaseException | None], None]]
    ) -> None:
        """Ask, in one go; each ``then`` hears one answer, in order."""
        if self.ended or self._transport is None:
            for then in thens:
                _tell(then, None, redis.ConnectionError("The connection has ended."))
            return
        until = self._loop.time() + self._timeout
        self.waiting.extend([(until, then) for then in thens])
        self._transport.write(data)
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._look)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not _MORE:
                if self.ended:
                    return
                if not self.waiting:
                    raise redis.InvalidResponse(f"Redis answers what nobody asked: {answer!r:.100}")
                _, then = self.waiting.popleft()
                if isinstance(answer, Exception):
                    _tell(then, None, answer)
                else:
                    _tell(then, answer, None)
        except redis.RedisError as error:
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(
            redis.ConnectionError("Redis has closed the connection.") if exc is None else _away(exc)
        )

    def end(self, error: Exception) -> None:
        """Close the connection at once; what was asked over it fails."""
        if self.ended:
            return
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        while self.waiting:
            _, then = self.waiting.popleft()
            _tell(then, None, error)

    def _look(self) -> None:
        """End the connection if an answer is late."""
        self._timer = None
        if not self.waiting:
            return
        first, now = self.waiting[0], self._loop.time()
        if first[0] > now:
            self._timer = self._loop.call_at(first[0], self._look)
        elif first is not self._late:
            self._late = first
            self._timer = self._loop.call_later(_GRACE, self._look)
        else:
            self.end(redis.TimeoutError(f"There was no answer within {self._timeout} s."))
