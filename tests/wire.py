"""HTTP on the wire, without a socket: uvicorn's protocol classes, fed and read by a test."""

from __future__ import annotations

import asyncio

import httptools
from uvicorn import Config
from uvicorn.server import ServerState

__all__ = ["FakeTransport", "Wire", "raw", "responses"]


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)})
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data):
        assert not self.closed
        self.written += data

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


class Wire:
    """One connection to an application. Make it where a loop runs."""

    def __init__(self, application, protocol_class, *, loop=None, **options):
        config = Config(
            application,
            http=protocol_class,
            access_log=False,
            log_config=None,
            lifespan="off",
            **options,
        )
        config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today")]
        self.transport = FakeTransport()
        self.protocol = config.http_protocol_class(
            config=config, server_state=self.state, app_state={}, _loop=loop
        )
        self.protocol.connection_made(self.transport)

    def send(self, data):
        """Let data come in, unless the server has closed."""
        if not self.transport.closed:
            self.protocol.data_received(data)

    async def settle(self):
        """Return when nothing is under way."""
        async with asyncio.timeout(20):  # else a request is under way for ever
            while self.state.tasks or getattr(self.protocol, "answering", False):  # noqa: ASYNC110  (nothing tells of it)
                await asyncio.sleep(0.001)

    async def ask(self, *pieces):
        """Return all that is written to what comes in so, one piece after another."""
        for piece in pieces:
            self.send(piece)
            for _ in range(5):
                await asyncio.sleep(0)
        await self.settle()
        return self.transport.written


def raw(method, path, headers, body=b"", version=b"1.1"):
    """Return a request as bytes."""
    lines = [b"%b: %b\r\n" % each for each in headers]
    head = b"%b %b HTTP/%b\r\n" % (method.encode(), path.encode(), version)
    return head + b"".join(lines) + b"\r\n" + body


class _Answers:
    def __init__(self):
        self.found = []

    def on_message_begin(self):
        self.headers, self.body = [], b""

    def on_header(self, name, value):
        self.headers.append((name.decode().lower(), value.decode("latin-1")))

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.found.append((self.parser.get_status_code(), self.headers, self.body))


def responses(data, asked=b""):
    """Return status, headers and body of each whole answer in some bytes.

    Args:
        data: The bytes.
        asked: The request, if there was one alone.
    """
    if asked.startswith(b"HEAD "):  # its answer says a length, and has no body
        first, *lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        headers = [tuple(each.lower().split(": ", 1)) for each in lines]
        return [(int(first.split()[1]), headers, b"")]
    answers = _Answers()
    answers.parser = httptools.HttpResponseParser(answers)
    answers.parser.feed_data(data)
    return answers.found
