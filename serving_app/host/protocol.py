"""What web workers and the model host say to each other: frames on a stream, never a pickle.

A frame is a header of 13 bytes and a payload of bounded size::

    payload's bytes (uint32) · kind (uint8) · id (uint64) · payload

All numbers are little-endian. Rows and answers are raw tensors; what is rare (a version to load,
statistics, an error) is MessagePack of one declared type. Both sides begin with a HELLO that
names the protocol's version. Ids are the client's, and are never used again.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from plugins import errors
from serving_app.core.version_record import VersionRecord

__all__ = [
    "HELLO",
    "MAX_PAYLOAD",
    "SUBMISSION",
    "TIMES",
    "URGENCY",
    "VERSION",
    "Frame",
    "FrameReader",
    "Kind",
    "Load",
    "Loaded",
    "ProtocolError",
    "check_hello",
    "decode_error",
    "decode_named",
    "decode_tensors",
    "encode_error",
    "encode_named",
    "encode_tensors",
    "frame",
    "seconds_left",
]

VERSION: Final = 2
"""Of the protocol. Worker and host of different versions do not talk."""
MAX_PAYLOAD: Final = 64 * 1024 * 1024
"""The most bytes that a payload may have; a longer one ends the connection."""
HEADER: Final = struct.Struct("<IBQ")
HELLO: Final = struct.Struct("<8sH")
"""Payload of a HELLO: a magic word and the protocol's version."""
SUBMISSION: Final = struct.Struct("<QIddBH")
"""Before a row's tensors: the version's handle, the depth, the seconds that were left when it was
sent, that instant by the monotonic clock, the priority, and how many bytes of UTF-8 follow that
recognise who was refused (none: nobody is to be recognised)."""
_LONGEST_JOURNEY: Final = 60.0
"""Seconds; a frame that took longer comes from a process with another clock."""
TIMES: Final = struct.Struct("<Idd")
"""What an `ANSWER` to a row begins with: the batch's rows, seconds in the queue, in the model."""
URGENCY: Final = struct.Struct("<Bd")
"""How urgent a row has become: its priority, and the seconds for which it matters."""
HANDLE: Final = struct.Struct("<Q")
_MAGIC: Final = b"recserve"


class ProtocolError(Exception):
    """The other side does not speak this protocol."""


class Kind(enum.IntEnum):
    """What a frame says."""

    HELLO = 1
    """Both: the protocol's version."""
    LOAD = 2
    """Client: load a version (`Load`). The id becomes its handle."""
    UNLOAD = 3
    """Client: the version of this handle is not needed any more."""
    SUBMIT = 4
    """Client: `SUBMISSION` and the tensors of a row."""
    CANCEL = 5
    """Client: nobody waits for the answer to this id."""
    PROBE = 6
    """Client: run one batch through the version of this `HANDLE`."""
    STATS = 7
    """Client: what the version of this `HANDLE` counted."""
    PING = 8
    """Client: are you there?"""
    LOADED = 9
    """Host: the version is loaded (`Loaded`)."""
    ANSWER = 10
    """Host: the tensors of an answer."""
    COUNTED = 11
    """Host: a `BatcherStats`."""
    DONE = 12
    """Host: what was asked is done; also the answer to a PING."""
    FAILED = 13
    """Host: what was asked failed, with an error."""
    INFER = 14
    """Client: `SUBMISSION` (whose depth means nothing) and named tensors, to be run as they are."""
    RAISE = 15
    """Client: the row of this id has become more urgent (`URGENCY`)."""


_KINDS = frozenset(int(kind) for kind in Kind)


class Frame(NamedTuple):
    """One frame, without its length."""

    kind: int
    id: int
    payload: bytes


def frame(kind: Kind, id_: int, *parts: bytes) -> bytes:
    """Return a frame whose payload is the parts, one after the other.

    Raises:
        ProtocolError: The payload would be too long.
    """
    size = sum(map(len, parts))
    if size > MAX_PAYLOAD:
        raise ProtocolError(f"a frame of {size} bytes; {MAX_PAYLOAD} are the most")
    return b"".join((HEADER.pack(size, kind, id_), *parts))


class FrameReader:
    """Cuts a stream into frames, however it arrives. One thread at a time calls it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._have = 0
        self._need = HEADER.size

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Return the frames that the data complete. Exhaust it before the next call.

        Raises:
            ProtocolError: The stream holds something else than frames.
        """
        self._have += len(data)
        if self._have < self._need:
            self._parts.append(data)
            return
        if self._parts:
            data = b"".join((*self._parts, data))
        at, end = 0, len(data)
        self._need = HEADER.size
        while end - at >= HEADER.size:
            size, kind, id_ = HEADER.unpack_from(data, at)
            if size > MAX_PAYLOAD or kind not in _KINDS:
                raise ProtocolError(f"no frame: kind {kind}, {size} bytes")
            if end - at < HEADER.size + size:
                self._need = HEADER.size + size
                break
            begin = at + HEADER.size
            at = begin + size
            yield Frame(kind, id_, data[begin:at])
        self._parts = [data[at:]] if at < end else []
        self._have = end - at


# --- HELLO ------------------------------------------------------------------------------------


def hello() -> bytes:
    """Return the frame that both sides send first."""
    return frame(Kind.HELLO, 0, HELLO.pack(_MAGIC, VERSION))


def check_hello(first: Frame) -> None:
    """Let the conversation begin, if the other side's first frame is the right HELLO.

    Raises:
        ProtocolError: It is not.
    """
    if first.kind != Kind.HELLO or len(first.payload) != HELLO.size:
        raise ProtocolError("it did not begin with a HELLO")
    magic, version = HELLO.unpack(first.payload)
    if magic != _MAGIC:
        raise ProtocolError("it did not begin with a HELLO of recserve")
    if version != VERSION:
        raise ProtocolError(
            f"it speaks version {version} of the protocol, and this process {VERSION}; run the "
            "same release of recserve on both sides"
        )


def seconds_left(seconds: float, sent: float, now: float) -> float:
    """Return the seconds that a row has left of those it had when it was sent.

    Both sides run on one host, whose monotonic clock is one, as a rule.
    """
    journey = now - sent
    return seconds - journey if 0.0 < journey < _LONGEST_JOURNEY else seconds


# --- Tensors ----------------------------------------------------------------------------------

_DATATYPES = tuple(
    np.dtype(name)
    for name in (
        *("<f4", "<i4", "<i8", "<f8", "|b1", "|u1", "<f2"),
        *("|i1", "<i2", "<u2", "<u4", "<u8", "|O"),
    )
)
"""An object array is one of strings: texts as UTF-8, or bytes."""
_CODES = {dtype: code for code, dtype in enumerate(_DATATYPES)}
_STRINGS = _CODES[np.dtype(object)]
_SIZE = struct.Struct("<I")
_VECTOR = struct.Struct("<BBI")
"""Code of the datatype, number of dimensions (1), size: most tensors are vectors."""


def encode_tensors(*tensors: NDArray[Any]) -> bytes:
    """Return arrays as bytes: for each its datatype, its shape and its values.

    Raises:
        ProtocolError: A datatype is not one of `_DATATYPES`.
    """
    parts = [bytes((len(tensors),))]
    for tensor in tensors:
        code = _CODES.get(tensor.dtype)
        if code is None:  # of another byte order, or of no datatype that can be sent
            wanted = object if tensor.dtype.kind in "SU" else tensor.dtype.newbyteorder("<")
            code = _CODES.get(np.dtype(wanted))
            if code is None:
                raise ProtocolError(f"tensors of {tensor.dtype} cannot be sent")
            tensor = tensor.astype(_DATATYPES[code])  # noqa: PLW2901
        if tensor.ndim == 1:
            parts.append(_VECTOR.pack(code, 1, len(tensor)))
        else:
            parts.append(struct.pack(f"<BB{tensor.ndim}I", code, tensor.ndim, *tensor.shape))
        parts.append(_encode_strings(tensor) if code == _STRINGS else tensor.tobytes())
    return b"".join(parts)


def _encode_strings(tensor: NDArray[Any]) -> bytes:
    values = [v if isinstance(v, bytes) else str(v).encode() for v in tensor.ravel().tolist()]
    return b"".join(part for value in values for part in (_SIZE.pack(len(value)), value))


def decode_tensors(payload: bytes, at: int = 0) -> list[NDArray[Any]]:
    """Return the arrays that `encode_tensors` wrote, from a place in the payload to its end.

    They are views of the payload, and cannot be written to.

    Raises:
        ProtocolError: It did not write these bytes.
    """
    try:
        count, at = payload[at], at + 1
        tensors = []
        for _ in range(count):
            code, dimensions = payload[at], payload[at + 1]
            shape = struct.unpack_from(f"<{dimensions}I", payload, at + 2)
            at += 2 + 4 * dimensions
            dtype = _DATATYPES[code]
            values = math.prod(shape)
            if code == _STRINGS:
                tensor, at = _decode_strings(payload, at, values)
            else:
                tensor = np.frombuffer(payload, dtype, values, at) if values else np.empty(0, dtype)
                at += values * dtype.itemsize
            tensors.append(tensor if dimensions == 1 else tensor.reshape(shape))
    except (IndexError, struct.error, ValueError, OverflowError) as error:  # cut off, or no tensors
        raise ProtocolError(f"these are no tensors: {error}") from error
    if at != len(payload):
        raise ProtocolError("there are bytes after the last tensor")
    return tensors


def _decode_strings(payload: bytes, at: int, count: int) -> tuple[NDArray[Any], int]:
    if count > (len(payload) - at) // _SIZE.size:
        raise ValueError(f"{count} strings in {len(payload) - at} bytes")
    tensor = np.empty(count, dtype=object)
    for i in range(count):
        (size,) = _SIZE.unpack_from(payload, at)
        at += _SIZE.size
        if at + size > len(payload):
            raise ValueError("a string that is cut off")
        tensor[i] = payload[at : at + size]
        at += size
    return tensor, at


def encode_named(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays with their names as bytes.

    Raises:
        ProtocolError: A datatype is not one of `_DATATYPES`.
    """
    names = msgspec.msgpack.encode(list(tensors))
    return _SIZE.pack(len(names)) + names + encode_tensors(*tensors.values())


def decode_named(payload: bytes, at: int = 0) -> dict[str, NDArray[Any]]:
    """Return the arrays that `encode_named` wrote, from a place in the payload to its end.

    Raises:
        ProtocolError: It did not write these bytes.
    """
    try:
        (size,) = _SIZE.unpack_from(payload, at)
        at += _SIZE.size
        names = msgspec.msgpack.decode(payload[at : at + size], type=list[str])
    except (struct.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"these are no names: {error}") from error
    tensors = decode_tensors(payload, at + size)
    if len(tensors) != len(set(names)):
        raise ProtocolError(f"{len(tensors)} tensors with {len(names)} names")
    return dict(zip(names, tensors, strict=True))


# --- What is rare -----------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True):
    """A version to load."""

    record: VersionRecord
    items: int
    """How many items its catalogue has."""


class Loaded(msgspec.Struct, frozen=True):
    """A version that is loaded."""

    counted_by: str
    """Names the engine whose statistics the host gives."""
    seconds: float
    """How long loading took."""


class _Failure(msgspec.Struct, frozen=True):
    kind: str
    message: str
    retry_after: float | None = None
    field: str | None = None


_ERRORS = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.RecserveError)
}


def encode_error(error: BaseException) -> bytes:
    """Return an error as bytes; one that is not recserve's own as an `InferenceError`."""
    if type(error).__name__ not in _ERRORS:
        error = errors.InferenceError(f"{type(error).__name__}: {error}")
    return msgspec.msgpack.encode(
        _Failure(
            kind=type(error).__name__,
            message=str(error),
            retry_after=getattr(error, "retry_after", None),
            field=getattr(error, "field", None),
        )
    )


def decode_error(payload: bytes) -> errors.RecserveError:
    """Return the error that `encode_error` wrote, of the same class.

    Raises:
        ProtocolError: It did not write these bytes.
    """
    try:
        failure = msgspec.msgpack.decode(payload, type=_Failure)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"this is no error: {error}") from error
    kind = _ERRORS.get(failure.kind, errors.InferenceError)
    more: dict[str, Any] = {}
    if issubclass(kind, errors.InvalidInput):
        more["field"] = failure.field or ""
    elif issubclass(kind, errors.QueueFull | errors.ModelNotReady):
        more["retry_after"] = failure.retry_after if failure.retry_after is not None else 1.0
    return kind(failure.message, **more)
