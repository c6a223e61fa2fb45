"""A client for HTTP/1.1 that is no limit: requests made beforehand, answers counted, not parsed."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

__all__ = [
    "BATCH",
    "FEATURES",
    "USERS",
    "Load",
    "OpenLoad",
    "batches",
    "bodies",
    "feature_rows",
    "inference",
    "request_bytes",
]

FEATURES, USERS, BATCH = 64, 200, 32


class _Connection(asyncio.Protocol):
    """Asks, waits for the answer, and asks again, until told to stop."""

    asked = 0.0
    """When what it asks was due, by the loop's clock."""

    def __init__(self, load: Load | OpenLoad) -> None:
        self._load = load
        self._parts = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: Any = transport
        self._load.ready(self)

    def ask(self, request: bytes) -> None:
        """Ask."""
        self._transport.write(request)

    def close(self) -> None:
        """End."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Count an answer, once it is complete."""
        data = self._parts + data if self._parts else data
        head = data.find(b"\r\n\r\n")
        at = data.lower().find(b"content-length: ", 0, max(0, head))
        if head < 0 or len(data) < head + 4 + int(data[at + 16 : data.find(b"\r\n", at)]):
            self._parts = data
            return
        self._parts = b""
        load = self._load
        if not data.startswith(b"HTTP/1.1 200"):
            load.failed = data
        load.answers += 1
        load.last = data
        load.ready(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Note that it has ended."""
        self._load.open -= 1
        if not self._load.open:
            self._load.ended.set()


class Load:
    """What some connections ask, and what they counted."""

    def __init__(self, request: Callable[[], bytes]) -> None:
        self.request = request
        self.answers = 0
        self.last = b""
        self.going = True
        self.failed = b""
        self.open = 0
        self.ended = asyncio.Event()

    def ready(self, connection: _Connection) -> None:
        """Let a connection ask that is new, or was answered."""
        if self.going:
            connection.ask(self.request())
        else:
            connection.close()

    async def run(self, port: int, connections: int, seconds: float) -> float:
        """Return the answers per second, until the last of what was asked is answered."""
        loop = asyncio.get_running_loop()
        self.open = connections
        for _ in range(connections):
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port)
        before, started = self.answers, loop.time()
        await asyncio.sleep(seconds)
        self.going = False
        await asyncio.wait_for(self.ended.wait(), 60)
        rate = (self.answers - before) / (loop.time() - started)
        if self.failed:
            raise SystemExit(f"An answer was no 200: {self.failed[:600]!r}")
        return rate


class OpenLoad:
    """Requests at random instants, whether or not those before were answered.

    A request that finds no connection idle waits for one, and its time begins when it was due: what
    a server is slow with must not keep the clients from asking.

    Args:
        request: Gives the next request.
        rate: How many are due in a second.
        seed: Of the instants.
    """

    def __init__(self, request: Callable[[], bytes], rate: float, *, seed: int = 1) -> None:
        self.request = request
        self.answers = 0
        self.last = self.failed = b""
        self.open = 0
        self.ended = asyncio.Event()
        self.seconds: list[float] = []
        """From the instant when each was due to its answer."""
        self._gap = functools.partial(random.Random(seed).expovariate, rate)
        self._idle: list[_Connection] = []
        self._due: deque[float] = deque()
        self._over = False

    def ready(self, connection: _Connection) -> None:
        """Take in an answer, if it is one, and let the connection ask what is due."""
        if connection.asked:
            self.seconds.append(self._loop.time() - connection.asked)
            connection.asked = 0.0
        if self._due:
            self._ask(connection, self._due.popleft())
        elif self._over:
            connection.close()
        else:
            self._idle.append(connection)

    def _ask(self, connection: _Connection, due: float) -> None:
        connection.asked = due
        connection.ask(self.request())

    async def run(self, port: int, connections: int, seconds: float) -> None:
        """Ask for some seconds, and return when all is answered."""
        self._loop = loop = asyncio.get_running_loop()
        self.open = connections
        for _ in range(connections):
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port)
        due = loop.time()
        end = due + seconds
        while due < end:
            now = loop.time()
            while due <= now and due < end:
                if self._idle:
                    self._ask(self._idle.pop(), due)
                else:
                    self._due.append(due)
                due += self._gap()
            await asyncio.sleep(0)  # a timer's millisecond would be a good part of an answer's time
        self._over = True
        while self._idle:
            self._idle.pop().close()
        await asyncio.wait_for(self.ended.wait(), 60)
        if self.failed:
            raise SystemExit(f"An answer was no 200: {self.failed[:600]!r}")


def request_bytes(token: str, body: bytes, path: bytes = b"/api/v1/predict") -> bytes:
    """Return a request as it goes over the wire."""
    return (
        b"POST "
        + path
        + b" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
        + token.encode()
        + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )


def _rows() -> list[list[float]]:
    rng = random.Random(1)
    return [[round(rng.uniform(-1, 1), 6) for _ in range(FEATURES)] for _ in range(USERS)]


def bodies(prefix: str) -> Iterator[bytes]:
    """Yield bodies of 64 features, each of a user of its own."""
    rows = [json.dumps(row).encode() for row in _rows()]
    start = prefix.encode()
    for n in itertools.count():
        yield b'{"user_id": "%s-%09d", "features": %s}' % (start, n, rows[n % USERS])


def batches(prefix: str) -> Iterator[bytes]:
    """Yield bodies of 32 requests, each of a user of its own."""
    each = bodies(prefix)
    while True:
        yield b'{"requests": [' + b", ".join(itertools.islice(each, BATCH)) + b"]}"


def feature_rows(template: bytes) -> Iterator[bytes]:
    """Yield rows of features in a template, for servers that know no users."""
    return itertools.cycle([template % json.dumps(row).encode() for row in _rows()])


def inference() -> bytes:
    """Return a body of the Open Inference Protocol: a row in, and the best 10 of its scores out."""
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, FEATURES], "data": _rows()[0]}
    wish = {"name": "scores", "parameters": {"classification": 10}}
    return json.dumps({"inputs": [tensor], "outputs": [wish]}).encode()
