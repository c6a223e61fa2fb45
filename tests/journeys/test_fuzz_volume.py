"""A running server is sent nearly right requests, as many as ``--fuzz`` says."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serving_app.api.schema import CODES
from tests.bodies import KINDS, MAX_BODY, good, requests

pytestmark = [pytest.mark.contract("A5"), pytest.mark.contract("A6")]

_THREADS = 4
LATER = {503, 504}
"""Of a version that is not live, and of a deadline that is too short."""
_GROWTH = 64 * 1024 * 1024
"""Bytes by which the server's processes may grow together once they are warm."""


def _pieces(body):
    for at in range(0, len(body), 65_536):
        yield body[at : at + 65_536]


def memory(pid: int) -> int:
    """Return the resident bytes of a process and all below it."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(resident.split()[1]) * 1024 + sum(memory(int(child)) for child in below)


class Sender:
    """Sends requests over connections of its own, one for each thread, and checks the answers."""

    def __init__(self, url: str, token: str):
        self._address = urlsplit(url).netloc
        self._token = token
        self._local = threading.local()
        self.seen: Counter[tuple[str, int]] = Counter()
        self.kinds: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        self.again = 0
        """How often a request was sent again, as the server had closed an idle connection."""
        self.lost = 0
        """Answers that were not seen, as the server closed while more was sent than it takes."""
        self._lock = threading.Lock()
        self._opened: list[http.client.HTTPConnection] = []
        self._documented = self._get("/api/v1/schema?format=json")["paths"]

    def send(self, request):
        connection = self._connection()
        used = connection.sock is not None
        try:
            status, headers, content = self._answer(request)
        except (ConnectionError, http.client.HTTPException) as error:
            connection.close()  # the next use opens it again
            if used:
                with self._lock:
                    self.again += 1
                self.send(request)
            elif len(request.body) > MAX_BODY:
                with self._lock:
                    self.lost += 1
            else:
                with self._lock:
                    self.wrong.append(f"{request.path} {error!r} {request.body[:2000]!r}")
            return
        problem = self._problem(request.path, status, headers, content)
        with self._lock:
            self.seen[request.path, status] += 1
            self.kinds[request.kind, status] += 1
            if problem:
                self.wrong.append(
                    f"{request.path} {status} {problem}: {request.headers} {request.body[:2000]!r}"
                    f" -> {content[:500]!r}"
                )

    def _problem(self, path, status, headers, content):
        """Return what is wrong with an answer; empty: nothing is."""
        try:
            given = {} if status < 400 else json.loads(content)
        except ValueError:
            return "is no JSON"
        if path.startswith("/v2"):
            allowed = {200, 400, 404, 413, 415, 429, *LATER}
            kind, sound = "application/json", set(given) == {"error"} and given["error"]
        else:
            allowed = {int(each) for each in self._documented[path]["post"]["responses"]} - {500}
            kind = "application/problem+json"
            sound = (
                given.get("status") == status
                and given.get("code") in CODES.get(status, ())
                and given.get("request_id") == headers["X-Request-ID"]
                and given.get("detail")
            )
        if status not in allowed:
            return "is not documented"
        if status < 400:
            return ""
        if headers["Content-Type"] != kind:
            return f"is {headers['Content-Type']}"
        return "" if sound else "has another form"

    def _answer(self, request):
        headers = {"authorization": f"Bearer {self._token}", **request.headers}
        connection = self._connection()
        chunked = "transfer-encoding" in headers
        body = _pieces(request.body) if chunked else request.body
        # The server may have answered before it was all sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", request.path, body, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def _get(self, path):
        connection = self._connection()
        connection.request("GET", path, headers={"authorization": f"Bearer {self._token}"})
        return json.loads(connection.getresponse().read())

    def metadata(self):
        """Return what the server says of the demo's model."""
        return self._get("/v2/models/default")

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
    print(f"{sender.again} sent again, {sender.lost} answers not seen")  # noqa: T201
    for (what, status), times in sorted([*sender.seen.items(), *sender.kinds.items()]):
        print(f"{what} {status}: {times}")  # noqa: T201
    assert not sender.wrong, sender.wrong[:3]
    answered = {path for path, status in sender.seen if status == 200}
    assert answered == {path for path, _ in sender.seen}, "some bodies are sound"
    assert n < 5000 or {kind for kind, _ in sender.kinds} == set(KINDS)
    assert grown < _GROWTH
