"""The settings of the cache, their check, and the wiring."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from cache_app import wiring
from cache_app.checks import check_settings
from cache_app.conf import CacheSettings, cache_settings

pytestmark = pytest.mark.contract("C3")


def test_everything_has_a_default(settings):
    settings.RECSERVE = {}
    assert cache_settings() == CacheSettings("recserve", 300.0, 100_000, "sieve", {})
    del settings.RECSERVE
    assert cache_settings() == CacheSettings()


def test_everything_can_be_set(settings):
    settings.RECSERVE = {
        "CACHE": {
            "NAMESPACE": "shop",
            "TTL": 60,
            "L1": {"CAPACITY": 5, "POLICY": "lru", "OPTIONS": {"a": 1}},
        }
    }
    assert cache_settings() == CacheSettings("shop", 60.0, 5, "lru", {"a": 1})


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"TTl": 1}, r"has no key 'TTl'\. Did you mean 'TTL'\? Its keys: NAMESPACE, TTL, L1\."),
        ({"L1": {"CAPACTY": 1}}, r"\[\"L1\"\] has no key 'CAPACTY'\. Did you mean 'CAPACITY'\?"),
        ({"L1": 5}, r"\[\"L1\"\] must be a dict"),
        ([], "must be a dict"),
        ({"NAMESPACE": ""}, r"\[\"NAMESPACE\"\] must be a text"),
        ({"TTL": 0}, r"\[\"TTL\"\] must be a positive number"),
        ({"TTL": float("nan")}, r"\[\"TTL\"\] must be a positive number"),
        ({"TTL": True}, r"\[\"TTL\"\] must be a positive number"),
        ({"L1": {"CAPACITY": 1.5}}, r"\[\"CAPACITY\"\] must be a positive whole number"),
        ({"L1": {"CAPACITY": 0}}, r"\[\"CAPACITY\"\] must be a positive whole number"),
        ({"L1": {"POLICY": None}}, r"\[\"POLICY\"\] must be a text"),
        ({"L1": {"OPTIONS": [1]}}, r"\[\"OPTIONS\"\] must be a dict"),
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
