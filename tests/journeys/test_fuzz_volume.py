"""A running server is sent nearly right requests, as many as ``--fuzz`` says."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.bodies import good, requests

pytestmark = [pytest.mark.contract("A5"), pytest.mark.contract("A6")]

_THREADS = 4
_LIMIT = 1_000_000
_GROWTH = 64 * 1024 * 1024
"""Bytes by which the server's processes may grow together once they are warm."""


def memory(pid: int) -> int:
    """Return the resident bytes of a process and all below it."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(resident.split()[1]) * 1024 + sum(memory(int(child)) for child in below)


class Sender:
    """Sends requests over connections of its own, one for each thread."""

    def __init__(self, url: str, token: str):
        self._address = urlsplit(url).netloc
        self._token = token
        self._local = threading.local()
        self.seen: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        self._opened: list[http.client.HTTPConnection] = []

    def send(self, request):
        try:
            status, content = self._answer(request)
        except (ConnectionError, http.client.HTTPException):
            self._connection().close()  # the next use opens it again
            if len(request.body) > _LIMIT:  # refused before it was read: the answer may be lost
                return
            status, content = self._answer(request)
        with self._lock:
            self.seen[request.path, status] += 1
            if status >= 500 and status not in {501, 503, 504}:
                self.wrong.append(f"{request.path} {status} {request.body[:2000]!r}")
        assert content or status == 204

    def _answer(self, request):
        headers = {"authorization": f"Bearer {self._token}", **request.headers}
        connection = self._connection()
        connection.request("POST", request.path, request.body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def metadata(self):
        """Return what the server says of the demo's model."""
        connection = self._connection()
        headers = {"authorization": f"Bearer {self._token}"}
        connection.request("GET", "/v2/models/default", headers=headers)
        return json.loads(connection.getresponse().read())

    def _connection(self):
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(self._address, timeout=60)
            with self._lock:
                self._opened.append(self._local.connection)
        return self._local.connection

    def close(self):
        for connection in self._opened:
            connection.close()


@pytest.fixture
def sender(server):
    sender = Sender(server.url, server.demo["token"])
    yield sender
    sender.close()


def test_no_body_is_a_500_and_memory_is_bounded(server, sender, pytestconfig):
    n = pytestconfig.getoption("fuzz")
    sent = requests(n, seed=7, bodies=good(sender.metadata()))
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(sender.send, islice(sent, n // 4)))
        warm = memory(server.process.pid)
        while part := list(islice(sent, 2000)):
            list(threads.map(sender.send, part))
    grown = memory(server.process.pid) - warm
    print(f"{n} requests; grown by {grown / 2**20:.1f} MiB from {warm / 2**20:.0f} MiB")  # noqa: T201
    for (path, status), times in sorted(sender.seen.items()):
        print(f"{path} {status}: {times}")  # noqa: T201
    assert not sender.wrong, sender.wrong[:3]
    answered = {path for path, status in sender.seen if status == 200}
    assert answered == {path for path, _ in sender.seen}, "some bodies are sound"
    assert grown < _GROWTH
