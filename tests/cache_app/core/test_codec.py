"""The envelope: values come back as they were, and anything else is a counted miss."""

import dataclasses
import math
import pickle
import random
import struct
import threading
import tracemalloc
import zlib

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cache_app.core.codec import Codec
from cache_app.core.levels import Stored
from serving_app.core.ranking import Ranking

pytestmark = pytest.mark.contract("C5")

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
FLOAT64 = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def rankings(draw, scores=FLOAT32 | FLOAT64):
    pairs = draw(st.lists(st.tuples(st.text(), scores), max_size=40))
    items, values = zip(*pairs, strict=True) if pairs else ((), ())
    return Ranking(items, values, draw(st.booleans()))


def ranking(n=10, seed=0):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(n, dtype=np.float32))[::-1]
    return Ranking(
        tuple(f"{number}A" for number in rng.integers(20_000, 90_000, n)),
        tuple(scores.tolist()),
        False,
    )


def stored(value=None, *, created=1_000_000.25, ttl=300.0):
    return Stored(ranking() if value is None else value, created, created + ttl)


@pytest.fixture(scope="module")
def dictionary():
    codec = Codec(Ranking)
    samples = [codec.payload(stored(ranking(50, seed))) for seed in range(400)]
    return zstandard.train_dictionary(4096, samples, level=1).as_bytes()


def sealed(flags=0, dictionary=0, raw=None, payload=b"", *, magic=b"RS", version=1, bound=b""):
    """Return an envelope with a right checksum, whatever is in it."""
    raw = len(payload) if raw is None else raw
    data = struct.pack(">2sBBHI", magic, version, flags, dictionary, raw) + payload
    return data + struct.pack(">I", zlib.crc32(data, zlib.crc32(bound)))


@given(
    rankings(),
    st.floats(0, 2**40),
    st.floats(0, 2**20),
    st.floats(0, 2**20) | st.just(math.inf),
    st.binary(max_size=20),
)
def test_a_ranking_comes_back_exactly(value, created, ttl, fresh, key):
    codec = Codec(Ranking, threshold=100)
    given_ = Stored(value, created, created + ttl, created + fresh)
    back = codec.decode(codec.encode(given_, key), key)
    assert back == given_
    assert isinstance(back.value, Ranking)
    # 0.0 == -0.0, but they are two scores.
    assert [struct.pack("d", s) for s in back.value.scores] == [
        struct.pack("d", s) for s in value.scores
    ]


@given(st.dictionaries(st.text(), st.integers(-(2**63), 2**63) | st.text() | FLOAT64 | st.binary()))
def test_a_type_without_a_form_of_its_own_is_msgspecs(value):
    codec = Codec(dict[str, int | float | str], threshold=1)
    try:
        data = codec.encode(Stored(value, 0.0, 1.0))
    except OverflowError:
        return  # MessagePack has no such integer
    back = codec.decode(data)
    if any(isinstance(each, bytes) for each in value.values()):
        assert back is None  # not of the declared type
    else:
        assert back.value == value


def test_float32_scores_take_four_bytes_and_others_eight():
    items = ("a", "b", "c")
    narrow = Ranking(items, tuple(np.array([0.1, 0.2, 0.3], np.float32).tolist()), True)
    for value, size in (
        (narrow, 12),
        (Ranking(items, (0.1, 0.2, 0.3), True), 24),
        (Ranking(items, (1e300, 1.0, 0.0), True), 24),
        (Ranking((), (), True), 0),
    ):
        wire = value.to_wire()
        assert len(wire[1]) == size
        assert Ranking.from_wire(wire) == value
    with pytest.raises(ValueError, match="5 bytes of scores do not fit 1 items"):
        Ranking.from_wire((("a",), b"12345", True))


def test_a_real_size_is_well_below_jsons(dictionary):
    codec, trained = Codec(Ranking), Codec(Ranking, dictionaries={1: dictionary})
    for n in (10, 100):
        as_json = len(msgspec.json.encode(ranking(n, 999)))
        assert len(codec.encode(stored(ranking(n, 999)))) <= 0.65 * as_json
        assert len(trained.encode(stored(ranking(n, 999)))) <= 0.50 * as_json


def test_it_compresses_only_where_that_pays():
    codec = Codec(bytes, threshold=1000)
    short, long, noise = b"a" * 900, b"a" * 2000, random.Random(0).randbytes(2000)
    assert len(codec.encode(stored(short))) > 900
    assert len(codec.encode(stored(long))) < 100
    assert 2000 < len(codec.encode(stored(noise))) < 2060
    for value in (short, long, noise):
        assert codec.decode(codec.encode(stored(value))).value == value
    stats = codec.stats()
    assert (stats.encoded, stats.decoded, stats.unreadable) == (6, 3, {})
    assert stats.stored_bytes < stats.raw_bytes
    assert stats.encode_seconds > 0
    assert stats.decode_seconds > 0


def test_dictionaries_come_and_go(dictionary):
    value = stored(ranking(50, 1))
    codec = Codec(Ranking)
    plain = codec.encode(value)
    codec.use_dictionaries({7: dictionary})
    packed = codec.encode(value)
    assert len(packed) < len(plain)
    codec.use_dictionaries({7: dictionary, 8: dictionary}, current=8)
    newer = codec.encode(value)
    assert packed != newer
    assert codec.decode(plain) == codec.decode(packed) == codec.decode(newer) == value
    codec.use_dictionaries({8: dictionary})
    assert codec.decode(packed) is None
    assert codec.decode(newer) == value
    assert codec.stats().unreadable == {"dictionary": 1}


def test_a_wrong_dictionary_is_refused(dictionary):
    codec = Codec(Ranking)
    for wrong, current in (({0: dictionary}, None), ({65_536: dictionary}, None), ({}, 1)):
        with pytest.raises(ValueError, match="dictionary"):
            codec.use_dictionaries(wrong, current)
    with pytest.raises(ValueError, match="Dictionary 1 cannot be used"):
        codec.use_dictionaries({1: b"rubbish"})
    assert codec.decode(codec.encode(stored())) == stored()


def test_what_is_too_long_is_not_written():
    codec = Codec(bytes, max_bytes=100)
    with pytest.raises(ValueError, match="100 may be kept"):
        codec.encode(stored(b"a" * 100))
    with pytest.raises(TypeError):
        codec.encode(stored(object()))
    assert codec.stats().encoded == 0


def test_bytes_are_bound_to_their_key():
    codec = Codec(Ranking)
    data = codec.encode(stored(), b"one")
    assert codec.decode(data, b"one") == stored()
    assert codec.decode(data, b"two") is None
    assert codec.decode(data) is None
    assert codec.stats().unreadable == {"checksum": 2}


def test_every_kind_of_rubbish_is_counted():
    codec = Codec(Ranking, max_bytes=10_000)
    pack = msgspec.msgpack.encode
    wire = ranking().to_wire()
    good = pack((1.0, 2.0, 1.5, wire))
    frame = zstandard.compress(good)
    bomb = zstandard.compress(bytes(9_000_000))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(good)
    assert codec.decode(sealed(payload=good)) is not None
    assert codec.decode(sealed(1, 0, len(good), frame)) is not None
    cases = {
        "size": [
            b"",
            b"R",
            bytes(10_015),
            sealed(),
            sealed(payload=good, raw=len(good) - 1),
            sealed(1, 0, 2**32 - 1, frame),
        ],
        "magic": [sealed(payload=good, magic=b"SR"), good],
        "version": [
            sealed(payload=good, version=2),
            sealed(flags=2, payload=good),
            sealed(dictionary=1, payload=good),
        ],
        "checksum": [sealed(payload=good) + b"\0", sealed(payload=good)[:-1]],
        "dictionary": [sealed(1, 9, len(good), frame)],
        "compression": [
            sealed(1, 0, len(good) + 1, frame),
            sealed(1, 0, len(good), frame + b"\0"),
            sealed(1, 0, len(good), frame + frame),
            sealed(1, 0, len(good), frame[:-1]),
            sealed(1, 0, len(good), unsized),
            sealed(1, 0, 9_000, bomb),
            sealed(1, 0, len(good), good),
        ],
        "value": [
            sealed(payload=each)
            for each in (
                good + b"\0",
                pack((1.0, 2.0, 1.5)),
                pack((1.0, 2.0, 1.5, wire, 1)),
                pack((2.0, 1.0, 3.0, wire)),
                struct.pack(">BBdBdBd", 0x94, 0xCB, 1, 0xCB, math.inf, 0xCB, 1) + pack(wire),
                struct.pack(">BBdBdBd", 0x94, 0xCB, 1, 0xCB, math.nan, 0xCB, 1) + pack(wire),
                struct.pack(">BBdBdBd", 0x94, 0xCB, 1, 0xCB, 2, 0xCB, math.nan) + pack(wire),
                pack((1.0, 2.0, 1.5, None)),
                pack((1.0, 2.0, 1.5, (wire[0], wire[1][:-1], False))),
                pack((1.0, 2.0, 1.5, (wire[0][:-1], wire[1], False))),
                pack((1.0, 2.0, 1.5, ([1], bytes(4), False))),
                pack((1.0, 2.0, 1.5, wire))[:-1],
                pickle.dumps(stored()),
                b"\xdd\xff\xff\xff\xff",
                good[:28] + b"\x93\xdd\xff\xff\xff\xff\xa1a",
            )
        ],
    }
    for reason, rubbish in cases.items():
        before = codec.stats().unreadable.get(reason, 0)
        for data in rubbish:
            assert codec.decode(data) is None, (reason, data)
        assert codec.stats().unreadable[reason] - before == len(rubbish), reason


def test_a_declared_length_is_never_allocated():
    codec = Codec(Ranking, max_bytes=10_000)
    bomb = zstandard.compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        for payload in (b"\xdd\xff\xff\xff\xff", bomb):
            for raw in (0, 10_000, 50_000_000, 2**32 - 1):
                assert codec.decode(sealed(1, 0, raw, payload)) is None
                assert codec.decode(sealed(0, 0, raw, payload)) is None
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def mutated(rng, data):
    """Return the data with a few bytes changed, cut, doubled, or put in."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xC1, 0xDD, 0xFF))
            case 2:
                del data[at : at + rng.randrange(1, 9)]
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\xdd\xff\xff\xff"))
        if not data:
            break
    return bytes(data)


def test_mutated_envelopes_are_misses_and_nothing_else(dictionary):
    """500,000 as they are: none is read. 500,000 more, sealed anew: none does harm."""
    rng = random.Random(5)
    codec = Codec(Ranking, threshold=300, max_bytes=20_000, dictionaries={1: dictionary})
    plain = Codec(Ranking, threshold=300)
    originals = [
        maker.encode(stored(ranking(n, seed)))
        for maker in (codec, plain)
        for seed, n in enumerate((0, 1, 10, 100))
    ]
    for _ in range(500_000):
        original = rng.choice(originals)
        data = mutated(rng, original)
        assert data == original or codec.decode(data) is None
    for _ in range(500_000):
        data = mutated(rng, rng.choice(originals)[:-4])
        back = codec.decode(data + struct.pack(">I", zlib.crc32(data, zlib.crc32(b""))))
        assert back is None or isinstance(back.value, Ranking)
    assert set(codec.stats().unreadable) == {
        "size",
        "magic",
        "version",
        "checksum",
        "dictionary",
        "compression",
        "value",
    }


@pytest.mark.contract("C6")
def test_nothing_is_ever_unpickled(monkeypatch):
    class Poison:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    def fail(*_, **__):
        pytest.fail("pickle was called")

    poison = pickle.dumps(Poison())
    for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler", "dumps", "dump"):
        monkeypatch.setattr(pickle, name, fail)
    codec = Codec(Ranking, threshold=1)
    assert codec.decode(codec.encode(stored())) == stored()
    for payload in (
        poison,
        zstandard.compress(poison),
        msgspec.msgpack.encode((1.0, 2.0, 1.5, poison)),
    ):
        for flags in (0, 1):
            assert codec.decode(sealed(flags, 0, len(poison), payload)) is None
    assert codec.decode(poison) is None


def test_threads_share_a_codec(dictionary):
    codec = Codec(Ranking, threshold=1, dictionaries={1: dictionary})
    failures = []

    def work(seed):
        value = stored(ranking(100, seed))
        for turn in range(300):
            if seed == 0 and turn % 50 == 0:
                codec.use_dictionaries({1: dictionary, 2 + turn: dictionary})
            back = codec.decode(codec.encode(value))
            if back is not None and back != value:
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_stats_are_a_snapshot():
    codec = Codec(Ranking)
    before = codec.stats()
    codec.decode(b"")
    assert before.unreadable == {}
    assert dataclasses.asdict(codec.stats())["unreadable"] == {"size": 1}
