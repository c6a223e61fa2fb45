"""The model host's side of the connection to one client: a web worker."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeAlias, cast

import msgspec

from plugins import InferenceError, ModelNotReady, Priority, RecserveError, Tensors
from serving_app.core.engine import LocalEngine
from serving_app.core.work_queue import Work
from serving_app.host import protocol, sockets
from serving_app.host.hosted_version import HostedVersion
from serving_app.host.protocol import (
    HANDLE,
    MAX_PAYLOAD,
    SUBMISSION,
    TIMES,
    URGENCY,
    Frame,
    FrameReader,
    Kind,
    Load,
    ProtocolError,
    decode_named,
    decode_tensors,
    encode_error,
    encode_named,
    frame,
    seconds_left,
)

__all__ = ["ClientConnection", "Host"]

logger = logging.getLogger(__name__)

_Work: TypeAlias = Future[bytes] | Future[Tensors]

# Of each row; to look a member up in its enum costs as much as all the rest of its dispatch.
_SUBMIT, _INFER = int(Kind.SUBMIT), int(Kind.INFER)
_PRIORITIES = dict(enumerate(Priority))


class Host(Protocol):
    """What a connection needs of the host. The loop's thread calls it."""

    def joined(self, client: ClientConnection) -> None:
        """Hear of a new client."""

    def left(self, client: ClientConnection) -> None:
        """Hear that a client has gone."""

    def load(self, client: ClientConnection, handle: int, wanted: Load) -> None:
        """Load a version for a client, and tell it when it is loaded."""

    def unload(self, client: ClientConnection, handle: int) -> None:
        """Take a version from a client."""


class ClientConnection(asyncio.Protocol):
    """One client: what it has loaded, and what it waits for.

    The loop's thread calls everything but `send`. A client that does not keep to the protocol, or
    does not read its answers, loses its connection, and harms no other.
    """

    def __init__(self, host: Host) -> None:
        self.handles: dict[int, HostedVersion] = {}
        """The versions that the client needs."""
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._frames = FrameReader()
        self._greeted = False
        self._pending: dict[int, tuple[_Work, LocalEngine[bytes]]] = {}
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._flushing = False
        self._lock = threading.Lock()

    # --- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet a new client."""
        self._transport = cast(asyncio.Transport, transport)  # a stream's; uvloop's is no subclass
        try:
            sockets.check_peer(transport.get_extra_info("socket"))
        except PermissionError as error:
            self._end(str(error))
            return
        self._host.joined(self)
        self._transport.write(protocol.hello())

    def data_received(self, data: bytes) -> None:
        """Do what the frames say."""
        try:
            for each in self._frames.feed(data):
                self._take(each)
        except (ProtocolError, msgspec.MsgspecError, struct.error, UnicodeDecodeError) as error:
            self._end(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the client; what it waited for, and has not begun, is not computed."""
        self._transport = None
        pending, self._pending = self._pending, {}
        for future, _ in pending.values():
            future.cancel()
        self._host.left(self)

    # --- Frames -------------------------------------------------------------------------------

    def _take(self, each: Frame) -> None:
        if each.kind in (_SUBMIT, _INFER):
            self._submit(each)
        elif not self._greeted:
            protocol.check_hello(each)
            self._greeted = True
        elif each.kind == Kind.CANCEL:
            if (pending := self._pending.get(each.id)) is not None:
                pending[0].cancel()
        elif each.kind == Kind.RAISE:
            self._raise(each)
        elif each.kind == Kind.LOAD:
            wanted = msgspec.msgpack.decode(each.payload, type=Load)
            if each.id in self.handles:
                raise ProtocolError(f"handle {each.id} is taken")
            self._host.load(self, each.id, wanted)
        elif each.kind == Kind.UNLOAD:
            self._host.unload(self, each.id)
        elif each.kind == Kind.PING:
            self.send(frame(Kind.DONE, each.id))
        elif each.kind == Kind.STATS:
            self._answer_stats(each)
        elif each.kind == Kind.PROBE:
            threading.Thread(target=self._probe, args=(each,), daemon=True).start()
        else:
            raise ProtocolError(f"a {Kind(each.kind).name} is not for the host")

    def _submit(self, each: Frame) -> None:
        if not self._greeted or each.id in self._pending:
            raise ProtocolError(f"a row before the HELLO, or id {each.id} twice")
        handle, depth, seconds, sent, level, size = SUBMISSION.unpack_from(each.payload)
        seconds = seconds_left(seconds, sent, time.monotonic())
        at = SUBMISSION.size + size
        infer = each.kind == _INFER
        future: _Work
        try:
            priority = _PRIORITIES[level] if level in _PRIORITIES else Priority(level)
            engine = self._version(handle).loaded()
            if infer:
                inputs = decode_named(each.payload, at)
                future = engine.infer(inputs, seconds=seconds, priority=priority)
            else:
                row = tuple(decode_tensors(each.payload, at))
                key = (
                    each.payload[SUBMISSION.size : at].decode("utf-8", "replace") if size else None
                )
                future = engine.submit(row, depth, seconds=seconds, priority=priority, key=key)
        except (RecserveError, ValueError) as error:
            self.send(frame(Kind.FAILED, each.id, encode_error(error)))
            return
        self._pending[each.id] = future, engine
        future.add_done_callback(partial(self._answer, each.id))

    def _raise(self, each: Frame) -> None:
        """Let a queued row go earlier; one that is not queued any more is left alone."""
        level, seconds = URGENCY.unpack(each.payload)
        try:
            priority = Priority(level)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        if (pending := self._pending.get(each.id)) is not None:
            future, engine = pending
            engine.raise_priority(cast("Future[bytes]", future), priority, seconds=seconds)

    def _answer(self, id_: int, done: _Work) -> None:
        """Send what a row gave. Runs on a batcher's thread, as a rule."""
        self._pending.pop(id_, None)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            result = done.result()
            try:
                if isinstance(result, bytes):
                    times = cast("Work", done).batch
                    assert times is not None, "a batch has settled it"
                    head = TIMES.pack(times.size, times.queued, times.ran)
                    self.send(frame(Kind.ANSWER, id_, head, result))
                else:
                    self.send(frame(Kind.ANSWER, id_, encode_named(result)))
            except ProtocolError as unsendable:
                error = InferenceError(f"The outputs cannot be sent: {unsendable}")
        if error is not None:
            self.send(frame(Kind.FAILED, id_, encode_error(error)))

    def _answer_stats(self, each: Frame) -> None:
        try:
            stats = self._version(*HANDLE.unpack(each.payload)).loaded().stats()
            self.send(frame(Kind.COUNTED, each.id, msgspec.msgpack.encode(stats)))
        except RecserveError as error:
            self.send(frame(Kind.FAILED, each.id, encode_error(error)))

    def _probe(self, each: Frame) -> None:
        """Run one batch for a client. Runs on a thread of its own."""
        try:
            self._version(*HANDLE.unpack(each.payload)).loaded().probe()
        except Exception as error:  # noqa: BLE001  (told to the client)
            self.send(frame(Kind.FAILED, each.id, encode_error(error)))
        else:
            self.send(frame(Kind.DONE, each.id))

    def _version(self, handle: int) -> HostedVersion:
        version = self.handles.get(handle)
        if version is None:
            raise ModelNotReady(f"The model host has loaded nothing with the handle {handle}.")
        return version

    # --- Writing ------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send a frame, together with all that others send until the loop wakes. Any thread."""
        with self._lock:
            self._out.append(data)
            if self._flushing:
                return
            self._flushing = True
        try:
            self._loop.call_soon_threadsafe(self._flush)
        except RuntimeError:  # the loop has ended, and the client with it
            return

    def _flush(self) -> None:
        with self._lock:
            out, self._out = self._out, []
            self._flushing = False
        if self._transport is None:
            return
        self._transport.write(b"".join(out))
        if self._transport.get_write_buffer_size() > MAX_PAYLOAD:
            self._end("it does not read its answers")

    def close(self) -> None:
        """Write what is left, and end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _end(self, reason: str) -> None:
        logger.error("The model host (%d) ends the connection of a client: %s", os.getpid(), reason)
        if self._transport is not None:
            self._transport.abort()
