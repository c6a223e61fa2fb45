"""A web worker's connection to the model host: written by any thread, read in one place.

That place is a thread of its own, or the worker's event loop: beside a loop that is never idle, a
thread gets the interpreter a few hundred times a second only, and answers would wait for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from serving_app.host import protocol
from serving_app.host.protocol import Frame, FrameReader, Kind, ProtocolError, frame

__all__ = ["Backlog", "Channel", "Lost"]

_CHUNK = 256 * 1024
_MAX_BACKLOG = 64 * 1024 * 1024
_PING = 1.0
"""Seconds between two signs of life that are asked of the host."""


class Lost(ConnectionError):
    """The connection is broken; the message says why."""


class Backlog(Exception):
    """The host does not read what is sent, and more is not kept for it."""


class Channel:
    """One connection, from its HELLO to its end.

    Args:
        connection: Has just been connected; the channel owns it from now on.
        receive: Called with each frame, where the channel is read. It must not raise.
        silence: Seconds without a word of the host after which the connection is given up.
        clock: Monotonic seconds.

    Raises:
        OSError: The connection broke at once.
        ProtocolError: The other side is no model host of this release.
    """

    def __init__(
        self,
        connection: socket.socket,
        receive: Callable[[Frame], None],
        *,
        silence: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = connection
        self._receive = receive
        self._silence = silence
        self._clock = clock
        self._frames = FrameReader()
        self._lock = threading.Lock()
        self._out: deque[bytes | memoryview] = deque()
        self._backlog = 0
        self._writing = False
        self._stalled = False
        self._reason: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._turns = 0
        """How often the reader has changed."""
        self._wake_out, self._wake_in = socket.socketpair()
        self._heard = clock()
        try:
            self._greet()
            for end in (connection, self._wake_out, self._wake_in):
                end.setblocking(False)
        except BaseException:
            self._close_all()
            raise

    def _greet(self) -> None:
        self._socket.sendall(protocol.hello())
        while True:
            data = self._socket.recv(_CHUNK)
            if not data:
                raise ProtocolError("it closed the connection before its HELLO")
            for first in list(self._frames.feed(data)):
                protocol.check_hello(first)
                return

    # --- Writing ------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send a frame. Any thread calls it, and none waits.

        A thread that sends while another one does leaves its frame to that one; frames that the
        event loop's thread sends leave together when its turn is over.

        Raises:
            Lost: The connection is broken.
            Backlog: The host does not read.
        """
        with self._lock:
            if self._reason is not None:
                raise Lost(self._reason)
            if self._backlog > _MAX_BACKLOG:
                raise Backlog
            self._out.append(data)
            self._backlog += len(data)
            if self._writing:
                return
            self._writing = True
            loop = self._loop
        if loop is not None and threading.get_ident() == self._loop_thread:
            loop.call_soon(self._write)
        else:
            self._write()

    def _write(self) -> None:
        """Write until nothing is left, or the socket takes no more."""
        while True:
            with self._lock:
                data = self._some()
                if not data:
                    self._writing = False
                    return
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.end(f"writing failed: {error}")
                return
            with self._lock:
                self._backlog -= sent
                if sent == len(data):
                    continue
                self._out.appendleft(memoryview(data)[sent:])
                self._stalled = True  # `converse` goes on when there is room
            self._wake()
            return

    def _some(self) -> bytes | memoryview:
        """Take what can be written in one go. Under the lock."""
        if not self._out:
            return b""
        if len(self._out) == 1:
            return self._out.popleft()
        parts, size = [], 0
        while self._out and size < _CHUNK:
            parts.append(self._out.popleft())
            size += len(parts[-1])
        return b"".join(parts)

    # --- Reading ------------------------------------------------------------------------------

    def converse(self) -> str:
        """Keep the connection until it ends, and return why it did. One thread calls it, once.

        The thread reads, unless an event loop does; and it writes what others could not.
        """
        poll = select.poll()
        poll.register(self._wake_out, select.POLLIN)
        reader: asyncio.AbstractEventLoop | None = None
        watched, turn, asked = 0, 0, self._clock()
        while self._reason is None:
            turns, loop = self._turns, self._loop
            wanted = (0 if loop else select.POLLIN) | (select.POLLOUT if self._stalled else 0)
            if wanted != watched:
                if wanted:
                    poll.register(self._socket, wanted)
                else:
                    poll.unregister(self._socket)
                watched = wanted
            if turns != turn:
                turn, reader = turns, loop
                self._hand_over(loop)
            for file, events in poll.poll(_PING * 1000):
                if file == self._wake_out.fileno():
                    with contextlib.suppress(BlockingIOError):
                        self._wake_out.recv(4096)
                    continue
                if events & select.POLLOUT:
                    self._stalled = False
                    self._write()
                if events & ~select.POLLOUT and reader is None:
                    self._read()
            now = self._clock()
            if now - self._heard > self._silence:
                self.end(f"the host has said nothing for {self._silence:g} s")
            elif now - asked >= _PING:
                asked = now
                with contextlib.suppress(Lost, Backlog):
                    self.send(frame(Kind.PING, 0))
        return self._reason

    def _read(self) -> None:
        """Take in what has come. The loop's thread calls it, or the one that converses."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(f"reading failed: {error}")
            return
        if not data:
            self.end("the host has gone")
            return
        self._heard = self._clock()
        try:
            for each in self._frames.feed(data):
                self._receive(each)
        except ProtocolError as error:
            self.end(f"the host does not keep to the protocol: {error}")

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read in this event loop from now on. The loop's thread calls it."""
        self.adopt(loop, threading.get_ident())

    def adopt(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        """Read in an event loop, which runs on the thread of this number. Any thread calls it."""
        self._loop_thread = thread
        self._loop = loop
        self._turns += 1
        self._wake()

    def detach(self) -> None:
        """Read on the thread again. The loop's thread calls it."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.remove_reader(self._socket)
        self._turns += 1
        self._wake()

    def _hand_over(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let the loop read; the thread does no longer."""
        if loop is None:
            return

        def watch() -> None:
            if self._loop is loop and self._reason is None:
                loop.add_reader(self._socket, self._read)

        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(watch)

    # --- The end ------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """Break the connection; `converse` returns. Any thread calls it."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
        loop = self._loop
        if loop is not None and threading.get_ident() == self._loop_thread:
            loop.remove_reader(self._socket)
        self._wake()

    def close(self) -> None:
        """Free the sockets, after `converse`; the loop must have let go of them first."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            free = threading.Event()

            def unwatch() -> None:
                loop.remove_reader(self._socket)
                free.set()

            with contextlib.suppress(RuntimeError):  # it ends in this moment
                loop.call_soon_threadsafe(unwatch)
                if not free.wait(5.0) and not loop.is_closed():
                    # A number that the loop still watches must not be given to another socket.
                    self._socket.shutdown(socket.SHUT_RDWR)
                    return
        self._close_all()

    def _close_all(self) -> None:
        for end in (self._socket, self._wake_out, self._wake_in):
            end.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes already; closed: it has ended
            self._wake_in.send(b"\0")
