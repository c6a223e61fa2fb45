"""A client for HTTP/1.1 that is no limit: requests made beforehand, answers counted, not parsed."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

__all__ = [
    "BATCH",
    "FEATURES",
    "USERS",
    "Load",
    "batches",
    "bodies",
    "feature_rows",
    "inference",
    "request_bytes",
]

FEATURES, USERS, BATCH = 64, 200, 32


class _Connection(asyncio.Protocol):
    """Asks, waits for the answer, and asks again, until told to stop."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._parts = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: Any = transport
        transport.write(self._load.request())  # type: ignore[attr-defined]

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
        if load.going:
            self._transport.write(load.request())
        else:
            self._transport.close()

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
