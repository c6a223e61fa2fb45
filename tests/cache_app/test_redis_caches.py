"""Django's cache by django-redis, as this project configures it, and a Redis that fails."""

import pickle
import subprocess
import sys

import pytest
from django.core.cache import caches

from cache_app.checks import check_caches
from tests import servers
from tests.journeys.conftest import ROOT, environment

pytestmark = [pytest.mark.contract("C12"), pytest.mark.xdist_group("redis")]

JSON = "django_redis.serializers.json.JSONSerializer"


def configuration(url, **options):
    """Return the project's ``CACHES`` for a URL, as its settings module makes them."""
    return {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": url,
        "KEY_PREFIX": "recserve",
        "OPTIONS": {
            "CLIENT_CLASS": "cache_app.redis_caches.BreakingClient",
            "CONNECTION_FACTORY": "cache_app.redis_caches.BreakingFactory",
            "CONNECTION_POOL_CLASS": "redis.connection.BlockingConnectionPool",
            "CONNECTION_POOL_KWARGS": {"max_connections": 32, "timeout": 0.05},
            "SERIALIZER": JSON,
            "SOCKET_TIMEOUT": 0.05,
            "SOCKET_CONNECT_TIMEOUT": 0.1,
            "IGNORE_EXCEPTIONS": True,
            **options,
        },
    }


@pytest.fixture
def server():
    with servers.one() as server:
        yield server


@pytest.fixture
def cache(server, settings):
    settings.CACHES = {"default": configuration(server.url, SOCKET_TIMEOUT=1.0)}
    return caches["default"]


def breaker(cache):
    return cache.client.get_client()._breaker


def test_the_project_configures_it(server, settings):
    shown = subprocess.run(
        [sys.executable, "-c", "from recserve_project.settings import CACHES; print(CACHES)"],
        cwd=ROOT,
        env={**environment(settings.VAR), "RECSERVE_REDIS_URL": server.url},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown == f"{ {'default': configuration(server.url)} }\n"
    settings.CACHES = {"default": configuration(server.url)}
    assert check_caches() == []


def test_values_are_json_under_a_prefix(cache, server):
    assert cache.set("a", [1.5, "x", None], timeout=60)
    (key,) = server.client.keys()
    assert key == b"recserve:1:a"
    assert server.client.get(key) == b'[1.5, "x", null]'
    assert cache.get("a") == [1.5, "x", None]
    assert cache.get_many(["a", "b"]) == {"a": [1.5, "x", None]}
    assert cache.add("a", 1) is False
    assert cache.set("n", 1)
    assert cache.incr("n", 1) == 2
    with pytest.raises(TypeError):
        cache.set("o", object())


@pytest.mark.parametrize("rubbish", [b"{", b"\xff\xfe", pickle.dumps("x")])
def test_rubbish_is_a_miss_and_goes(cache, server, rubbish):
    cache.set("b", 2)
    server.client.set("recserve:1:a", rubbish)
    assert cache.get_many(["a", "b"]) == {"b": 2}
    assert not server.client.exists("recserve:1:a")
    server.client.set("recserve:1:a", rubbish)
    assert cache.get("a", "nothing") == "nothing"
    assert not server.client.exists("recserve:1:a")


def test_a_redis_that_dies_is_a_miss_and_soon_nobody_waits(cache, server):
    cache.set("a", 1)
    server.kill()
    for _ in range(5):
        assert cache.get("a", "nothing") == "nothing"
    assert breaker(cache).state == "open"
    assert cache.get("a") is None
    assert not cache.set("a", 2)
    assert cache.get_many(["a"]) in (None, {})
    server.start()
    server.wait()
    servers.wait_for(lambda: cache.set("a", 3), what="it is used again")
    assert cache.get("a") == 3
    assert breaker(cache).state == "closed"


def test_a_hung_redis_costs_five_time_outs(server, settings):
    settings.CACHES = {"default": configuration(server.url)}
    cache = caches["default"]
    servers.wait_for(lambda: cache.set("a", 1))
    server.stop()
    for _ in range(5):
        assert cache.get("a") is None
    assert breaker(cache).state in ("open", "half_open")
    server.go_on()
    servers.wait_for(lambda: cache.get("a"), what="it is used again")


def test_connections_that_are_all_in_use_say_nothing_of_the_server(server, settings):
    pool = {"max_connections": 1, "timeout": 0.01}
    settings.CACHES = {"default": configuration(server.url, CONNECTION_POOL_KWARGS=pool)}
    cache = caches["default"]
    servers.wait_for(lambda: cache.set("a", 1))
    connections = cache.client.get_client().connection_pool
    held = connections.get_connection()
    for _ in range(10):
        assert cache.get("a") is None
    assert breaker(cache).state == "closed"
    connections.release(held)
    servers.wait_for(lambda: cache.get("a") == 1)


def test_aliases_of_one_url_keep_their_own_options(server, settings):
    settings.CACHES = {
        "default": configuration(server.url, SOCKET_TIMEOUT=0.3),
        "other": configuration(server.url, SOCKET_TIMEOUT=0.7),
    }
    one, other = (caches[name].client.get_client() for name in ("default", "other"))
    timeouts = [each.connection_pool.connection_kwargs["socket_timeout"] for each in (one, other)]
    assert timeouts == [0.3, 0.7]
    assert one._breaker is not other._breaker
    again = caches["default"].client.connection_factory.connect(server.url)
    assert again._breaker is one._breaker


@pytest.mark.parametrize(
    ("cache", "warned"),
    [
        ({"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}, []),
        (
            {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://a"},
            ["W001", "W002", "W002"],
        ),
        (
            {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://a"},
            ["W001", "W002", "W002"],
        ),
        (configuration("redis://a", SOCKET_TIMEOUT=5), ["W002"]),
        (configuration("redis://a", SERIALIZER="x.y.PickleSerializer"), ["W001"]),
        (
            {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "OPTIONS": {
                    "serializer": "my.JSON",
                    "socket_timeout": 0.1,
                    "socket_connect_timeout": 1,
                },
            },
            [],
        ),
    ],
)
def test_what_is_dangerous_or_slow_is_warned_of(settings, cache, warned):
    settings.CACHES = {"default": cache}
    assert [each.id.removeprefix("cache_app.") for each in check_caches()] == warned
