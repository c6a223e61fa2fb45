"""The embedded L2: one LMDB file, several processes, and everything that may happen to it."""

import asyncio
import logging
import random
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lmdb.verify import verify

from cache_app import embedded_file, embedded_level
from cache_app.core.codec import Codec
from cache_app.core.levels import Levels, Stored
from cache_app.core.memory import MemoryLevel
from cache_app.core.steps import Runner
from cache_app.embedded_level import LEAST_BYTES, EmbeddedLevel
from plugins.errors import LevelUnavailable
from plugins.eviction.sieve import SIEVE
from serving_app.core.ranking import Ranking
from tests.fakes import FakeClock
from tests.journeys.conftest import ROOT

pytestmark = pytest.mark.contract("C1")

KEY = "recserve:default:1:all:i1:-:-"


def ranking(name="a"):
    return Ranking((str(name), "b"), (0.5, 0.25), False)


def stored(name="a", *, at=1_000_000.0, ttl=60.0):
    return Stored(ranking(name), at, at + ttl)


def noise(seed, size):
    """Return a value of that many bytes that nothing compresses."""
    text = np.random.default_rng(seed).integers(33, 126, size, dtype=np.uint8).tobytes()
    return Stored(Ranking((text.decode("ascii"),), (1.0,), False), 1_000_000.0, 1_000_060.0 + seed)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(tmp_path, clock):
    """A factory of levels at one path, all closed at the end."""
    made = []

    def make(**options):
        for earlier in made:
            earlier.close()
        level = EmbeddedLevel(
            tmp_path / "cache",
            Codec(Ranking),
            **{"max_bytes": LEAST_BYTES, "clock": clock, **options},
        )
        made.append(level)
        return level

    yield make
    for level in made:
        level.close()


@pytest.fixture
def level(make):
    return make()


def elsewhere(tmp_path, code, *, wait=True):
    """Run code in another process that has ``level`` and the names of this module."""
    before = """
        import os, signal, sys
        from pathlib import Path
        from cache_app import embedded_file, embedded_level
        from tests.cache_app.test_embedded_level import *
        level = EmbeddedLevel(
            Path(sys.argv[1]), Codec(Ranking), max_bytes=LEAST_BYTES, clock=FakeClock()
        )
        def say(text):
            print(text, flush=True)
    """
    source = textwrap.dedent(before) + textwrap.dedent(code)
    process = subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path / "cache")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if not wait:
        return process
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output


def killed(process):
    process.kill()
    process.wait(30)
    process.stdin.close()
    process.stdout.close()


# --- One process ---


def test_a_value_is_served_until_the_instant_it_expires(level, clock):
    assert level.get(KEY) is None
    level.put(KEY, stored())
    clock.advance(59.9)
    assert level.get(KEY) == stored()
    clock.advance(0.1)
    assert level.get(KEY) is None
    stats = level.stats()
    assert (stats.hits, stats.misses, stats.insertions, stats.entries) == (1, 2, 1, 1)
    assert stats.capacity == LEAST_BYTES
    assert 0 < stats.weight < 100_000


def test_a_value_survives_the_process_that_stored_it(make):
    make().put(KEY, stored())
    assert make().get(KEY) == stored()


def test_overwriting_and_removing(level):
    level.put("a", stored("old"))
    level.put("a", stored("new", ttl=90))
    level.put("b", stored())
    assert level.get("a") == stored("new", ttl=90)
    assert level.stats().entries == 2
    assert level.remove("a")
    assert not level.remove("a")
    assert level.get("a") is None
    assert level.clear() == 1
    assert level.get("b") is None
    assert (level.stats().removals, level.stats().entries) == (2, 0)


def test_removing_by_predicate_sees_every_key(level, monkeypatch):
    monkeypatch.setattr(embedded_level, "_SCAN", 7)
    monkeypatch.setattr(embedded_level, "_REMOVE", 3)
    keys = [f"k{number}" for number in range(100)]
    long = ["x" * 600, "ü" * 300]
    for key in keys + long:
        level.put(key, stored(key))
    seen = []
    assert level.remove_where(lambda key: seen.append(key) or key.endswith("7")) == 10
    assert sorted(seen) == sorted(keys + long)
    assert level.remove_where(lambda key: len(key) > 100) == 2
    assert {key for key in keys + long if level.get(key)} == set(keys) - {
        key for key in keys if key.endswith("7")
    }
    assert level.remove_where(lambda _: False) == 0


def test_it_agrees_with_a_dict(level, clock):
    rng, table = random.Random(3), {}
    for turn in range(2_000):
        key = f"k{rng.randrange(30)}" + "x" * rng.choice((0, 600))
        match rng.randrange(8):
            case 0 | 1 | 2:
                value = stored(turn, at=clock(), ttl=rng.choice((1, 5, 50)))
                level.put(key, value)
                table[key] = value
            case 3:
                there = key in table and table[key].expires > clock()
                removed = level.remove(key)
                assert removed or not there  # an expired one may have been swept
                table.pop(key, None)
            case 4:
                clock.advance(rng.random() * 2)
            case _:
                found = table.get(key)
                if found is not None and found.expires <= clock():
                    found = None
                assert level.get(key) == found


def test_a_store_sweeps_some_of_the_expired(level, clock):
    for number in range(30):
        level.put(f"old{number}", stored(ttl=1 + number))
    clock.advance(25)
    level.put("new", stored(at=clock()))
    assert (level.stats().entries, level.stats().expirations) == (31 - 8, 8)
    for _ in range(5):
        level.put("new", stored(at=clock()))
    assert (level.stats().entries, level.stats().expirations) == (1 + 5, 25)
    assert level.get("old29") is not None


def test_what_cannot_be_kept_takes_the_old_value_with_it(make, clock, caplog):
    level = make()
    level.codec = Codec(Ranking, max_bytes=1000)
    for refused in (stored(ttl=0), noise(0, 2000), Stored(object(), clock(), clock() + 9)):
        level.put("a", stored())
        level.put("a", refused)
        assert level.get("a") is None
    assert level.stats().rejected == 3
    level.put("k" * 70_000, stored())
    assert level.get("k" * 70_000) is None
    assert [record.message[:25] for record in caplog.records] == ["L2 cannot write a value: "]


def test_a_full_file_evicts_what_expires_soonest(level, tmp_path):
    for number in range(1_000):
        level.put(f"k{number}", noise(number, 40_000))
    stats = level.stats()
    assert stats.insertions == 1_000
    assert stats.evictions == 1_000 - stats.entries
    assert stats.entries > 0.6 * LEAST_BYTES / 40_960
    kept = [number for number in range(1_000) if level.get(f"k{number}")]
    assert kept == list(range(1_000 - stats.entries, 1_000))
    assert (tmp_path / "cache" / "data.mdb").stat().st_blocks * 512 <= LEAST_BYTES
    # Full as it is, everything can be removed, one by one or at once.
    assert level.remove(f"k{kept[0]}")
    assert level.remove_where(lambda key: key.endswith("1")) > 0
    left = level.stats().entries
    assert level.clear() == left > 0
    level.put("a", stored())
    assert level.get("a") == stored()


def test_values_of_all_sizes_fill_it_for_long(level):
    rng = random.Random(1)
    for number in range(3_000):
        level.put(f"k{rng.randrange(500)}", noise(number, rng.choice((50, 500, 5_000, 300_000))))
        if number % 500 == 499:
            level.remove_where(lambda key: rng.random() < 0.3)
    stats = level.stats()
    assert stats.insertions + stats.rejected == 3_000
    assert stats.rejected < 30
    assert stats.weight <= LEAST_BYTES


def test_a_reader_that_stands_still_costs_room_but_nothing_else(level):
    """Its pages cannot be used again: stores are refused, none fails, until it is gone."""
    level.put("a", stored())
    with level._access.file.env.begin():
        for number in range(1_000):
            level.put(f"k{number}", noise(number, 40_000))
        assert level.stats().rejected > 0
    level.put("b", stored())
    level.put("b", stored())
    assert level.get("b") == stored()


# --- Together ---


class Via:
    """What a Redis would be asked through."""

    def close(self):
        pass


def together(level, *passes):
    """Store values as an event loop does, some in each of its passes; return what was heard."""
    heard = []

    async def scene():
        runner = Runner()
        runner.attach(asyncio.get_running_loop(), Via())
        for entries in passes:
            for key, value in entries:
                runner.run(level.putting(key, value), lambda *of: heard.append(of))
            before = len(heard)
            await asyncio.sleep(0)
            assert len(heard) - before == len(entries), "all hear of it after one pass"
        runner.detach()

    asyncio.run(scene())
    return heard


@pytest.fixture
def transactions(monkeypatch):
    """The number of values that each transaction was begun for."""
    begun = []
    sweep = embedded_file.EmbeddedFile.sweep

    def counted(self, txn, now, stores=1):
        begun.append(stores)
        return sweep(self, txn, now, stores)

    monkeypatch.setattr(embedded_file.EmbeddedFile, "sweep", counted)
    return begun


def test_an_event_loop_stores_all_of_a_pass_in_few_transactions(level, transactions):
    some = [(f"k{n}", stored(str(n))) for n in range(150)]
    assert together(level, some, some[:1]) == [(None, None)] * 151
    assert transactions == [64, 64, 22, 1]
    assert all(level.get(key) == value for key, value in some)
    assert level.stats().insertions == 151


def test_fewer_large_values_share_a_transaction(level, transactions):
    together(level, [(f"k{n}", noise(n, 150_000)) for n in range(5)] + [("big", noise(9, 900_000))])
    assert transactions == [2, 2, 1, 1]
    assert level.stats().entries == 6


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "late", "long"]))),
        max_size=5,
    )
)
def test_what_is_stored_together_is_what_is_stored_one_by_one(passes):
    values = {"late": stored(ttl=0), "long": noise(0, 2_000)}
    with tempfile.TemporaryDirectory() as folder:
        clock = FakeClock()
        one, other = (
            EmbeddedLevel(Path(folder) / name, Codec(Ranking, max_bytes=1000), clock=clock)
            for name in ("one", "other")
        )
        given_ = [[(f"k{key}", values.get(v) or stored(v)) for key, v in each] for each in passes]
        together(one, *given_)
        for entries in given_:
            for key, value in entries:
                other.put(key, value)
        for n in range(6):
            assert one.get(f"k{n}") == other.get(f"k{n}")
        assert one.stats() == other.stats()
        one.close()
        other.close()


def test_passes_of_all_sizes_fill_it_for_long(level):
    rng = random.Random(1)
    for first in range(0, 1_500, 30):
        sizes = [rng.choice((50, 500, 5_000, 300_000)) for _ in range(30)]
        values = [noise(first + n, size) for n, size in enumerate(sizes)]
        entries = [(f"k{rng.randrange(500)}", value) for value in values]
        assert together(level, entries) == [(None, None)] * 30
    stats = level.stats()
    assert stats.insertions + stats.rejected == 1_500
    assert stats.rejected < 30
    assert stats.weight <= LEAST_BYTES


def test_a_pass_that_finds_no_room_stores_what_does(level):
    """The pages of a reader that stands still cannot be used again."""
    level.put("a", stored())
    with level._access.file.env.begin():
        heard = [
            each
            for first in range(0, 1_000, 50)
            for each in together(
                level, [(f"k{n}", noise(n, 40_000)) for n in range(first, first + 50)]
            )
        ]
        assert heard == [(None, None)] * 1_000
        stats = level.stats()
        assert stats.insertions + stats.rejected == 1_001
        assert stats.rejected > 0
    assert together(level, [("b", stored())], [("b", stored())]) == [(None, None)] * 2
    assert level.get("b") == stored()


def test_all_of_a_pass_hear_of_a_file_that_cannot_be_used(level, monkeypatch):
    monkeypatch.setattr(level._access, "open", raising := Raising())
    heard = together(level, [("a", stored()), ("b", stored())])
    assert [error for _, error in heard] == [raising.error] * 2


class Raising:
    """Cannot be called."""

    def __init__(self):
        self.error = LevelUnavailable("on purpose")

    def __call__(self):
        raise self.error


def test_one_that_fails_on_the_news_keeps_it_from_nobody(level, caplog):
    heard = []

    def fails(*_):
        raise RuntimeError("on purpose")

    async def scene():
        level.put_together(("a", stored()), fails)
        level.put_together(("b", stored()), lambda *of: heard.append(of))
        await asyncio.sleep(0)

    asyncio.run(scene())
    assert heard == [(None, None)]
    assert "stored failed" in caplog.text
    assert {level.get("a"), level.get("b")} == {stored()}


def test_the_smallest_file_is_known(tmp_path):
    with pytest.raises(ValueError, match="needs 16777216 bytes at least, not 5"):
        EmbeddedLevel(tmp_path, Codec(Ranking), max_bytes=5)


# --- Keys and rubbish ---


@pytest.mark.contract("C6")
@pytest.mark.parametrize("key", ["", "\0", "k" * 480, "k" * 481, "ü" * 500, "\udc80", "\xff"])
def test_any_key_can_be_used(level, key):
    level.put(key, stored())
    assert level.get(key) == stored()
    assert level.get(key + "x") is None
    assert level.remove_where(lambda each: each == key) == 1


@pytest.mark.contract("C6")
def test_keys_of_one_digest_do_not_answer_for_each_other(level, monkeypatch):
    monkeypatch.setattr(embedded_level, "place_of", lambda text: b"\xffsame")
    level.put("a" * 600, stored("a"))
    assert level.get("b" * 600) is None
    assert level.get("a" * 600) == stored("a")


def overwrite(level, key, data):
    with level._access.file.env.begin(write=True) as txn:
        txn.put(key, data, db=level._access.file.values)


@pytest.mark.contract("C6")
@pytest.mark.parametrize("rubbish", [b"", b"x", b"rubbish" * 20, b"\x80\x04N."])
def test_an_unreadable_entry_is_a_miss_and_goes(level, rubbish):
    level.put("a", stored())
    overwrite(level, b"a", rubbish)
    assert level.get("a") is None
    assert level.stats().entries == 0
    assert level.stats().misses == 1
    assert sum(level.codec.stats().unreadable.values()) == 1
    level.put("a", stored())
    assert level.get("a") == stored()


@pytest.mark.contract("C6")
def test_an_entry_under_anothers_key_is_unreadable(level):
    level.put("a", stored())
    with level._access.file.env.begin(db=level._access.file.values) as txn:
        overwrite_with = txn.get(b"a")
    level.put("b", stored("b"))
    overwrite(level, b"b", overwrite_with)
    assert level.get("b") is None
    assert level.codec.stats().unreadable == {"checksum": 1}


def test_unreadable_keys_go_with_any_removal(level):
    level.put("a", stored())
    overwrite(level, b"\xffdigest", b"x")
    overwrite(level, b"\x80", b"x")
    assert level.remove_where(lambda key: False) == 2
    assert level.get("a") == stored()


# --- Damage ---


def truncate(data):
    with data.open("r+b") as file:
        file.truncate(40_000)


def empty(data):
    data.write_bytes(b"")


def rubbish(data):
    data.write_bytes(random.Random(0).randbytes(LEAST_BYTES))


def zeros(data):
    data.write_bytes(bytes(LEAST_BYTES))


@pytest.mark.parametrize("harm", [truncate, empty, rubbish, zeros])
def test_a_damaged_file_is_moved_aside(make, tmp_path, caplog, harm):
    level = make()
    for number in range(500):
        level.put(f"k{number}", stored(number))
    level.close()
    harm(tmp_path / "cache" / "data.mdb")
    for _ in range(2):
        level = make()
        assert level.get("k1") is None
        level.put("a", stored())
        assert level.get("a") == stored()
    assert (tmp_path / "cache" / "data.mdb.damaged").exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("made_by", ["format 0", None])
def test_a_file_of_another_boot_or_setting_is_not_used(make, tmp_path, caplog, made_by):
    make().put("a", stored())
    note = tmp_path / "cache" / "made_by"
    if made_by is None:
        note.unlink()
    else:
        note.write_text(made_by)
    assert make().get("a") is None
    make().put("a", stored())
    assert make(max_bytes=2 * LEAST_BYTES).get("a") is None
    assert not caplog.records


class Broken:
    """An environment in which LMDB finds a damaged page."""

    def begin(self, **_):
        raise lmdb.CorruptedError("damaged")


def test_damage_that_shows_itself_late_begins_the_file_anew(level, tmp_path, caplog):
    level.put("a", stored())
    env, level._access.file.env = level._access.file.env, Broken()
    with pytest.raises(LevelUnavailable):
        level.get("a")
    assert level.get("a") is None
    level.put("a", stored())
    assert level.get("a") == stored()
    assert (tmp_path / "cache" / "data.mdb.damaged").exists()
    assert len(caplog.records) == 1
    env.close()


@pytest.mark.parametrize("call", ["get", "remove", "stats", "clear"])
def test_lmdbs_errors_are_the_levels(level, call):
    level.put("a", stored())
    env, level._access.file.env = level._access.file.env, Broken()
    with pytest.raises(LevelUnavailable):
        getattr(level, call)(*(["a"] if call in {"get", "remove"} else []))
    env.close()


def test_a_place_that_cannot_be_used_is_not_tried_at_every_request(tmp_path, caplog, clock):
    blocker = tmp_path / "cache"
    blocker.write_text("in the way")
    monotonic = FakeClock(0.0)
    level = EmbeddedLevel(blocker, Codec(Ranking), clock=clock, monotonic=monotonic)
    for _ in range(2):
        with pytest.raises(LevelUnavailable):
            level.get("a")
    blocker.unlink()
    with pytest.raises(LevelUnavailable, match="a moment ago"):
        level.put("a", stored())
    monotonic.advance(5.0)
    level.put("a", stored())
    assert level.get("a") == stored()
    assert len(caplog.records) == 1
    level.close()


def test_a_closed_level_opens_again(level):
    level.put("a", stored())
    level.close()
    level.close()
    assert level.get("a") == stored()


# --- Several processes ---


def test_what_one_process_stores_another_finds(level, tmp_path):
    level.put("a", stored("here"))
    output = elsewhere(
        tmp_path,
        """
        assert level.get("a") == stored("here")
        level.put("b", stored("there"))
        level.remove("a")
        say(level.stats().entries)
        """,
    )
    assert output.split() == ["1"]
    assert level.get("b") == stored("there")
    assert level.get("a") is None


def test_clearing_reaches_all_processes(level, tmp_path):
    process = elsewhere(
        tmp_path,
        """
        level.put("a", stored())
        say("stored")
        sys.stdin.readline()
        assert level.get("a") is None
        """,
        wait=False,
    )
    assert process.stdout.readline() == "stored\n"
    assert level.clear() == 1
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("turn", range(3))
def test_killing_a_writer_leaves_the_file_whole(level, tmp_path, turn):
    process = elsewhere(
        tmp_path,
        """
        for number in range(10**9):
            level.put(f"k{number % 1000}", noise(number, 2000))
            if number % 100 == 0:
                say(number)
        """,
        wait=False,
    )
    for _ in range(3 + 4 * turn):
        assert process.stdout.readline()
    killed(process)
    found = [level.get(f"k{number}") for number in range(200)]
    assert all(value is not None for value in found)
    assert level.codec.stats().unreadable == {}
    level.put("a", stored())
    assert level.get("a") == stored()
    level.close()
    assert verify(tmp_path / "cache") == []  # every page, key and free list, by LMDB's own rules
    assert level.stats().entries == level.remove_where(lambda _: True)


def test_killing_a_writer_within_its_transaction_undoes_it(level, tmp_path):
    level.put("a", stored("before"))
    process = elsewhere(
        tmp_path,
        """
        with level._access.write(1.0) as file:
            txn = file.env.begin(write=True)
            for number in range(1000):
                file.store(txn, b"k%d" % number, 2e6, b"x" * 3000)
            file.remove(txn, b"a")
            say("within")
            sys.stdin.readline()
        """,
        wait=False,
    )
    assert process.stdout.readline() == "within\n"
    assert level.get("a") == stored("before")
    killed(process)
    level.put("b", stored())
    assert level.get("a") == stored("before")
    assert level.stats().entries == 2


def test_a_stopped_writer_stops_nobody(level, tmp_path):
    process = elsewhere(
        tmp_path,
        """
        with level._access.write(1.0):
            say("within")
            sys.stdin.readline()
        """,
        wait=False,
    )
    level.put("a", stored())
    assert process.stdout.readline() == "within\n"
    with pytest.raises(LevelUnavailable, match="another process"):
        level.put("a", stored("new"))
    assert level.get("a") == stored()
    process.communicate("\n", timeout=60)
    level.put("a", stored("new"))
    assert level.get("a") == stored("new")


def test_dead_readers_do_not_fill_the_table(make, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_file, "_READERS", 30)
    level = make()
    level.put("a", stored())
    for fresh in (False, True):
        process = elsewhere(
            tmp_path,
            """
            level.get("a")
            held = []
            try:
                while True:
                    held.append(level._access.file.env.begin())
            except lmdb.ReadersFullError:
                say(len(held))
            sys.stdin.readline()
            """,
            wait=False,
        )
        assert int(process.stdout.readline()) > 20
        if fresh:
            level.close()
        killed(process)
        assert level.get("a") == stored()


def test_a_forked_child_opens_its_own(tmp_path):
    output = elsewhere(
        tmp_path,
        """
        level.put("a", stored())
        assert level.get("a") == stored()
        inherited = id(level._access.file)
        child = os.fork()
        if child == 0:
            assert level._access.file is None
            assert level.get("a") == stored()
            level.put("b", stored("child"))
            level.close()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert id(level._access.file) == inherited
        assert level.get("b") == stored("child")
        level.put("c", stored())
        say("done")
        """,
    )
    assert output == "done\n"


def test_threads_share_a_level(level):
    failures = []

    def work(seed):
        rng = random.Random(seed)
        try:
            for _ in range(300):
                key = f"k{rng.randrange(20)}"
                level.put(key, stored(key))
                found = level.get(key)
                assert found is None or found == stored(key)
                if rng.random() < 0.1:
                    level.remove(key)
        except (AssertionError, LevelUnavailable) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [each for each in failures if not isinstance(each, LevelUnavailable)]
    assert level.stats().insertions > 300


@pytest.mark.contract("C2")
def test_a_promotion_keeps_the_absolute_expiry(level, clock):
    levels = Levels([MemoryLevel(SIEVE, capacity=10, clock=clock), level], clock=clock)
    levels.store("a", ranking(), ttl=60)
    levels._levels[0].clear()
    clock.advance(50)
    first, second = levels.find("a"), levels.find("a")
    assert (first.level, second.level) == ("l2", "l1")
    assert first.expires == second.expires == 1_000_060.0
    clock.advance(10)
    assert levels.find("a") is None
