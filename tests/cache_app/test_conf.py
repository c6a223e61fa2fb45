"""The settings of the cache, their check, and the wiring."""

import os
import subprocess
import sys
from random import Random

import pytest
from django.core.exceptions import ImproperlyConfigured

from cache_app import wiring
from cache_app.checks import check_settings
from cache_app.conf import (
    CacheSettings,
    ClusterSettings,
    EmbeddedSettings,
    RedisSettings,
    RingSettings,
    SentinelSettings,
    cache_settings,
)
from cache_app.core.breaker import GuardedLevel
from cache_app.core.codec import Codec
from cache_app.core.freshness import Freshness
from cache_app.core.levels import Stored
from cache_app.core.tiers import TierRule, Tiers
from cache_app.embedded_level import EmbeddedLevel
from cache_app.redis_access import Access
from cache_app.redis_cluster import ClusterNodes
from cache_app.redis_ring import RingNodes
from cache_app.redis_servers import SentinelMaster
from serving_app.core.ranking import Ranking
from tests.journeys.conftest import ROOT

pytestmark = pytest.mark.contract("C3")


def test_everything_has_a_default(settings):
    settings.RECSERVE = {}
    assert cache_settings() == CacheSettings()
    del settings.RECSERVE
    assert cache_settings() == CacheSettings()


def test_everything_can_be_set(settings):
    settings.RECSERVE = {
        "CACHE": {
            "NAMESPACE": "shop",
            "TTL": 60,
            "JITTER": 0,
            "EARLY": 2.5,
            "STALE_WHILE_REVALIDATE": 5,
            "STALE_IF_ERROR": 90,
            "NEGATIVE_TTL": 15,
            "L1": {"CAPACITY": 5, "POLICY": "lru", "OPTIONS": {"a": 1}},
        }
    }
    found = cache_settings()
    assert found == CacheSettings(
        namespace="shop",
        ttl=60.0,
        jitter=0.0,
        early=2.5,
        stale_while_revalidate=5.0,
        stale_if_error=90.0,
        negative_ttl=15.0,
        l1_capacity=5,
        l1_policy="lru",
        l1_options={"a": 1},
    )
    assert found.freshness == Freshness(60.0, 0.0, 2.5, 5.0, 90.0)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"TTl": 1}, r"has no key 'TTl'\. Did you mean 'TTL'\? Its keys: NAMESPACE, TTL, JITTER"),
        ({"L1": {"CAPACTY": 1}}, r"\[\"L1\"\] has no key 'CAPACTY'\. Did you mean 'CAPACITY'\?"),
        ({"L1": 5}, r"\[\"L1\"\] must be a dict"),
        ({"COHERENCE": "eventual"}, r'\["COHERENCE"\] must be "strict" or "bounded", not'),
        ([], "must be a dict"),
        ({"NAMESPACE": ""}, r"\[\"NAMESPACE\"\] must be a text"),
        ({"TTL": 0}, r"\[\"TTL\"\] must be a positive number"),
        ({"TTL": float("nan")}, r"\[\"TTL\"\] must be a positive number"),
        ({"EPOCH_FILE": 5}, r"\[\"EPOCH_FILE\"\] must be a path, not 5"),
        ({"JITTER": 1.5}, r"\['JITTER'\] must be 0 or more, at most 1"),
        ({"EARLY": -1}, r"\['EARLY'\] must be 0 or more"),
        ({"STALE_IF_ERROR": float("inf")}, r"must be 0 or more, not inf"),
        ({"NAMESPACE": "n" * 201}, r'"NAMESPACE"\] must have 200 characters at most'),
        ({"NEGATIVE_TTL": 301}, r"\['NEGATIVE_TTL'\] must be 0 or more, at most 300"),
        ({"STALE_WHILE_REVALIDATE": "5"}, r"must be 0 or more, not '5'"),
        ({"TTL": True}, r"\[\"TTL\"\] must be a positive number"),
        ({"L1": {"CAPACITY": 1.5}}, r"\[\"CAPACITY\"\] must be a positive whole number"),
        ({"L1": {"CAPACITY": 0}}, r"\[\"CAPACITY\"\] must be a positive whole number"),
        ({"L1": {"MAX_BYTES": 0}}, r"\[\"L1\"\]\[\"MAX_BYTES\"\] must be a positive whole number"),
        ({"L1": {"MAX_BYTES": "1M"}}, r"\[\"MAX_BYTES\"\] must be a positive whole number"),
        (
            {"L1": {"CAPACITY": 5, "MAX_BYTES": 10_000}},
            r"\[\"L1\"\] has both CAPACITY \(entries\) and MAX_BYTES; give only one of them\.",
        ),
        ({"L1": {"POLICY": None}}, r"\[\"POLICY\"\] must be a text"),
        ({"L1": {"OPTIONS": [1]}}, r"\[\"OPTIONS\"\] must be a dict"),
        ({"L2": {"BACKND": None}}, r"Did you mean 'BACKEND'\?"),
        (
            {"L2": {"BACKEND": "rediss"}},
            r"\[\"BACKEND\"\] must be \"embedded\", \"redis\" or None, not 'rediss'",
        ),
        ({"L2": {"BACKEND": "redis"}}, r"\[\"L2\"\]\[\"URL\"\] must be a URL: redis://"),
        ({"L2": {"BACKEND": "redis", "URL": 6379}}, r"must be a URL"),
        ({"L2": {"BACKEND": "redis", "URL": "http://x"}}, r"must be a URL"),
        ({"L2": {"BACKEND": "redis", "URL": "redis://x:y/0"}}, r"must be a URL"),
        (
            {"L2": {"BACKEND": "redis", "PATH": "x"}},
            r"no key 'PATH'\.[^.]* Its keys: BACKEND, U",
        ),
        (
            {"L2": {"BACKEND": "redis", "URL": "redis://x", "TIMEOUT": 0}},
            r"\[\"TIMEOUT\"\] must be a positive number",
        ),
        ({"L3": {"BACKEND": "redis"}}, r"\"sentinel\", \"cluster\", \"ring\" or None, not 'redis'"),
        ({"L3": {"BACKEND": "cluster"}}, r"\[\"NODES\"\] must be a list of texts \"host:port\""),
        ({"L3": {"BACKEND": "cluster", "NODES": "a:1"}}, r"must be a list of texts"),
        ({"L3": {"BACKEND": "cluster", "NODES": []}}, r"must be a list of texts"),
        ({"L3": {"BACKEND": "cluster", "NODES": ["a:1", "b"]}}, r"\"host:port\", not 'b'"),
        ({"L3": {"BACKEND": "cluster", "NODES": ["a:x"]}}, r"\"host:port\", not 'a:x'"),
        ({"L3": {"BACKEND": "cluster", "NODES": ["redis://a:1"]}}, r"\"host:port\", not 'redis"),
        ({"L3": {"BACKEND": "cluster", "NODES": ["a:1"], "SERVICE": "m"}}, r"no key 'SERVICE'"),
        ({"L3": {"BACKEND": "sentinel", "SENTINELS": ["a:1"]}}, r"\[\"SERVICE\"\] must be a text"),
        (
            {"L3": {"BACKEND": "cluster", "NODES": ["a:1"], "PASSWORD": 5}},
            r"\[\"PASSWORD\"\] must be a text that is not empty\.$",
        ),
        (
            {"L3": {"BACKEND": "ring"}},
            r"\[\"NODES\"\] must be a list of URLs, or a dict of URLs and weights",
        ),
        ({"L3": {"BACKEND": "ring", "NODES": {}}}, r"must be a list of URLs"),
        ({"L3": {"BACKEND": "ring", "NODES": "redis://a"}}, r"must be a list of URLs"),
        (
            {"L3": {"BACKEND": "ring", "NODES": ["redis://a", "http://me:secret@b"]}},
            r"\[\"NODES\"\], number 2, must be a URL: redis://host:port/number, [^@]*$",
        ),
        ({"L3": {"BACKEND": "ring", "NODES": [{"a": 1}]}}, r"number 1, must be a URL"),
        (
            {"L3": {"BACKEND": "ring", "NODES": ["redis://a", "redis://:secret@a:6379/0"]}},
            r"\[\"NODES\"\] must name a:6379/0 only once",
        ),
        (
            {"L3": {"BACKEND": "ring", "NODES": {"redis://:secret@a": 0}}},
            r"the weight of a:6379/0 must be a positive number, not 0",
        ),
        (
            {"L3": {"BACKEND": "ring", "NODES": {"redis://a": 11}}},
            r"the weight of a:6379/0 must be at most 10, not 11",
        ),
        (
            {"L3": {"BACKEND": "ring", "NODES": ["redis://a"], "REPLICAS": 2}},
            r"\[\"REPLICAS\"\] must be 1 at most, the number of nodes, not 2",
        ),
        (
            {"L3": {"BACKEND": "ring", "NODES": ["redis://a"], "REPLICAS": 0}},
            r"\[\"REPLICAS\"\] must be a positive whole number",
        ),
        (
            {"L3": {"BACKEND": "ring", "NODES": ["redis://a"], "PASSWORD": "x"}},
            r"no key 'PASSWORD'",
        ),
        ({"L2": {"BACKEND": "embedded"}}, r"\[\"PATH\"\] must be a path, not None"),
        (
            {"L2": {"BACKEND": "embedded", "PATH": "x", "MAX_BYTES": 1_000_000}},
            r"\[\"MAX_BYTES\"\] must be 16777216 \(16 MiB\) at least, not 1000000",
        ),
        (
            {"L2": {"BACKEND": "embedded", "PATH": "x", "COMPRESS_ABOVE": 0}},
            r"\[\"COMPRESS_ABOVE\"\] must be a positive whole number",
        ),
    ],
)
def test_a_wrong_setting_is_named(settings, cache, message):
    settings.RECSERVE = {"CACHE": cache}
    with pytest.raises(ImproperlyConfigured, match=message):
        cache_settings()
    assert [error.id for error in check_settings()] == ["cache_app.E001"]


def test_a_policy_that_does_not_exist_is_found_by_the_check(settings):
    settings.RECSERVE = {"CACHE": {"L1": {"POLICY": "seive"}}}
    (error,) = check_settings()
    assert error.id == "cache_app.E002"
    assert "Did you mean 'sieve'?" in error.msg
    settings.RECSERVE = {"CACHE": {"L1": {"OPTIONS": {"a": 1}}}}
    assert [error.id for error in check_settings()] == ["cache_app.E002"]
    settings.RECSERVE = {}
    assert check_settings() == []


def test_settings_become_one_cache(settings):
    settings.RECSERVE = {"CACHE": {"L1": {"CAPACITY": 2, "POLICY": "lru"}}}
    wiring.reset()
    try:
        levels = wiring.get_levels()
        assert wiring.get_levels() is levels
        for key in "abc":
            levels.store(key, key, ttl=60)
        assert levels.find("a") is None
        assert levels.find("c").value == "c"
        assert levels.stats()["l1"].capacity == 2
    finally:
        wiring.reset()


def test_the_capacity_of_l1_is_in_entries_or_in_bytes(settings):
    settings.RECSERVE = {"CACHE": {"L1": {"MAX_BYTES": 10_000}}}
    assert cache_settings() == CacheSettings(l1_max_bytes=10_000)
    settings.RECSERVE = {"CACHE": {"L1": {"CAPACITY": 5, "MAX_BYTES": None}}}
    assert cache_settings() == CacheSettings(l1_capacity=5)


@pytest.mark.parametrize("policy", ["sieve", "gdsf", "w_tinylfu"])
def test_l1_never_weighs_more_than_its_bytes(settings, policy):
    max_bytes = 20_000
    settings.RECSERVE = {"CACHE": {"L1": {"MAX_BYTES": max_bytes, "POLICY": policy}}}
    wiring.reset()
    try:
        levels = wiring.get_levels()
        (level,) = levels._levels
        rng = Random(0)
        for _ in range(500):
            n = rng.choice((0, 1, 10, 100, 300))
            ranking = Ranking(
                tuple(f"item-{item}" for item in range(n)),
                tuple(rng.random() for _ in range(n)),
                True,
            )
            key = f"user {rng.randrange(100)}"
            levels.store(key, ranking, ttl=60, stale=rng.choice((0.0, 60.0)))
            levels.find(f"user {rng.randrange(100)}")
            if n == 100:
                # What the level counts is what the codec writes, and the fixed part.
                entry = level.peek(key)
                if entry is not None:
                    payload = Codec(Ranking).payload(Stored(entry.value, 0.0, 0.0))
                    assert entry.weight == len(payload) + wiring._ENTRY_BYTES
            stats = levels.stats()["l1"]
            assert 0 < stats.weight <= max_bytes
            level.check()
        assert stats.capacity == max_bytes
        assert stats.evictions > 100
        assert stats.entries > 3
        n = 5_000
        levels.store("huge", Ranking(("x",) * n, (0.1,) * n, True), ttl=60)
        assert levels.find("huge") is None
        assert levels.stats()["l1"].rejected == 1
    finally:
        wiring.reset()


@pytest.mark.contract("C1")
def test_the_embedded_level_is_configured(settings, tmp_path):
    l2 = {"BACKEND": "embedded", "PATH": str(tmp_path)}
    settings.RECSERVE = {"CACHE": {"L2": l2}}
    assert cache_settings().l2 == EmbeddedSettings(tmp_path, 268_435_456, 512)
    settings.RECSERVE = {"CACHE": {"L2": {**l2, "MAX_BYTES": 2**25, "COMPRESS_ABOVE": 1}}}
    assert cache_settings().l2 == EmbeddedSettings(tmp_path, 2**25, 1)
    settings.RECSERVE = {"CACHE": {"L2": {**l2, "BACKEND": None}}}
    assert cache_settings().l2 is None


@pytest.mark.contract("C1")
def test_the_levels_are_built_in_order(settings, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    settings.RECSERVE = {"CACHE": {"L2": {"BACKEND": "embedded", "PATH": str(folder)}}}
    wiring.reset()
    try:
        levels = wiring.get_levels()
        assert list(levels.stats()) == ["l1", "l2"]
        assert isinstance(levels._levels[1], EmbeddedLevel)
        levels.store("a", Ranking(("x",), (1.0,), True), ttl=60)
        wiring.reset()
        assert wiring.get_levels().find("a").level == "l2"
        wiring.reset()
        monkeypatch.setattr(wiring, "_value_type", None)
        with pytest.raises(RuntimeError, match="set_value_type"):
            wiring.get_levels()
    finally:
        wiring.reset()


@pytest.mark.contract("C1")
def test_levels_in_redis_are_configured(settings):
    url = "redis://:secret@cache.example:6379/2"
    settings.RECSERVE = {"CACHE": {"L2": {"BACKEND": "redis", "URL": url}}}
    assert cache_settings().l2 == RedisSettings(url, 0.05, 512)
    assert "secret" not in repr(cache_settings())
    cluster = {"BACKEND": "cluster", "NODES": ["a:7000", "[::1]:7001"], "TIMEOUT": 1}
    settings.RECSERVE = {"CACHE": {"L3": {**cluster, "PASSWORD": "secret"}}}
    assert cache_settings().l3 == ClusterSettings(
        (("a", 7000), ("::1", 7001)), access=Access(password="secret"), timeout=1.0
    )
    assert "secret" not in repr(cache_settings())
    sentinel = {"BACKEND": "sentinel", "SENTINELS": ["a:26379"], "SERVICE": "mymaster"}
    settings.RECSERVE = {"CACHE": {"L3": {**sentinel, "DB": 3, "COMPRESS_ABOVE": 9}}}
    assert cache_settings().l3 == SentinelSettings(
        (("a", 26379),), "mymaster", access=Access(db=3), compress_above=9
    )
    ring = {"BACKEND": "ring", "NODES": [url, "redis://b"]}
    settings.RECSERVE = {"CACHE": {"L3": ring}}
    assert cache_settings().l3 == RingSettings({url: 1.0, "redis://b": 1.0})
    assert "secret" not in repr(cache_settings())
    ring = {**ring, "NODES": {url: 2, "redis://b": 0.5}, "REPLICAS": 2, "TIMEOUT": 1}
    settings.RECSERVE = {"CACHE": {"L3": {**ring, "COMPRESS_ABOVE": 9}}}
    assert cache_settings().l3 == RingSettings({url: 2.0, "redis://b": 0.5}, 2, 1.0, 9)
    settings.RECSERVE = {"CACHE": {"L2": {"URL": url}, "L3": {**sentinel, "BACKEND": None}}}
    assert (cache_settings().l2, cache_settings().l3) == (None, None)


@pytest.mark.contract("C12")
@pytest.mark.parametrize(
    ("l3", "servers"),
    [
        ({"BACKEND": "cluster", "NODES": ["127.0.0.1:1"]}, ClusterNodes),
        (
            {"BACKEND": "sentinel", "SENTINELS": ["127.0.0.1:1"], "SERVICE": "mymaster"},
            SentinelMaster,
        ),
    ],
)
def test_levels_in_redis_are_behind_breakers(settings, l3, servers):
    # Nobody listens there: the cache works all the same.
    l2 = {"BACKEND": "redis", "URL": "redis://127.0.0.1:1/0"}
    settings.RECSERVE = {"CACHE": {"L2": l2, "L3": l3}}
    wiring.reset()
    try:
        levels = wiring.get_levels()
        _, second, third = levels._levels
        assert isinstance(second, GuardedLevel)
        assert isinstance(third, GuardedLevel)
        assert isinstance(third.level._servers, servers)
        for _ in range(6):
            levels.store("a", Ranking(("x",), (1.0,), True), ttl=60)
        assert levels.find("a").level == "l1"
        stats = levels.stats()
        assert list(stats) == ["l1", "l2", "l3"]
        assert (stats["l2"].state, stats["l3"].state) == ("open", "open")
        assert (stats["l2"].errors, stats["l3"].errors) == (6, 6)
    finally:
        wiring.reset()


@pytest.mark.contract("C13")
def test_a_ring_has_a_breaker_for_each_node(settings):
    urls = {"redis://127.0.0.1:1/0": 1, "redis://127.0.0.1:1/1": 2.5}  # nobody listens there
    l3 = {"BACKEND": "ring", "NODES": urls, "REPLICAS": 2}
    settings.RECSERVE = {"CACHE": {"L3": l3}}
    wiring.reset()
    try:
        levels = wiring.get_levels()
        _, guarded = levels._levels
        assert isinstance(guarded, GuardedLevel)
        nodes = guarded.level._servers
        assert isinstance(nodes, RingNodes)
        assert nodes._ring.weights == {"127.0.0.1:1/0": 1.0, "127.0.0.1:1/1": 2.5}
        for _ in range(6):
            levels.store("a", Ranking(("x",), (1.0,), True), ttl=60)
        assert levels.find("a").level == "l1"
        assert levels.stats()["l3"].errors == 6
        assert [node.breaker.state for node in nodes._nodes.values()] == ["open", "open"]
    finally:
        wiring.reset()


def test_an_environment_variable_puts_l2_into_redis():
    code = (
        "import django; django.setup(); from cache_app.conf import cache_settings;"
        "from django.conf import settings; print(cache_settings().l2.url,"
        "settings.RECSERVE['CACHE']['L2'])"
    )
    url = "redis://cache.example:6379/0"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "RECSERVE_REDIS_URL": url,
            "DJANGO_SETTINGS_MODULE": "recserve_project.settings",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown == f"{url} { {'BACKEND': 'redis', 'ALIAS': 'default'} }\n"


def test_nothing_is_opened_before_the_first_use(settings, tmp_path):
    folder = tmp_path / "cache"
    settings.RECSERVE = {"CACHE": {"L2": {"BACKEND": "embedded", "PATH": str(folder)}}}
    wiring.reset()
    try:
        wiring.get_levels()
        assert not folder.exists()  # a server may fork yet
    finally:
        wiring.reset()


def test_an_installation_has_the_embedded_level():
    from recserve_project.settings import RECSERVE, VAR

    assert RECSERVE["CACHE"]["L2"] == {"BACKEND": "embedded", "PATH": str(VAR / "cache")}


@pytest.mark.contract("C2")
def test_the_tiers_are_configured(settings):
    assert cache_settings().tiers == Tiers()
    settings.RECSERVE = {
        "CACHE": {
            "TIERS": {
                "HOT_USES": 3,
                "COOL_AFTER": 60,
                "HOT": {"TTL": 2.0},
                "COLD": {"LEVELS": ["l2", "l3"]},
                "WARM": {"LEVELS": None},
            }
        }
    }
    assert cache_settings().tiers == Tiers(
        hot_uses=3,
        cool_after=60.0,
        hot=TierRule(2.0),
        cold=TierRule(0.5, frozenset({"l2", "l3"})),
    )


@pytest.mark.contract("C3")
def test_admission_filters_are_configured(settings):
    given = ["doorkeeper", {"NAME": "size_limit", "OPTIONS": {"max_bytes": 60}}]
    settings.RECSERVE = {"CACHE": {"L1": {"ADMISSION": given}}}
    assert cache_settings().l1_admission == (
        ("doorkeeper", {}),
        ("size_limit", {"max_bytes": 60}),
    )
    assert check_settings() == []
    wiring.reset()
    try:
        levels = wiring.get_levels()
        long = Ranking(tuple(f"item-{n}" for n in range(50)), (1.0,) * 50, True)
        for name, ranking in (("short", Ranking(("x",), (1.0,), True)), ("long", long)):
            for _ in range(3):
                levels.store(name, ranking, ttl=60)
        assert levels.find("short").level == "l1"
        assert levels.find("long") is None
        assert levels.stats()["l1"].rejected == 1 + 3
    finally:
        wiring.reset()


@pytest.mark.contract("C3")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("doorkeeper", "ADMISSION.* must be a list"),
        ([3], "number 1 must be a dict"),
        ([{"OPTIONS": {}}], "number 1.*NAME.* must be a text"),
        (["doorkeeper", {"NAME": "x", "OPTS": 1}], "number 2 has no key 'OPTS'"),
        ([{"NAME": "doorkeeper", "OPTIONS": 3}], "OPTIONS.* must be a dict"),
    ],
)
def test_wrong_admission_filters_are_refused(settings, given, message):
    settings.RECSERVE = {"CACHE": {"L1": {"ADMISSION": given}}}
    with pytest.raises(ImproperlyConfigured, match=message):
        cache_settings()


@pytest.mark.contract("C3")
@pytest.mark.parametrize("given", ["dorkeeper", {"NAME": "doorkeeper", "OPTIONS": {"ask": 2}}])
def test_an_unknown_admission_filter_or_option_is_told(settings, given):
    settings.RECSERVE = {"CACHE": {"L1": {"ADMISSION": [given]}}}
    (error,) = check_settings()
    assert "Did you mean" in error.msg
    assert error.id == "cache_app.E002"


REDIS = {"BACKEND": "redis", "URL": "redis://127.0.0.1:6379/0"}


@pytest.mark.contract("C2")
@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"TIERS": {"TEPID": {}}}, "no key 'TEPID'"),
        ({"TIERS": {"HOT_USES": 0}}, "HOT_USES.* must be a positive whole number"),
        ({"TIERS": {"COOL_AFTER": -1}}, "COOL_AFTER.* must be a positive number"),
        ({"TIERS": {"HOT": {"TTL": 0}}}, "HOT.*TTL.* must be a positive number"),
        ({"TIERS": {"HOT": {"LEVELS": []}}}, "must be None .all. or a list of some of"),
        ({"TIERS": {"HOT": {"LEVELS": ["l4"]}}}, "must be None .all. or a list of some of"),
        ({"TIERS": {"HOT": {"LEVELS": [["l1"]]}}}, "must be None .all. or a list of some of"),
        ({"TIERS": {"HOT": {"LEVELS": "l1"}}}, "must be None .all. or a list of some of"),
        ({"L2": REDIS, "TIERS": {"COLD": {"LEVELS": ["l3"]}}}, 'COLD.*must have "l2"'),
    ],
)
def test_wrong_tiers_are_refused(settings, cache, message):
    settings.RECSERVE = {"CACHE": cache}
    with pytest.raises(ImproperlyConfigured, match=message):
        cache_settings()


@pytest.mark.contract("C2")
def test_what_cools_leaves_l1_only_if_a_level_below_has_it(settings, tmp_path):
    l2 = {"BACKEND": "embedded", "PATH": str(tmp_path)}
    for below, kept in (({}, {"hot", "warm", "cold"}), ({"L2": l2}, {"hot", "warm"})):
        settings.RECSERVE = {"CACHE": below}
        wiring.reset()
        try:
            levels = wiring.get_levels()
            assert levels._levels[0]._rest.level._keeps == kept
            ranking = Ranking(("x",), (1.0,), True)
            levels.store("a", ranking, ttl=60)
            size = levels._levels[0].describe("a").size
            assert size == len(Codec(Ranking).payload(Stored(ranking, 0.0, 0.0)))
        finally:
            wiring.reset()
