"""Compression dictionaries: trained on cached answers, kept as rows, read by every process."""

import hashlib
import itertools
import json
import subprocess
import sys
import time
from datetime import timedelta

import numpy as np
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.utils import timezone

from cache_app import dictionaries, embedded_level, models, wiring
from cache_app.conf import cache_settings
from cache_app.core.codec import Codec
from cache_app.core.levels import Stored
from cache_app.dictionaries import Trained, Trainer, compression, store, train, train_in_turn
from cache_app.models import CompressionDictionary, DictionaryTraining
from plugins.errors import LevelUnavailable
from serving_app import wiring as serving_wiring
from serving_app.core.ranking import Ranking
from tests import servers
from tests.fakes import FakeClock
from tests.journeys.conftest import ROOT

pytestmark = [pytest.mark.django_db, pytest.mark.contract("C6")]


NAMESPACE = "recserve"


def answer(seed, depth=50, *, catalogue=str):
    """Return a ranking of popular items, as users share them."""
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(depth, dtype=np.float32))[::-1]
    items = 20_000 + rng.zipf(1.2, depth) % 3_000 * 7
    now = 1_764_000_000.0 + seed
    ranking = Ranking(tuple(catalogue(item) for item in items), tuple(scores.tolist()), False)
    return Stored(ranking, now, now + 300.0)


def renamed(item):
    """Return the id of an item in another catalogue."""
    return hashlib.sha256(str(item).encode()).hexdigest()[:8]


def payloads(n, first=0, **options):
    codec = Codec(Ranking)
    return [codec.payload(answer(seed, **options)) for seed in range(first, first + n)]


def key(n):
    return f"recserve:default:1:all:i{n}:-:-:0"


def fill(n, first=0, **options):
    """Store answers, through all levels."""
    for seed in range(first, first + n):
        value = answer(seed, **options).value
        wiring.get_levels().store(key(seed), value, ttl=300.0)


def age(seconds=61):
    """Let dictionaries be older, and the next look come."""
    wiring.get_levels()
    for row in CompressionDictionary.objects.all():
        row.created -= timedelta(seconds=seconds)
        row.save()
    wiring._next_look = float("-inf")
    wiring.refresh_dictionaries()


def use(settings, **cache):
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": cache}
    wiring.reset()


@pytest.fixture
def cache(settings, tmp_path):
    use(settings, L2={"BACKEND": "embedded", "PATH": str(tmp_path / "cache")})
    yield tmp_path / "cache"
    wiring.reset()


def codec():
    return wiring.codec_stats()["l2"]


# --- Training ---


def test_a_dictionary_makes_answers_smaller_that_it_has_not_seen():
    trained = train(payloads(500))
    assert trained.samples == 400
    assert trained.worthwhile
    unseen = payloads(200, first=10_000)
    assert compression(unseen, trained.data) <= 0.9 * compression(unseen)
    assert compression(unseen, trained.data) == pytest.approx(trained.ratio, rel=0.05)
    assert compression([]) == 1.0


def test_training_is_the_same_for_the_same_answers():
    assert train(payloads(200)) == train(payloads(200))


@pytest.mark.parametrize("samples", [payloads(99), payloads(500, depth=5), payloads(99) * 2, []])
def test_too_few_or_too_short_answers_are_refused(samples):
    with pytest.raises(ValueError, match="are too few to train on; 100 are needed"):
        train(samples)


def test_what_saves_little_is_not_worthwhile():
    assert Trained(b"", 400, ratio=0.57, plain_ratio=0.6).worthwhile
    assert not Trained(b"", 400, ratio=0.58, plain_ratio=0.6).worthwhile
    noise = [np.random.default_rng(n).bytes(500) for n in range(200)]
    assert not train(noise).worthwhile


# --- Rows ---


def test_the_last_four_are_kept_with_ids_from_their_bytes():
    rows = [store(train(payloads(120, first=1000 * n))) for n in range(6)]
    kept = list(CompressionDictionary.objects.values_list("id", flat=True))
    assert kept == [row.id for row in rows[:1:-1]]
    assert all(1 <= number <= 0xFFFF for number in kept)
    again = store(train(payloads(120, first=5000)))
    assert again == rows[-1]
    assert CompressionDictionary.objects.count() == 4
    assert "of 20" in str(again)


def test_an_id_that_is_taken_gives_way_to_the_next(monkeypatch):
    monkeypatch.setattr(dictionaries.zlib, "crc32", lambda _: 0xFFFE)
    first, second = store(train(payloads(120))), store(train(payloads(120, first=1000)))
    assert (first.id, second.id) == (0xFFFF, 1)


def test_a_dictionary_is_written_with_once_every_process_can_read_it():
    row = store(train(payloads(120)))
    assert CompressionDictionary.in_use(NAMESPACE) == ({row.id: row.data}, 0)
    CompressionDictionary.objects.update(created=timezone.now() - models.SPREAD)
    assert CompressionDictionary.in_use(NAMESPACE) == ({row.id: row.data}, row.id)


# --- In use ---


def test_levels_write_with_it_and_the_figures_show_it(cache):
    fill(300)
    before = codec()
    assert before.encoded == 300
    store(train(wiring.sample_payloads(2000)))
    fill(50, first=1000)
    age()
    plain = codec()
    fill(300, first=2000)
    after = codec()
    ratio = (after.stored_bytes - plain.stored_bytes) / (after.raw_bytes - plain.raw_bytes)
    assert ratio <= 0.9 * plain.stored_bytes / plain.raw_bytes
    # The sample of both kinds can be read, and counts as nothing.
    assert len(wiring.sample_payloads(1000)) == 650
    assert codec() == after
    assert len(wiring.sample_payloads(100)) == 100


def test_a_sample_is_of_what_was_stored_last_whatever_its_key(cache, monkeypatch):
    now = time.time()
    l2 = next(iter(wiring.get_levels()._levels[1:]))
    for seed, name in enumerate(("recserve:a", "recserve:" + "é" * 5000, "recserve:b")):
        l2.put(name, Stored(answer(seed).value, now, now + 60 + seed), "miss")
    l2.put("recserve:longer", Stored(answer(3).value, now, now + 600), "miss")
    payload = {
        seed: l2.codec.payload(Stored(answer(seed).value, now, now + 60 + seed))
        for seed in range(3)
    }
    assert wiring.sample_payloads(4)[1:] == [payload[2], payload[1], payload[0]]
    assert wiring.sample_payloads(2)[1:] == [payload[2]]
    monkeypatch.setattr(embedded_level, "_SAMPLED", 1)
    assert len(wiring.sample_payloads(4)) == 1


READ = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
from tests import settings as module

given = json.loads(sys.argv[1])
module.RECSERVE = given["RECSERVE"]
module.DATABASES["default"]["NAME"] = given["database"]
import django
django.setup()
from django.core.management import call_command
from cache_app import wiring
from cache_app.models import CompressionDictionary
if given["data"]:
    call_command("migrate", verbosity=0)
    CompressionDictionary.objects.create(
        id=given["id"], data=bytes.fromhex(given["data"]), samples=100, ratio=0.5
    )
levels = wiring.get_levels()
wiring.refresh_dictionaries()
found = levels.find(given["key"])
print(json.dumps([found and found.value.items[0], wiring.codec_stats()["l2"].unreadable]))
if given["data"]:
    CompressionDictionary.objects.all().delete()
"""


def test_another_process_reads_with_the_row_and_counts_a_miss_without(settings, cache, tmp_path):
    row = store(train(payloads(200)))
    age()
    fill(2)
    given = {
        "RECSERVE": settings.RECSERVE,
        "database": str(tmp_path / "db.sqlite3"),
        "id": row.id,
    }

    def read(n, data):
        command = json.dumps({**given, "key": key(n), "data": data})
        done = subprocess.run(
            [sys.executable, "-c", READ, command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    assert read(0, row.data.hex()) == [answer(0).value.items[0], {}]
    assert read(1, "") == [None, {"dictionary": 1}]


def test_entries_of_a_dictionary_that_is_gone_are_counted_misses(settings, cache):
    store(train(payloads(200)))
    age()
    fill(3)
    CompressionDictionary.objects.all().delete()
    wiring._next_look = float("-inf")
    wiring.refresh_dictionaries()
    l2 = wiring._bytes_levels["l2"]
    assert [l2.get(key(n)) for n in range(3)] == [None] * 3
    assert codec().unreadable == {"dictionary": 3}
    assert l2.stats().entries == 0
    fill(1)
    assert l2.get(key(0)).value == answer(0).value


def test_the_database_is_asked_every_30_seconds_at_most(cache, django_assert_num_queries):
    wiring.get_levels()
    with django_assert_num_queries(1):
        wiring.refresh_dictionaries()
    with django_assert_num_queries(0):
        for _ in range(10):
            wiring.refresh_dictionaries()
    wiring._next_look = time.monotonic()
    with django_assert_num_queries(1):
        wiring.refresh_dictionaries()


def test_without_levels_of_bytes_nothing_is_asked(settings, django_assert_num_queries):
    use(settings)
    with django_assert_num_queries(0):
        wiring.get_levels()
        wiring.refresh_dictionaries()
        Trainer().consider()
    with pytest.raises(LevelUnavailable, match="There is no L2"):
        wiring.sample_payloads(100)
    wiring.reset()


def test_neither_a_database_that_is_away_nor_rubbish_in_it_stops_anything(
    cache, monkeypatch, caplog
):
    store(train(payloads(200)))
    age()
    fill(1)

    def away(namespace):
        raise DatabaseError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(CompressionDictionary, "in_use", away)
        wiring._next_look = float("-inf")
        wiring.refresh_dictionaries()
    CompressionDictionary.objects.create(id=7, data=b"rubbish", samples=1, ratio=0.1)
    age()
    assert "cannot be read: gone" in caplog.text
    assert "cannot be used" in caplog.text
    assert wiring._bytes_levels["l2"].get(key(0)).value == answer(0).value


# --- By itself ---


@pytest.mark.django_db(transaction=True)
def test_a_process_trains_after_a_thousand_insertions_once_an_hour(cache, monkeypatch, caplog):
    monkeypatch.setattr(
        DictionaryTraining, "claim", lambda namespace, every: claims.append(every) or True
    )
    claims = []
    clock = FakeClock()
    trainer = Trainer(clock=clock)
    fill(999)
    trainer.consider()
    assert not claims
    fill(1, first=999)
    trainer.consider()
    trainer.join()
    assert claims == [timedelta(hours=1)]
    assert CompressionDictionary.objects.count() == 1
    fill(1000, first=1000)
    trainer.consider()
    trainer.join()
    assert len(claims) == 1
    clock.advance(3600)
    monkeypatch.setattr(wiring, "sample_payloads", lambda n, since=0.0: [])
    CompressionDictionary.objects.all().delete()
    caplog.set_level("INFO")
    trainer.consider()
    trainer.join()
    assert len(claims) == 2
    assert "too few to train on" in caplog.text


def test_one_process_has_the_turn_each_hour():
    hour = timedelta(hours=1)
    assert DictionaryTraining.claim(NAMESPACE, hour)
    assert not DictionaryTraining.claim(NAMESPACE, hour)
    DictionaryTraining.objects.update(begun=timezone.now() - hour)
    assert DictionaryTraining.claim(NAMESPACE, hour)
    assert str(DictionaryTraining.objects.get()).startswith("20")


def test_a_new_one_is_trained_when_answers_have_become_others(cache):
    def next_hour():
        DictionaryTraining.objects.update(begun=timezone.now() - timedelta(hours=2))
        return train_in_turn()

    fill(500)
    first = next_hour()
    assert first is not None
    assert train_in_turn() is None  # not its turn
    assert next_hour() is None  # as good as it was
    wiring.get_levels().clear()
    fill(500, first=9000, catalogue=renamed)
    second = next_hour()
    assert second is not None
    assert second.id != first.id
    assert CompressionDictionary.objects.first() == second


def less_alike(item):
    """Return, every other time, the id of any item instead of a popular one."""
    number = next(NUMBERS)
    return str(np.random.default_rng(number).integers(10_000, 100_000)) if number % 2 else str(item)


NUMBERS = itertools.count(1)


def test_a_new_one_is_compared_with_the_one_in_use_on_the_same_fresh_answers(cache):
    """Answers that have become harder to compress, for any dictionary, are no reason to rotate."""
    fill(500)
    first = train_in_turn()
    assert first is not None
    fill(500, first=9000, catalogue=less_alike)
    fresh = wiring.sample_payloads(2000, since=first.created.timestamp())
    assert len(fresh) == 500
    assert compression(fresh, first.data) > 1.1 * first.ratio
    trained = train(fresh, first.data)
    assert trained.worthwhile
    assert trained.current_ratio == pytest.approx(compression(fresh, first.data), rel=0.05)
    assert not trained.better
    DictionaryTraining.objects.update(begun=timezone.now() - timedelta(hours=2))
    assert train_in_turn() is None
    assert CompressionDictionary.objects.get() == first


def test_too_few_fresh_answers_judge_nothing(cache):
    fill(500)
    assert train_in_turn() is not None
    fill(99, first=9000, catalogue=renamed)
    DictionaryTraining.objects.update(begun=timezone.now() - timedelta(hours=2))
    assert train_in_turn() is None
    assert CompressionDictionary.objects.count() == 1


def test_namespaces_share_neither_dictionaries_nor_turns_nor_samples(settings, cache):
    fill(300)
    ours = train_in_turn()
    assert ours is not None
    use(settings, **{**settings.RECSERVE["CACHE"], "NAMESPACE": "shop: 2"})
    with pytest.raises(ValueError, match="0 cached answers"):  # its turn, but nothing of its own
        train_in_turn()
    for seed in range(200):
        value = answer(seed, catalogue=renamed).value
        wiring.get_levels().store(f"shop%3A%202:m:1:all:i{seed}:-:-:0", value, ttl=300.0)
    assert len(wiring.sample_payloads(2000)) == 200
    assert len(wiring.sample_payloads(150)) == 150
    rows = [store(train(payloads(120, first=1000 * n, catalogue=renamed))) for n in range(5)]
    assert set(CompressionDictionary.in_use("shop: 2")[0]) == {row.id for row in rows[1:]}
    assert set(CompressionDictionary.in_use(NAMESPACE)[0]) == {ours.id}
    again = store(Trained(bytes(ours.data), 240, ours.ratio, 1.0))
    assert (again.namespace, again.id != ours.id) == ("shop: 2", True)


@pytest.mark.parametrize("trains", [True, False])
def test_the_reconciler_looks_for_dictionaries_and_considers_training(
    settings, cache, fresh, monkeypatch, trains
):
    cache_ = {**settings.RECSERVE["CACHE"], "TRAIN_DICTIONARIES": trains}
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": cache_}
    considered = []
    monkeypatch.setattr(Trainer, "consider", lambda _: considered.append(1))
    row = store(train(payloads(200)))
    reconciler = serving_wiring.get_serving().reconciler
    assert wiring._dictionaries == ({row.id: row.data}, 0)  # before the first look-up
    CompressionDictionary.objects.update(created=timezone.now() - models.SPREAD)
    wiring._next_look = float("-inf")
    reconciler.reconcile()
    assert wiring._dictionaries == ({row.id: row.data}, row.id)
    assert len(considered) == trains


def test_the_switch_takes_nothing_but_true_and_false(settings):
    use(settings, TRAIN_DICTIONARIES=1)
    with pytest.raises(ImproperlyConfigured, match='"TRAIN_DICTIONARIES"] must be True or False'):
        cache_settings()
    use(settings, TRAIN_DICTIONARIES=False)
    assert not cache_settings().train_dictionaries


# --- The command ---


def test_the_command_trains_and_says_what_it_is_worth(cache, capsys):
    fill(200)
    call_command("train_dictionary", "--dry-run")
    assert "this was a dry run" in capsys.readouterr().out
    assert not CompressionDictionary.objects.exists()
    call_command("train_dictionary", "--samples", "150")
    row = CompressionDictionary.objects.get()
    said = capsys.readouterr().out
    assert row.samples == 120
    assert "Training on 150" in said
    assert f"Kept as dictionary {row.id}." in said
    assert f"{row.ratio:.0%} of the bytes are left with the dictionary" in said


def test_the_command_says_when_it_cannot(cache, settings, monkeypatch, capsys):
    fill(99)
    with pytest.raises(CommandError, match="99 cached answers of 128 bytes or more are too few"):
        call_command("train_dictionary")
    with pytest.raises(CommandError, match="--samples must be 100 or more, not 9"):
        call_command("train_dictionary", "--samples", "9")
    noise = [np.random.default_rng(n).bytes(500) for n in range(200)]
    monkeypatch.setattr(wiring, "sample_payloads", lambda n, since=0.0: noise)
    call_command("train_dictionary")
    assert "Not kept: it saves less than 5 %." in capsys.readouterr().out
    alike = payloads(200)
    monkeypatch.setattr(wiring, "sample_payloads", lambda n, since=0.0: alike)
    call_command("train_dictionary")
    call_command("train_dictionary")
    said = capsys.readouterr().out
    assert "Kept as dictionary" in said
    assert "The one in use leaves" in said
    assert "Not kept: the one in use does nearly as well, or better." in said
    monkeypatch.undo()
    use(settings)
    with pytest.raises(CommandError, match="There is no L2 or L3"):
        call_command("train_dictionary")


# --- In the statistics ---


def test_the_statistics_say_what_values_weigh_and_cost(cache, fresh, client_as):
    operator = client_as("operate")
    levels = operator.get("/api/v1/cache/stats").json()["levels"]
    assert "codec" not in levels["l1"]
    assert levels["l2"]["codec"]["ratio"] is levels["l2"]["codec"]["encode_us"] is None
    fill(20)
    wiring._bytes_levels["l2"].get(key(3))
    figures = operator.get("/api/v1/cache/stats").json()["levels"]["l2"]["codec"]
    assert (figures["encoded"], figures["decoded"], figures["unreadable"]) == (20, 1, {})
    assert 0 < figures["stored_bytes"] < figures["raw_bytes"]
    assert figures["ratio"] == pytest.approx(figures["stored_bytes"] / figures["raw_bytes"], 1e-3)
    assert figures["encode_us"] > 0 < figures["decode_us"]


# --- In Redis ---


@pytest.mark.xdist_group("redis")
def test_answers_in_redis_are_sampled_too(settings):
    with servers.one() as server:
        use(settings, L2={"BACKEND": "redis", "URL": server.url, "TIMEOUT": 2.0})
        try:
            fill(150)
            server.client.set("other", "x")
            assert len(wiring.sample_payloads(2000)) == 150
            assert len(wiring.sample_payloads(40)) == 40
            server.client.rpush("rs:rubbish", "x")
            server.client.set("rs:more", "rubbish")
            assert len(wiring.sample_payloads(2000)) >= 150 - 32
        finally:
            wiring.reset()
