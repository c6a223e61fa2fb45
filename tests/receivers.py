"""A real HTTP server on loopback that takes webhooks, or refuses them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Receiver", "receiver"]


class Receiver:
    """What arrived, and what to answer."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self.location = ""

    def bodies(self) -> str:
        """Return all that was taken, as text."""
        return "\n".join(body.decode("unicode_escape") for _, body in self.got)

    @contextlib.contextmanager
    def refusing(self, status: int = 503) -> Iterator[None]:
        """Refuse everything meanwhile."""
        self.status = status
        try:
            yield
        finally:
            self.status = 200


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    """A server on a free port."""
    state = Receiver()

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if state.status < 300:
                state.got.append((dict(self.headers), body))
            self.send_response(state.status)
            if state.location:
                self.send_header("Location", state.location)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Post) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/hook"
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
