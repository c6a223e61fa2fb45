"""A client that sends slowly holds its connection for a while, and no longer."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import uvicorn

from serving_app.api import patience
from serving_app.api.patience import PatientProtocol, SlowConnections
from serving_app.api.protocol import LaneProtocol
from tests.journeys.conftest import ROOT
from tests.servers import wait_for

pytestmark = pytest.mark.contract("A5")

HEAD = b"POST /api/v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n"


async def application(scope, receive, send):
    """Answer once the body is there, as Django does."""
    if scope["type"] != "http":
        return
    message = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            return
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(params=[PatientProtocol, LaneProtocol])
def server(monkeypatch, request):
    """A running server, whose connections are looked at when the test says so; its clock stands."""
    clock = SimpleNamespace(now=0.0)
    slow = SlowConnections(clock=lambda: clock.now)
    monkeypatch.setattr(patience, "_slow", slow)
    monkeypatch.setattr(patience, "_EVERY", 3600.0)
    config = uvicorn.Config(
        application, port=0, http=request.param, lifespan="off", log_config=None, loop="asyncio"
    )
    served = uvicorn.Server(config)
    thread = threading.Thread(target=served.run)
    thread.start()
    wait_for(lambda: served.started)
    port = served.servers[0].sockets[0].getsockname()[1]
    opened = []

    def sweep(seconds):
        """Let so much time go by, and look."""
        clock.now += seconds
        done = threading.Event()
        served.servers[0].get_loop().call_soon_threadsafe(lambda: (slow.sweep(), done.set()))
        assert done.wait(10)

    def client(*sent):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        opened.append(connection)
        wait_for(lambda: len(slow) == len(opened))
        for each in sent:
            connection.sendall(each)
        return connection

    def settled(n):
        """Wait until the server has read the heads of so many requests."""
        wait_for(lambda: sum(c.cycle is not None for c in served.server_state.connections) == n)

    yield SimpleNamespace(client=client, sweep=sweep, settled=settled, slow=slow)
    for connection in opened:
        connection.close()
    served.should_exit = True
    thread.join(10)


def answer(connection):
    """Return what comes until the answer is whole, or the connection closed."""
    read = b""
    while not read.endswith(b"ok") and (part := connection.recv(4096)):
        read += part
    return read


def closed(connection):
    """Return whether the server ended it; what it had not read yet resets it."""
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_who_does_not_finish_the_head_is_closed(server):
    silent, slow = server.client(), server.client(HEAD)
    server.sweep(5)
    slow.sendall(b"x-more: 1\r\n")  # a byte now and then buys no time
    server.sweep(5)
    server.sweep(5)
    assert closed(silent)
    assert closed(slow)
    assert len(server.slow) == 0


def test_who_does_not_finish_the_body_gets_408(server):
    slow = server.client(HEAD, b"\r\n", b"{")
    server.settled(1)
    for _ in range(11):
        slow.sendall(b"1") if _ < 8 else None
        server.sweep(6)
    said = answer(slow)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request-timeout"' in said


def test_who_sends_in_time_is_answered_however_long_the_connection_lives(server):
    good = server.client()
    for _ in range(4):
        server.sweep(9)
        good.sendall(HEAD + b"\r\n")
        server.settled(1)
        server.sweep(9)
        good.sendall(b"0123456789")
        assert answer(good).startswith(b"HTTP/1.1 200 ")
        server.sweep(0)


def test_an_upload_has_longer(server):
    slow = server.client(HEAD.replace(b"/api/v1/predict", b"/admin/upload"), b"\r\n")
    server.settled(1)
    for _ in range(50):
        server.sweep(60)
    slow.sendall(b"0123456789")
    assert answer(slow).startswith(b"HTTP/1.1 200 ")


def test_uvicorn_can_import_it_before_django_is_set_up():
    code = "import serving_app.api.patience"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
