"""Frames and tensors arrive as they were sent; anything else is named."""

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from plugins import errors
from serving_app.core.batcher import BatcherStats
from serving_app.core.version_record import VersionRecord
from serving_app.host import protocol
from serving_app.host.protocol import (
    MAX_PAYLOAD,
    Frame,
    FrameReader,
    Kind,
    Load,
    ProtocolError,
    check_hello,
    decode_error,
    decode_named,
    decode_tensors,
    encode_error,
    encode_named,
    encode_tensors,
    frame,
    seconds_left,
)

pytestmark = pytest.mark.contract("S11")

frames = st.builds(
    Frame,
    kind=st.sampled_from(list(Kind)).map(int),
    id=st.integers(0, 2**64 - 1),
    payload=st.binary(max_size=200),
)
tensors = st.sampled_from(
    [*("<f4", "<i4", "<i8", "<f8", "|b1", "|u1", "<f2"), *("|i1", "<i2", "<u2", "<u4", "<u8")]
).flatmap(
    lambda dtype: arrays.arrays(
        dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
    )
)


@given(st.lists(frames, max_size=8), st.data())
def test_a_stream_cut_anywhere_gives_the_same_frames(sent, data):
    stream = b"".join(frame(Kind(each.kind), each.id, each.payload) for each in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader, got = FrameReader(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[begin:end])
    assert got == sent


def test_the_time_in_the_socket_counts_unless_the_clocks_are_not_the_same():
    assert seconds_left(2.0, sent=100.0, now=100.5) == 1.5
    assert seconds_left(2.0, sent=100.0, now=103.0) == -1.0
    assert seconds_left(2.0, sent=100.0, now=99.0) == 2.0, "sent in the future"
    assert seconds_left(2.0, sent=100.0, now=9000.0) == 2.0, "sent hours ago"


def test_a_stream_in_single_bytes_gives_the_same_frames():
    stream = frame(Kind.PING, 1) + frame(Kind.ANSWER, 2, b"abc", b"def") + frame(Kind.DONE, 3)
    reader = FrameReader()
    got = [each for byte in stream for each in reader.feed(bytes([byte]))]
    assert got == [Frame(8, 1, b""), Frame(10, 2, b"abcdef"), Frame(12, 3, b"")]


@given(st.binary(min_size=13, max_size=400))
def test_rubbish_is_refused_or_waited_for_but_never_more_than_a_frame(rubbish):
    reader = FrameReader()
    try:
        for each in reader.feed(rubbish):
            assert each.kind in set(Kind)
    except ProtocolError:
        return
    assert reader._need <= MAX_PAYLOAD + protocol.HEADER.size


def test_an_oversized_frame_is_refused_by_its_header_alone():
    header = protocol.HEADER.pack(MAX_PAYLOAD + 1, Kind.ANSWER, 1)
    with pytest.raises(ProtocolError, match="67108865 bytes"):
        list(FrameReader().feed(header))
    with pytest.raises(ProtocolError, match="67108865"):
        frame(Kind.ANSWER, 1, bytes(MAX_PAYLOAD + 1))


@given(st.lists(tensors, max_size=4))
def test_tensors_arrive_as_they_were(sent):
    got = decode_tensors(b"##" + encode_tensors(*sent), 2)
    assert len(got) == len(sent)
    for one, other in zip(sent, got, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(one, other)
        assert not other.size or not other.flags.writeable


@given(st.lists(st.binary(max_size=5) | st.text(max_size=5), max_size=4), st.booleans())
def test_strings_arrive_as_bytes(values, column):
    sent = np.empty(len(values), dtype=object)
    sent[:] = values
    if column:
        sent = sent.reshape(-1, 1)
    ids = np.arange(3)
    got = decode_named(encode_named({"names": sent, "ids": ids}))
    assert list(got) == ["names", "ids"]
    assert got["names"].shape == sent.shape
    wanted = [v if isinstance(v, bytes) else v.encode() for v in values]
    assert got["names"].ravel().tolist() == wanted
    assert got["ids"].tolist() == [0, 1, 2]


@given(st.binary(max_size=100), st.integers(0, 40))
def test_rubbish_is_no_named_tensor(rubbish, cut):
    payload = encode_named({"a": np.array(["x", "yz"]), "b": np.ones(2, np.float32)})
    for wrong in (rubbish, payload[:cut], payload[:cut] + rubbish):
        try:
            decode_named(wrong)
        except ProtocolError:
            continue
        assert wrong in (payload, encode_named({})) or wrong.startswith(payload[:4])


def test_tensors_of_another_byte_order_arrive_and_others_are_refused():
    (got,) = decode_tensors(encode_tensors(np.array([1.5, 2.5], ">f4")))
    assert got.tolist() == [1.5, 2.5]
    with pytest.raises(ProtocolError, match="cannot be sent"):
        encode_tensors(np.array([1j]))
    with pytest.raises(ProtocolError, match="2 tensors with 1 names"):
        decode_named(
            encode_named({"a": np.ones(1)}).replace(b"\x91\xa1a\x01", b"\x91\xa1a\x02")
            + encode_tensors(np.ones(1))[1:]
        )


@given(st.lists(tensors, min_size=1, max_size=3), st.data())
def test_cut_or_lengthened_tensors_are_refused(sent, data):
    payload = encode_tensors(*sent)
    cut = data.draw(st.integers(0, len(payload) - 1))
    for wrong in (payload[:cut], payload + b"\0"):
        with pytest.raises(ProtocolError):
            decode_tensors(wrong)


@given(st.binary(max_size=100))
@example(b"\x01\x00\x03" + b"\x00\x00\x00\x01" * 3)  # more values than can be counted
def test_rubbish_is_no_tensor(rubbish):
    try:
        decode_tensors(rubbish)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "error",
    [
        errors.QueueFull("full", retry_after=2.5),
        errors.ModelNotReady("away", retry_after=7.0),
        errors.InvalidInput("wrong", field="features.age"),
        errors.ArtifactRejected("no"),
        errors.DeadlineExceeded("late"),
        errors.InferenceError("raised"),
    ],
)
def test_errors_arrive_as_what_they_are(error):
    got = decode_error(encode_error(error))
    assert type(got) is type(error)
    assert (str(got), vars(got)) == (str(error), vars(error))


def test_another_error_arrives_as_an_inference_error():
    got = decode_error(encode_error(ZeroDivisionError("by zero")))
    assert type(got) is errors.InferenceError
    assert str(got) == "ZeroDivisionError: by zero"
    with pytest.raises(ProtocolError):
        decode_error(b"rubbish")


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (Frame(Kind.PING, 0, b""), "HELLO"),
        (Frame(Kind.HELLO, 0, b"xxxxxxxx\1\0"), "of recserve"),
        (Frame(Kind.HELLO, 0, b"recserve\1\0"), "version 1 .* and this process 2; .* same release"),
    ],
)
def test_who_speaks_otherwise_is_told_why(first, reason):
    with pytest.raises(ProtocolError, match=reason):
        check_hello(first)


def test_versions_and_statistics_cross_as_they_are():
    record = VersionRecord(
        "m", 3, "a", "0", "f", "c", "1", ("x", "y"), framework_options={"a": [1, {"b": None}]}
    )
    load = Load(record, 5)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(load), type=Load) == load
    stats = BatcherStats.merged([])
    encoded = msgspec.msgpack.encode(stats)
    assert msgspec.msgpack.decode(encoded, type=BatcherStats) == stats
