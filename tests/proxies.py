"""A proxy in front of a real server: it speaks TLS, breaks connections, delays, stands still."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["Proxy", "certificate", "proxy", "server_side"]

HOST = "127.0.0.1"


class Proxy:
    """Passes bytes on between its own port and a server's, as a test says.

    Args:
        target: The server's port.
        tls: Makes clients speak TLS; None: they do not.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._flows = threading.Event()
        self._flows.set()
        self.delay = 0.0
        """Seconds by which what the server says is delayed."""
        self.refuses = False
        """Whether new connections are closed at once."""
        self.connections = 0
        """Connections that were passed on so far."""
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break every connection, in the middle of whatever it carries."""
        with self._lock:
            broken, self._open = self._open, set()
        for each in broken:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Pass nothing on, until `go_on`; connections stay."""
        self._flows.clear()

    def go_on(self) -> None:
        """Pass everything on again, what was held first."""
        self._flows.set()

    def close(self) -> None:
        """Break every connection, and listen no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.go_on()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(client)
            stack.enter_context(contextlib.suppress(OSError))
            if self.refuses:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = stack.enter_context(socket.create_connection((HOST, self._target)))
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                stack.enter_context(client)
            with self._lock:
                self._open |= {client, server}
                self.connections += 1
            back = threading.Thread(
                target=self._pass_on, args=(server, client), kwargs={"late": True}, daemon=True
            )
            back.start()
            self._pass_on(client, server)
            back.join()
            with self._lock:
                self._open -= {client, server}

    def _pass_on(self, source: socket.socket, sink: socket.socket, *, late: bool = False) -> None:
        with contextlib.suppress(OSError, ValueError):
            while some := source.recv(65536):
                self._flows.wait()
                if late and self.delay:
                    time.sleep(self.delay)
                sink.sendall(some)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(target: int, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A proxy in front of a port of this host."""
    made = Proxy(target, tls)
    try:
        yield made
    finally:
        made.close()


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a new certificate for 127.0.0.1, signed by itself, and of its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes certificates, is not here")
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext"),
            *(f"subjectAltName=IP:{HOST}", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def server_side(cert: Path, key: Path, clients: Path | None = None) -> ssl.SSLContext:
    """Return what a server of TLS is made with; with ``clients``, it wants their certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
