"""Users, passwords, databases and TLS, against servers that insist on them."""

import contextlib

import pytest
from django.core.exceptions import ImproperlyConfigured

from cache_app import wiring
from cache_app.conf import cache_settings
from cache_app.core.steps import run
from cache_app.redis_access import Access
from plugins.errors import LevelUnavailable
from serving_app.core.ranking import Ranking
from tests import servers
from tests.proxies import certificate, proxy, server_side
from tests.servers import wait_for

pytestmark = [pytest.mark.contract("C1"), pytest.mark.xdist_group("redis")]

RANKING = Ranking(("x",), (1.0,), True)
LOCKED = ("--requirepass", "s3cret")


def add_user(server):
    rights = ("on", ">pa:ss/w@rd", "~rs*", "&rs:*", "+@all")
    server.client.execute_command("ACL", "SETUSER", "recserve", *rights)


@pytest.fixture(scope="module")
def locked():
    """A server that lets in only with a password."""
    with servers.one(*LOCKED, password="s3cret") as server:
        add_user(server)
        yield server


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """Certificates of a server and of a client."""
    folder = tmp_path_factory.mktemp("certificates")
    return {name: certificate(folder, name) for name in ("server", "client", "another")}


@contextlib.contextmanager
def cache(settings, **levels):
    settings.RECSERVE = {**settings.RECSERVE, "CACHE": {"TTL": 60, **levels}}
    wiring.reset()
    try:
        yield wiring.get_levels()
    finally:
        wiring.reset()


def works(levels, name):
    """Store, and see that the level took it and has it."""

    def stored():
        level = next(each for each in levels._levels if each.name == name)
        levels.store("a", RANKING, ttl=60)
        found = level.get("a")
        return found is not None and found.value == RANKING

    return bool(wait_for(stored, what=f"{name} keeps a value"))


def fails(levels, name):
    level = next(each for each in levels._levels if each.name == name)
    with pytest.raises(LevelUnavailable) as caught:
        level.level.get("a")
    return str(caught.value)


def test_a_user_and_a_password_beside_the_url(settings, locked):
    l2 = {"BACKEND": "redis", "URL": locked.url, "TIMEOUT": 1.0}
    with cache(settings, L2={**l2, "USERNAME": "recserve", "PASSWORD": "pa:ss/w@rd"}) as levels:
        assert works(levels, "l2")
        leases = wiring.get_leases()._leases
        lease = run(leases.taking(["b"]))
        assert lease[0].token
        assert run(leases.releasing(lease))
        wiring.start()
        wait_for(lambda: wiring._signals._bus.connected, what="the bus is let in, too")
    with cache(settings, L2=l2) as levels:
        assert (
            "NOAUTH" in fails(levels, "l2").upper()
            or "AUTHENTICATION" in fails(levels, "l2").upper()
        )


def test_what_an_alias_of_caches_says(settings, locked, identities):
    cert, key = identities["server"]
    with proxy(locked.port, server_side(cert, key)) as tls:
        settings.CACHES = {
            **settings.CACHES,
            "shared": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": f"rediss://127.0.0.1:{tls.port}/2",
                "OPTIONS": {
                    "PASSWORD": "s3cret",
                    "CONNECTION_POOL_KWARGS": {"ssl_ca_certs": str(cert), "max_connections": 3},
                    "SOCKET_TIMEOUT": 9,
                },
            },
        }
        l2 = {"BACKEND": "redis", "ALIAS": "shared", "TIMEOUT": 1.0}
        with cache(settings, L2=l2) as levels:
            assert works(levels, "l2")
            pool = levels._levels[1].level._servers._link.client.connection_pool
            assert (pool.max_connections, pool.connection_kwargs["socket_timeout"]) == (32, 1.0)
            assert tls.connections
        assert locked.client.info("keyspace")["db2"]["keys"] == 1
        assert "s3cret" not in repr(cache_settings())


def test_tls_is_verified_and_shows_the_clients_certificate(settings, locked, identities):
    cert, key = identities["server"]
    client_cert, client_key = identities["client"]
    with proxy(locked.port, server_side(cert, key, clients=client_cert)) as tls:
        l2 = {
            "BACKEND": "redis",
            "URL": f"rediss://127.0.0.1:{tls.port}/0",
            "PASSWORD": "s3cret",
            "TIMEOUT": 1.0,
        }
        own = {"CERT": client_cert, "KEY": str(client_key)}
        with cache(settings, L2={**l2, "TLS": {"CA": cert, **own}}) as levels:
            assert works(levels, "l2")
        with cache(settings, L2={**l2, "TLS": own}) as levels:
            assert "verify failed" in fails(levels, "l2")
        with cache(settings, L2={**l2, "TLS": {"CA": identities["another"][0], **own}}) as levels:
            assert "verify failed" in fails(levels, "l2")
        with cache(settings, L2={**l2, "TLS": {"CA": cert}}) as levels:  # no certificate to show
            fails(levels, "l2")
        wrong_name = f"rediss://localhost:{tls.port}/0"
        l2 = {**l2, "URL": wrong_name, "TLS": {"CA": cert, **own}}
        with cache(settings, L2=l2) as levels:
            assert "localhost" in fails(levels, "l2")
        l2["TLS"]["CHECK_HOSTNAME"] = False
        with cache(settings, L2=l2) as levels:
            assert works(levels, "l2")


@pytest.mark.contract("C13")
def test_a_ring_behind_tls(settings, locked, identities):
    cert, key = identities["server"]
    with proxy(locked.port, server_side(cert, key)) as tls:
        nodes = [f"rediss://:s3cret@127.0.0.1:{tls.port}/{number}" for number in (3, 4)]
        l3 = {"BACKEND": "ring", "NODES": nodes, "TLS": {"CA": cert}, "TIMEOUT": 1.0}
        with cache(settings, L3=l3) as levels:
            assert works(levels, "l3")


@pytest.mark.contract("C13")
def test_a_cluster_behind_tls_with_a_user(settings, identities):
    cert, key = identities["server"]
    with contextlib.ExitStack() as stack:
        (port,) = servers.free_ports(1)
        tls = stack.enter_context(proxy(port, server_side(cert, key)))
        options = ("--cluster-enabled", "yes", "--cluster-announce-port", str(tls.port), *LOCKED)
        options += ("--cluster-announce-ip", "127.0.0.1")
        node = stack.enter_context(servers.one(*options, password="s3cret", port=port))
        add_user(node)
        node.client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        l3 = {
            "BACKEND": "cluster",
            "NODES": [f"127.0.0.1:{tls.port}"],
            "USERNAME": "recserve",
            "PASSWORD": "pa:ss/w@rd",
            "TLS": {"CA": cert},
            "TIMEOUT": 1.0,
        }
        with cache(settings, L3=l3) as levels:
            assert works(levels, "l3")
        with cache(settings, L3={**l3, "TLS": None}) as levels:
            fails(levels, "l3")


@pytest.mark.contract("C13")
def test_sentinels_with_a_password_of_their_own_behind_tls(settings, identities):
    cert, key = identities["server"]
    with (
        servers.sentinels(password="s3cret", sentinel_password="watch") as group,
        contextlib.ExitStack() as stack,
    ):
        tls = [
            stack.enter_context(proxy(sentinel.port, server_side(cert, key)))
            for sentinel in group.sentinels
        ]
        l3 = {
            "BACKEND": "sentinel",
            "SENTINELS": [f"127.0.0.1:{each.port}" for each in tls],
            "SERVICE": group.service,
            "PASSWORD": "s3cret",
            "DB": 5,
            "SENTINEL_PASSWORD": "watch",
            "SENTINEL_TLS": {"CA": cert},
            "TIMEOUT": 1.0,
        }
        with cache(settings, L3=l3) as levels:
            assert works(levels, "l3")
            assert group.master().client.info("keyspace")["db5"]["keys"] == 1
        with cache(settings, L3={**l3, "SENTINEL_PASSWORD": "wrong"}) as levels:
            fails(levels, "l3")
        with cache(settings, L3={**l3, "PASSWORD": "wrong"}) as levels:
            fails(levels, "l3")
        with cache(settings, L3={**l3, "SENTINEL_TLS": False}) as levels:
            fails(levels, "l3")


def test_sentinels_speak_tls_where_the_redis_does(settings):
    l3 = {"BACKEND": "sentinel", "SENTINELS": ["a:1"], "SERVICE": "m", "TLS": True}
    settings.RECSERVE = {"CACHE": {"L3": l3}}
    found = cache_settings().l3
    assert (found.access, found.sentinel_access) == (Access(tls={}), Access(tls={}))


CLUSTER = {"BACKEND": "cluster", "NODES": ["a:1"]}
REDIS = {"BACKEND": "redis", "URL": "redis://a"}


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"L3": {**CLUSTER, "USERNAME": "x"}}, r"\[\"USERNAME\"\] needs PASSWORD"),
        ({"L3": {**CLUSTER, "TLS": 1}}, r"\[\"TLS\"\] must be True, False or a dict, not 1"),
        ({"L3": {**CLUSTER, "TLS": {"CERTS": "x"}}}, r"'CERTS'\. Did you mean 'CERT'\?"),
        ({"L3": {**CLUSTER, "TLS": {"CA": "nowhere"}}}, r"\[\"CA\"\] must be the path of a file"),
        ({"L3": {**CLUSTER, "TLS": {"CERT": __file__}}}, r"must have both CERT and KEY"),
        ({"L3": {**CLUSTER, "TLS": {"CHECK_HOSTNAME": 1}}}, r"must be True or False, not 1"),
        ({"L3": {**CLUSTER, "DB": 1}}, r"has no key 'DB'"),
        ({"L2": {**REDIS, "TLS": True}}, r"\[\"TLS\"\] needs a URL that begins with rediss://"),
        (
            {"L3": {"BACKEND": "ring", "NODES": ["rediss://a", "redis://b"], "TLS": {}}},
            r"\[\"TLS\"\] needs a URL that begins with rediss://",
        ),
        (
            {"L3": {"BACKEND": "sentinel", "SENTINELS": ["a:1"], "SERVICE": "m", "DB": -1}},
            r"\[\"DB\"\] must be the number of a database, not -1",
        ),
        ({"L2": {**REDIS, "ALIAS": "default"}}, r"has both ALIAS and URL"),
        ({"L2": {"BACKEND": "redis", "ALIAS": "defualt"}}, r"Did you mean 'default'\?"),
        ({"L2": {"BACKEND": "redis", "ALIAS": "default"}}, r"whose BACKEND is no Redis"),
        ({"L2": {"BACKEND": "redis", "ALIAS": "many"}}, r"whose LOCATION is not one URL"),
        ({"L2": {"BACKEND": "redis", "ALIAS": "watched"}}, r"For Sentinels, use L3"),
        ({"L2": {"BACKEND": "redis", "ALIAS": "wrong"}}, r"CACHES\[\"wrong\"\]\[\"LOCATION\"\]"),
    ],
)
def test_a_wrong_setting_is_named(settings, levels, message):
    backend = {"BACKEND": "django_redis.cache.RedisCache"}
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "many": {**backend, "LOCATION": ["redis://a", "redis://b"]},
        "watched": {**backend, "LOCATION": "redis://m/0", "OPTIONS": {"SENTINELS": [("a", 1)]}},
        "wrong": {**backend, "LOCATION": "http://a"},
    }
    settings.RECSERVE = {"CACHE": levels}
    with pytest.raises(ImproperlyConfigured, match=message):
        cache_settings()
