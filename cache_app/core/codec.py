"""The bytes of a cached value outside this process: one versioned, checked envelope.

The envelope, big-endian: ``RS``, format version (u8), flags (u8), dictionary id (u16, 0 for none),
raw length (u32); then the payload: msgspec's MessagePack of ``(created, expires, fresh_until,
value)``, compressed by zstd where that pays; then a CRC-32 (u32). The CRC covers all before it and
what the envelope is *bound* to, its key: bytes that a damaged file moved to another key are
unreadable there.

The checksum guards against damage, not against an enemy: who can write the file can write answers.
What protects the process is that the bytes name no class, unlike a pickle (CVE-2025-69872 is a
cache that unpickled its file): reading makes nothing but the declared type, and every size is
bounded before it is allocated.
"""

from __future__ import annotations

import math
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import msgspec
import zstandard

from cache_app.core.levels import Stored

__all__ = ["WITH_DICTIONARY", "Codec", "CodecStats", "Wire"]

_MAGIC = b"RS"
_VERSION = 1
_ZSTD = 1
"""The flag of a compressed payload; the other bits must be 0."""
_HEAD = struct.Struct(">2sBBHI")
_CRC = struct.Struct(">I")
_AROUND = _HEAD.size + _CRC.size
"""What an envelope weighs without its payload."""
WITH_DICTIONARY = 128
"""From how many bytes of payload on a dictionary is tried: 10 packed items have fewer, and a
seventh saved would cost them half of their time (benchmarks/codec.py)."""


class Wire(Protocol):
    """A value type that knows a smaller form of itself than its fields, such as packed numbers."""

    wire_type: ClassVar[Any]
    """The type of the form, which msgspec checks when it reads: ``tuple[list[str], bytes]``."""

    def to_wire(self) -> Any:
        """Return the value in the form."""

    @classmethod
    def from_wire(cls, wire: Any) -> Self:
        """Return the value of a form.

        Raises:
            ValueError: It is the form of no value.
        """


@dataclass(frozen=True, slots=True)
class CodecStats:
    """What a codec counted since it was made."""

    encoded: int
    decoded: int
    """Envelopes read, without the unreadable ones."""
    unreadable: dict[str, int]
    """Envelopes that could not be read by reason: ``size``, ``magic``, ``version``, ``checksum``,
    ``dictionary``, ``compression``, ``value``."""
    raw_bytes: int
    """Payloads written, before compression."""
    stored_bytes: int
    """Envelopes written."""
    encode_seconds: float
    decode_seconds: float

    @classmethod
    def merged(cls, parts: Sequence[CodecStats]) -> CodecStats:
        """Return the counts of several codecs as one's."""
        unreadable: Counter[str] = Counter()
        for part in parts:
            unreadable.update(part.unreadable)
        return cls(
            encoded=sum(part.encoded for part in parts),
            decoded=sum(part.decoded for part in parts),
            unreadable=dict(unreadable),
            raw_bytes=sum(part.raw_bytes for part in parts),
            stored_bytes=sum(part.stored_bytes for part in parts),
            encode_seconds=sum(part.encode_seconds for part in parts),
            decode_seconds=sum(part.decode_seconds for part in parts),
        )


class _Unreadable(Exception):
    """Why bytes hold no value, in one word."""


@dataclass(frozen=True, slots=True)
class _Dictionaries:
    """The dictionaries in use. Replaced as a whole, so that a thread never sees half a change."""

    by_id: Mapping[int, zstandard.ZstdCompressionDict]
    current: int
    """The one to write with; 0: none."""


class _Zstd(threading.local):
    """One thread's compressors: zstandard forbids to share one, and making one is slow."""

    def __init__(self) -> None:
        self.dictionaries: _Dictionaries | None = None
        self.compress: Callable[[bytes], bytes]
        self.decompressors: dict[int, zstandard.ZstdDecompressor] = {}


class Codec:
    """Turns what a level keeps into bytes and back. Any thread calls it, several at once.

    Args:
        value_type: What every value is: a type that msgspec can write and check, or a `Wire`.
        threshold: From how many bytes of payload on to compress without a dictionary. Small
            payloads have nothing to compress (10 items: 0 to 14 %), which only costs time.
        level: zstd's level.
        max_bytes: The most bytes of a payload, compressed or not, written or read.
        dictionaries: Trained zstd dictionaries by their ids, 1 to 65535; see `use_dictionaries`.
        timer: Monotonic seconds.
    """

    def __init__(
        self,
        value_type: Any,
        *,
        threshold: int = 512,
        level: int = 1,
        max_bytes: int = 4 * 1024 * 1024,
        dictionaries: Mapping[int, bytes] | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._value_type = value_type
        self._to_wire: Callable[[Any], Any] | None = None
        self._from_wire: Callable[[Any], Any] | None = None
        wire_type = value_type
        if hasattr(value_type, "wire_type"):
            wire_type = value_type.wire_type
            self._to_wire, self._from_wire = value_type.to_wire, value_type.from_wire
        self._write = msgspec.msgpack.Encoder().encode
        self._read = msgspec.msgpack.Decoder(
            tuple[float, float, float, wire_type]  # type: ignore[valid-type]  # known when it runs
        ).decode
        self._threshold = threshold
        self._level = level
        self._max_bytes = max_bytes
        self._timer = timer
        self._zstd = _Zstd()
        self._encoded = self._decoded = self._raw_bytes = self._stored_bytes = 0
        self._encode_seconds = self._decode_seconds = 0.0
        self._unreadable: Counter[str] = Counter()
        self._dictionaries = _Dictionaries({}, 0)
        self.use_dictionaries(dictionaries or {})

    def use_dictionaries(
        self, dictionaries: Mapping[int, bytes], current: int | None = None
    ) -> None:
        """Read with these dictionaries from now on, and write with one of them.

        Args:
            dictionaries: By id. Keep the old ones for as long as values live that need them;
                such values are misses without.
            current: The one to write with; None: the highest id.

        Raises:
            ValueError: An id is out of range or not there, or the bytes are no dictionary.
        """
        if current is None:
            current = max(dictionaries, default=0)
        if current and current not in dictionaries:
            raise ValueError(f"There is no dictionary {current} to write with.")
        loaded = {}
        for number, data in dictionaries.items():
            if not 1 <= number <= 0xFFFF:
                raise ValueError(f"A dictionary's id must be 1 to 65535, not {number}.")
            loaded[number] = zstandard.ZstdCompressionDict(
                data, dict_type=zstandard.DICT_TYPE_FULLDICT
            )
            try:
                loaded[number].precompute_compress(level=self._level)
            except zstandard.ZstdError as error:
                raise ValueError(f"Dictionary {number} cannot be used: {error}.") from error
        self._dictionaries = _Dictionaries(loaded, current)

    def encode(self, stored: Stored, bound_to: bytes = b"") -> bytes:
        """Return the envelope.

        Args:
            stored: What a level keeps.
            bound_to: What must be given to `decode` again, such as the key.

        Raises:
            ValueError: The payload would be longer than ``max_bytes``.
            TypeError: The value cannot be written.
        """
        started = self._timer()
        payload = self.payload(stored)
        raw_length = len(payload)
        if raw_length > self._max_bytes:
            raise ValueError(f"The value takes {raw_length} bytes; {self._max_bytes} may be kept.")
        flags = dictionary = 0
        dictionaries = self._dictionaries
        if raw_length >= (WITH_DICTIONARY if dictionaries.current else self._threshold):
            packed = self._thread_zstd(dictionaries).compress(payload)
            if len(packed) < raw_length:
                payload, flags, dictionary = packed, _ZSTD, dictionaries.current
        data = _HEAD.pack(_MAGIC, _VERSION, flags, dictionary, raw_length) + payload
        data += _CRC.pack(zlib.crc32(data, zlib.crc32(bound_to)))
        self._encoded += 1
        self._raw_bytes += raw_length
        self._stored_bytes += len(data)
        self._encode_seconds += self._timer() - started
        return data

    def payload(self, stored: Stored) -> bytes:
        """Return what the envelope holds, uncompressed: what a dictionary is trained on.

        Raises:
            TypeError: The value cannot be written.
        """
        value = stored.value
        if self._to_wire is not None:
            if not isinstance(value, self._value_type):
                raise TypeError(f"{value!r} is no {self._value_type.__name__}.")
            value = self._to_wire(value)
        return self._write((stored.created, stored.expires, stored.fresh_until, value))

    def decode(self, data: bytes, bound_to: bytes = b"") -> Stored | None:
        """Return what was encoded; None for bytes that nothing can be read from, counted.

        Args:
            data: The envelope, of any origin.
            bound_to: What it was bound to.
        """
        started = self._timer()
        try:
            stored = self._open(data, bound_to)
        except _Unreadable as reason:
            self._unreadable[str(reason)] += 1
            stored = None
        else:
            self._decoded += 1
        self._decode_seconds += self._timer() - started
        return stored

    def _open(self, data: bytes, bound_to: bytes) -> Stored:
        """Return what was encoded.

        Raises:
            _Unreadable: Nothing can be read.
        """
        if not _AROUND < len(data) <= _AROUND + self._max_bytes:
            raise _Unreadable("size")
        magic, version, flags, dictionary, raw_length = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise _Unreadable("magic")
        if version != _VERSION:
            raise _Unreadable("version")
        checked = data[: -_CRC.size]
        if _CRC.unpack(data[-_CRC.size :])[0] != zlib.crc32(checked, zlib.crc32(bound_to)):
            raise _Unreadable("checksum")
        if raw_length > self._max_bytes:
            raise _Unreadable("size")
        if flags & ~_ZSTD or (dictionary and not flags):
            raise _Unreadable("version")
        payload = checked[_HEAD.size :]
        if flags:
            payload = self._decompress(payload, raw_length, dictionary)
        if len(payload) != raw_length:
            raise _Unreadable("size")
        try:
            created, expires, fresh_until, wire = self._read(payload)
            value = wire if self._from_wire is None else self._from_wire(wire)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise _Unreadable("value") from error
        # An expiry that is no number would never come, and None means a miss to every level.
        lives = -math.inf < created <= expires < math.inf and not math.isnan(fresh_until)
        if value is None or not lives:
            raise _Unreadable("value")
        return Stored(value, created, expires, fresh_until)

    def _decompress(self, payload: bytes, raw_length: int, dictionary: int) -> bytes:
        """Return the payload that a frame holds, of just that length.

        Raises:
            _Unreadable: It does not, or its dictionary is unknown.
        """
        dictionaries = self._dictionaries
        if dictionary and dictionary not in dictionaries.by_id:
            raise _Unreadable("dictionary")
        try:
            # zstandard allocates what the frame declares before it reads on: check that first.
            if zstandard.frame_content_size(payload) != raw_length:
                raise _Unreadable("compression")
            decompressor = self._thread_zstd(dictionaries).decompressors[dictionary]
            return decompressor.decompress(
                payload, max_output_size=raw_length, allow_extra_data=False
            )
        except (zstandard.ZstdError, MemoryError) as error:
            raise _Unreadable("compression") from error

    def _thread_zstd(self, dictionaries: _Dictionaries) -> _Zstd:
        """Return this thread's compressors for these dictionaries."""
        mine = self._zstd
        if mine.dictionaries is not dictionaries:
            mine.compress = zstandard.ZstdCompressor(
                level=self._level,
                dict_data=dictionaries.by_id.get(dictionaries.current),
                write_checksum=False,  # ours covers the frame
                write_dict_id=False,  # the header has it
            ).compress
            window = max(1024, self._max_bytes)
            mine.decompressors = {0: zstandard.ZstdDecompressor(max_window_size=window)}
            for number, data in dictionaries.by_id.items():
                mine.decompressors[number] = zstandard.ZstdDecompressor(
                    dict_data=data, max_window_size=window
                )
            mine.dictionaries = dictionaries
        return mine

    def stats(self) -> CodecStats:
        """Return the counts."""
        return CodecStats(
            encoded=self._encoded,
            decoded=self._decoded,
            unreadable=dict(self._unreadable),
            raw_bytes=self._raw_bytes,
            stored_bytes=self._stored_bytes,
            encode_seconds=self._encode_seconds,
            decode_seconds=self._decode_seconds,
        )
