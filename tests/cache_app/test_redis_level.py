"""The level in Redis, on real servers: one, behind Sentinels, a cluster; and what befalls them."""

import contextlib
import os
import socket
import threading
import time

import pytest

from cache_app import redis_connections
from cache_app.core.breaker import Breaker, GuardedLevel, PartlyUnavailable, PoolExhausted
from cache_app.core.codec import Codec
from cache_app.core.levels import Levels, Stored
from cache_app.core.memory import MemoryLevel
from cache_app.redis_cluster import ClusterNodes
from cache_app.redis_level import RedisLevel
from cache_app.redis_servers import OneServer, SentinelMaster
from plugins.errors import LevelUnavailable
from plugins.eviction.sieve import SIEVE
from serving_app.core.ranking import Ranking
from tests import servers
from tests.fakes import FakeClock
from tests.servers import wait_for

pytestmark = [
    pytest.mark.contract("C1"),
    pytest.mark.contract("C12"),
    pytest.mark.xdist_group("redis"),  # one worker has the servers
]

KEY = "recserve:default:1:all:u1:-:-"
AT = b"rs:" + KEY.encode()


def stored(name="a", *, ttl=60.0):
    now = time.time()
    return Stored(Ranking((name, "b"), (0.5, 0.25), False), now, now + ttl)


def level_at(servers_, name="l2"):
    return RedisLevel(name, servers_, Codec(Ranking))


def addresses(texts):
    return [(host, int(port)) for host, port in (text.split(":") for text in texts)]


def answers(call, *args):
    """Return a condition: the call is answered, with something true or None."""

    def condition():
        try:
            call(*args)
        except LevelUnavailable:
            return False
        return True

    return condition


@pytest.fixture(scope="module")
def shared():
    """One server for the tests that do it no harm."""
    with servers.one() as server:
        yield server


@pytest.fixture
def server(shared):
    """The server, empty."""
    shared.client.flushall()
    return shared


@pytest.fixture
def level(server):
    """A level in the server, with patience: a busy machine is not what these tests are about."""
    level = level_at(OneServer("l2", server.url, timeout=2.0))
    yield level
    level.close()


# --- Keeping values ---


def test_what_is_stored_is_found_and_forgotten(level):
    value = stored()
    assert level.get(KEY) is None
    level.put(KEY, value, "miss")
    assert level.get(KEY) == value
    level.put(KEY, stored("b"), "refresh")
    assert level.get(KEY).value.items[0] == "b"
    assert level.remove(KEY)
    assert not level.remove(KEY)
    assert level.get(KEY) is None
    stats = level.stats()
    assert (stats.hits, stats.misses, stats.insertions, stats.removals) == (2, 2, 2, 1)
    assert stats.weight > 0
    assert stats.entries == 0


def test_looking_at_an_entry_counts_as_no_hit(server, level):
    value = stored()
    assert level.inspect(KEY) is None
    level.put(KEY, value, "miss")
    found, size = level.inspect(KEY)
    assert found == value
    assert size == server.client.strlen(AT)
    server.client.set(AT, b"rubbish")
    assert level.inspect(KEY) is None
    server.client.delete(AT)
    server.client.lpush(AT, b"a list")
    assert level.inspect(KEY) is None
    stats = level.stats()
    assert (stats.hits, stats.misses) == (0, 0)


def test_any_text_is_a_key(level):
    for key in ("", "é€😀", "\ud800", "a" * 5000, "{x}", "*", "[a-z]?"):
        level.put(key, stored(key[:5].encode("utf-8", "replace").decode()), "miss")
        assert level.get(key) is not None, key
    assert level.stats().entries == 7
    assert level.remove_where(lambda key: key == "*") == 1
    assert level.clear() == 6


def test_promotion_does_not_lengthen_a_life(server, level):
    value = stored(ttl=30.0)
    level.put(KEY, value, "miss")
    expected = -int(-value.expires * 1000 // 1)
    assert server.client.pexpiretime(AT) == expected
    above = RedisLevel("l3", OneServer("l3", server.url + "?db=1", timeout=2.0), Codec(Ranking))
    above.put(KEY, level.get(KEY), "promotion")
    level.put(KEY, above.get(KEY), "promotion")
    assert server.client.pexpiretime(AT) == expected
    assert level.get(KEY).expires == value.expires
    l1 = MemoryLevel(SIEVE, capacity=10)
    found = Levels([l1, level]).find(KEY)
    assert (found.level, found.expires) == ("l2", value.expires)
    assert l1.get(KEY).expires == value.expires
    above.close()


def test_nothing_expired_is_served_or_kept(server, level):
    level.put(KEY, stored(), "miss")
    level.put(KEY, stored(ttl=-1.0), "miss")  # what it should have replaced goes, too
    assert server.client.exists(AT) == 0
    assert level.stats().rejected == 1
    behind = RedisLevel("l2", OneServer("l2", server.url, timeout=2.0), Codec(Ranking))
    level.put(KEY, stored(ttl=60.0), "miss")
    behind._clock = FakeClock(time.time() + 61.0)
    assert behind.get(KEY) is None
    behind.close()
    level.put(KEY, stored(ttl=0.05), "miss")
    wait_for(lambda: not server.client.exists(AT), what="Redis lets the value expire")
    assert level.get(KEY) is None


def test_an_expiry_of_any_size_can_be_stored(server, level):
    value = stored(ttl=1e300)
    level.put(KEY, value, "miss")
    assert level.get(KEY) == value


def test_a_value_that_cannot_be_kept_replaces_nothing_by_nothing(server, caplog):
    level = RedisLevel("l2", OneServer("l2", server.url, timeout=2.0), Codec(Ranking, max_bytes=64))
    level.put(KEY, stored(), "miss")
    long = Ranking(tuple(f"item number {n}" for n in range(10)), (0.5,) * 10, False)
    level.put(KEY, Stored(long, time.time(), time.time() + 60), "miss")
    assert level.get(KEY) is None
    assert level.stats().rejected == 1
    level.close()
    of_anything = RedisLevel("l2", OneServer("l2", server.url, timeout=2.0), Codec(object))
    of_anything.put(KEY, Stored(object(), time.time(), time.time() + 60), "miss")
    assert "l2 cannot write a value" in caplog.text
    of_anything.close()


# --- Many threads ---


@pytest.mark.parametrize("kind", ["one", "cluster"])
def test_many_threads_get_their_own_values_over_few_connections(server, kind, monkeypatch):
    monkeypatch.setattr(redis_connections, "_CONNECTIONS", 1)
    with contextlib.ExitStack() as stack:
        if kind == "one":
            behind = OneServer("l2", server.url, timeout=5.0)
        else:
            nodes = stack.enter_context(servers.cluster()).addresses
            behind = ClusterNodes("l2", addresses(nodes), timeout=5.0)
        level = level_at(behind)
        for number in range(0, 300, 2):
            level.put(f"k{number}", stored(f"v{number}"), "miss")
        wrong = []

        def ask(first):
            for number in range(first, first + 200):
                found = level.get(f"k{number % 300}")
                name = None if found is None else found.value.items[0]
                if name != (None if number % 2 else f"v{number % 300}"):
                    wrong.append((number, name))

        threads = [threading.Thread(target=ask, args=(first * 7,)) for first in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        stats = level.stats()
        assert stats.hits + stats.misses == 40 * 200
        behind.close()


@pytest.mark.contract("C12")
def test_used_up_connections_say_nothing_about_the_server(server, monkeypatch):
    monkeypatch.setattr(redis_connections, "_CONNECTIONS", 1)
    behind = OneServer("l2", server.url, timeout=2.0)
    pool = behind._link.client.connection_pool
    pool.timeout = 0.01
    level = guarded(behind, FakeClock())
    level.put(KEY, stored(), "miss")
    held = pool.get_connection()
    for _ in range(10):
        with pytest.raises(PoolExhausted, match="All 1 connections"):
            level.get(KEY)
        with pytest.raises(PoolExhausted, match="All 1 connections"):
            level.put(KEY, stored(), "miss")
    assert level.breaker.state == "closed"
    pool.release(held)
    assert level.get(KEY) is not None
    behind.close()


def test_a_broken_connection_gives_nobody_anothers_value(server):
    level = level_at(OneServer("l2", server.url, timeout=2.0))
    for number in range(100):
        level.put(f"k{number}", stored(f"v{number}"), "miss")
    ended = threading.Event()
    wrong, answered = [], []

    def ask(first):
        number = first
        while not ended.is_set():
            number = (number + 1) % 100
            with contextlib.suppress(LevelUnavailable):
                name = level.get(f"k{number}").value.items[0]
                (answered if name == f"v{number}" else wrong).append(name)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(20)]
    for thread in threads:
        thread.start()
    for killed in range(1, 31):
        wait_for(lambda n=killed: len(answered) > 100 * n, what="look-ups are answered")
        server.client.client_kill_filter(_type="normal", skipme=True)
    ended.set()
    for thread in threads:
        thread.join()
    assert not wrong
    level.close()


# --- Rubbish ---


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"7", b"rubbish", b"RS" + bytes(40), os.urandom(200), b"\x80\x04K\x01."],
    ids=["empty", "number", "text", "zeros", "noise", "pickle"],
)
def test_rubbish_is_a_miss_and_goes(server, level, rubbish):
    server.client.set(AT, rubbish)
    assert level.get(KEY) is None
    assert level.stats().misses == 1
    assert sum(level.codec.stats().unreadable.values()) == 1
    assert not server.client.exists(AT)
    level.put(KEY, stored(), "miss")
    assert level.get(KEY) is not None


def test_a_value_of_another_key_is_a_miss(server, level):
    level.put("other", stored(), "miss")
    server.client.set(AT, server.client.get(b"rs:other"))
    assert level.get(KEY) is None
    assert level.codec.stats().unreadable == {"checksum": 1}


@pytest.mark.parametrize("kind", ["list", "hash", "set", "zset", "stream"])
def test_another_type_is_a_miss_and_goes(server, level, kind):
    client = server.client
    {
        "list": lambda: client.rpush(AT, "x"),
        "hash": lambda: client.hset(AT, "x", "y"),
        "set": lambda: client.sadd(AT, "x"),
        "zset": lambda: client.zadd(AT, {"x": 1}),
        "stream": lambda: client.xadd(AT, {"x": "y"}),
    }[kind]()
    assert level.get(KEY) is None
    assert level.stats().misses == 1
    assert not client.exists(AT)
    assert level.get(KEY) is None


def test_what_others_keep_in_the_same_redis_stays(server, level):
    client = server.client
    client.set("session:1", "x")
    client.set("rsx", "x")
    client.set(b"rs:\xff\xfe", "no text")
    for number in range(1500):
        level.put(f"m{number % 3}:{number}", stored(), "miss")
    assert level.remove_where(lambda key: key.startswith("m1:")) == 501  # the rubbish, too
    assert level.get("m1:1") is None
    assert level.get("m2:2") is not None
    assert level.clear() == 1000
    assert sorted(client.keys()) == [b"rsx", b"session:1"]


def test_pickle_is_never_used(level, monkeypatch):
    import pickle

    def poisoned(*_args, **_kwargs):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, poisoned)
    level.put(KEY, stored(), "miss")
    assert level.get(KEY) is not None
    level.clear()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(server, level):
    level.put(KEY, stored(), "miss")
    assert level.get(KEY) is not None
    child = os.fork()
    if not child:
        good = False
        try:
            good = all(level.get(KEY) is not None for _ in range(200))
        finally:
            os._exit(0 if good else 1)
    assert all(level.get(KEY) is not None for _ in range(200))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- One Redis dies ---


class CountingServers(OneServer):
    """One server, whose every use is counted."""

    uses = 0

    def _running(self, question):
        self.uses += 1
        return (yield from super()._running(question))


def guarded(servers_, clock, name="l2"):
    breaker = Breaker(failures=5, open_seconds=1.0, clock=clock)
    return GuardedLevel(level_at(servers_, name), breaker)


def fail_until_open(level):
    for _ in range(5):
        with pytest.raises(LevelUnavailable):
            level.get(KEY)
    assert level.breaker.state == "open"


def probe_until_closed(level, clock):
    """Let the time pass until the breaker's probe is answered."""

    def probe():
        clock.advance(1.0)
        return answers(level.get, KEY)()

    wait_for(probe, what="the server answers again")
    assert level.breaker.state == "closed"


def test_a_stopped_redis_is_left_alone_and_tried_again():
    with servers.one() as server:
        clock = FakeClock()
        behind = CountingServers("l2", server.url)
        level = guarded(behind, clock)
        wait_for(answers(level.put, KEY, stored(), "miss"), what="the first connection")
        server.stop()
        fail_until_open(level)
        uses = behind.uses
        for _ in range(100):
            with pytest.raises(LevelUnavailable, match="l2 failed a moment ago"):
                level.get(KEY)
        assert behind.uses == uses  # no socket was touched
        clock.advance(1.0)
        with pytest.raises(LevelUnavailable, match="Timeout"):
            level.get(KEY)  # the probe
        assert level.breaker.state == "open"
        assert behind.uses == uses + 1
        server.go_on()
        probe_until_closed(level, clock)
        assert wait_for(lambda: level.get(KEY))
        assert level.stats().state == "closed"
        behind.close()


def test_a_killed_redis_comes_back_on_its_port():
    with servers.one() as server:
        clock = FakeClock()
        behind = OneServer("l2", server.url, timeout=2.0)
        level = guarded(behind, clock)
        level.put(KEY, stored(), "miss")
        server.kill()
        fail_until_open(level)
        server.start()
        server.wait()
        probe_until_closed(level, clock)
        assert level.get(KEY) is None  # it kept nothing
        level.put(KEY, stored(), "miss")
        assert level.get(KEY) is not None
        behind.close()


def test_a_full_redis_still_serves():
    with servers.one("--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as server:
        behind = OneServer("l2", server.url, timeout=2.0)
        level = guarded(behind, FakeClock())
        level.put(KEY, stored(), "miss")
        server.client.config_set("maxmemory", "100kb")  # less than an empty one needs
        for _ in range(10):
            with pytest.raises(PartlyUnavailable, match="l2 is full"):
                level.put("another", stored(), "miss")
            assert level.get(KEY) is not None
        assert level.breaker.state == "closed"
        assert level.remove(KEY)
        server.client.config_set("maxmemory", "100mb")
        level.put("another", stored(), "miss")
        assert level.get("another") is not None
        behind.close()


def test_what_is_no_redis_or_a_wrong_one_is_unavailable(server):
    (nobody,) = servers.free_ports(1)
    for url in (
        f"redis://127.0.0.1:{nobody}/0",
        f"{server.url}?db=99999",
        f"redis://:wrong@127.0.0.1:{server.port}/0",
        "unix:///nowhere/redis.sock",
    ):
        behind = OneServer("l2", url, timeout=2.0)
        level = level_at(behind)
        for call in (
            lambda level=level: level.get(KEY),
            lambda level=level: level.put(KEY, stored(), "miss"),
            lambda level=level: level.remove(KEY),
            level.clear,
            level.stats,
        ):
            with pytest.raises(LevelUnavailable) as caught:
                call()
            assert caught.value.__cause__ is not None
        behind.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\xff\xfe",
        b"$99999999999\r\n",
        b"-\xff\xfe boom\r\n",
        b"-MOVED 1 x\r\n",
        b"-MOVED 3999 127.0.0.1:1\r\n",
        b"-ASK 1\r\n",
        b":7\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b"*1\r\n*3\r\n:0\r\n:99999999999\r\n*2\r\n$1\r\nx\r\n:1\r\n",
        b"+OK\r\n",
        b"$3\r\nabc\r\n:1\r\n",
        b"$-1\r\n",
        b"",
    ],
)
def test_nonsense_is_a_miss_or_unavailable(reply):
    with answering(reply) as port:
        for behind in (
            OneServer("l2", f"redis://127.0.0.1:{port}/0"),
            SentinelMaster("l3", [("127.0.0.1", port)], "mymaster"),
            ClusterNodes("l3", [("127.0.0.1", port)]),
        ):
            level = level_at(behind)
            for call in (
                lambda level=level: level.get(KEY),
                lambda level=level: level.put(KEY, stored(), "miss"),
                lambda level=level: level.remove(KEY),
                level.clear,
                level.stats,
                lambda level=level: level.get(KEY),
            ):
                with contextlib.suppress(LevelUnavailable):
                    assert not isinstance(call(), Stored)
            behind.close()


@contextlib.contextmanager
def answering(reply):
    """Something on a port that gives the same answer to everything; an empty one: hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection, contextlib.suppress(OSError):
            while connection.recv(4096) and reply:
                connection.sendall(reply)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_a_replica_refuses_to_store_but_serves(server, level):
    level.put(KEY, stored(), "miss")
    server.client.replicaof("127.0.0.1", str(servers.free_ports(1)[0]))
    try:
        with pytest.raises(LevelUnavailable, match="ReadOnly"):
            level.put(KEY, stored(), "miss")
        assert level.get(KEY) is not None
    finally:
        server.client.replicaof("NO", "ONE")


# --- Sentinel ---


@pytest.mark.contract("C13")
def test_sentinels_name_a_new_master_when_the_old_one_dies():
    with servers.sentinels() as group:
        behind = SentinelMaster("l3", addresses(group.addresses), group.service, timeout=1.0)
        level = level_at(behind, "l3")
        wait_for(answers(level.put, KEY, stored(), "miss"), what="the first connection")
        old = group.master()
        wait_for(lambda: level.get(KEY), what="the value is read")
        old.kill()
        with pytest.raises(LevelUnavailable):
            level.get(KEY)
        wait_for(answers(level.put, "new", stored(), "miss"), what="a new master takes values")
        assert wait_for(lambda: level.get("new"))
        wait_for(lambda: group.master() is not old, what="the first sentinel knows, too")
        # Its breaker would have opened meanwhile; here all that counts is who is asked.
        group.sentinels[0].kill()
        wait_for(answers(level.get, "new"), what="two sentinels are enough")
        behind.close()


@pytest.mark.contract("C13")
def test_a_demoted_master_is_not_asked_again_before_the_sentinels():
    with servers.sentinels() as group:
        behind = SentinelMaster("l3", addresses(group.addresses), group.service, timeout=1.0)
        level = level_at(behind, "l3")
        wait_for(answers(level.put, KEY, stored(), "miss"), what="the first connection")
        old = group.master()
        client = behind._master
        # Unlike at a failover of the sentinels, which closes them, the connections stay.
        old.client.replicaof("127.0.0.1", str(servers.free_ports(1)[0]))
        with pytest.raises(LevelUnavailable, match="ReadOnly"):
            level.put(KEY, stored(), "miss")
        assert behind._master is None  # the next call asks the sentinels
        old.client.replicaof("NO", "ONE")
        wait_for(answers(level.put, KEY, stored("b"), "miss"), what="there is a master again")
        assert behind._master is not client
        assert wait_for(lambda: level.get(KEY)).value.items[0] == "b"
        behind.close()


# --- Cluster ---


@pytest.mark.contract("C13")
def test_a_cluster_loses_a_node_and_only_its_keys_wait():
    with servers.cluster() as cluster:
        behind = ClusterNodes("l3", addresses(cluster.addresses[:2]), timeout=1.0)
        level = GuardedLevel(level_at(behind, "l3"), Breaker())
        keys = [f"u{number}" for number in range(60)]
        for key in keys:
            wait_for(answers(level.put, key, stored(key), "miss"), what=f"{key} is stored")
        for key in keys:
            assert wait_for(lambda key=key: level.get(key)).value.items[0] == key
        assert level.stats().entries == 60
        owners = {key: cluster.owner(b"rs:" + key.encode()) for key in keys}
        dead = owners[keys[0]]
        others = [key for key in keys if owners[key] is not dead]
        assert 20 <= len(others) < 60
        wait_for(lambda: replicated(cluster, dead), what="the replica has the values")
        dead.kill()
        lost = 0
        for key in keys:
            if owners[key] is dead:
                lost += not answers(level.get, key)()
        assert lost >= 5
        for key in others:  # at once, and again and again
            assert wait_for(lambda key=key: level.get(key)).value.items[0] == key
        assert level.breaker.state == "closed"
        for key in keys:
            assert wait_for(lambda key=key: level.get(key)).value.items[0] == key
        for key in keys:
            wait_for(answers(level.put, key, stored(key), "refresh"), what=f"{key} is stored")
        assert level.remove(keys[0])
        assert level.remove_where(lambda key: key.endswith("1")) == 6
        assert level.clear() == 53
        behind.close()


def replicated(cluster, master):
    info = master.client.info("replication")
    return info["slave0"]["offset"] == info["master_repl_offset"]


@pytest.mark.contract("C13")
def test_a_slot_moves_while_its_keys_are_used():
    with servers.cluster() as cluster:
        behind = ClusterNodes("l3", addresses(cluster.addresses), timeout=2.0)
        level = level_at(behind, "l3")
        level.put(KEY, stored(), "miss")
        source = cluster.owner(AT)
        target = next(server for server in cluster.servers[:3] if server is not source)
        slot = source.client.execute_command("CLUSTER KEYSLOT", AT)
        ids = {
            server: server.client.execute_command("CLUSTER MYID").decode()
            for server in (source, target)
        }
        target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
        assert level.get(KEY) is not None  # it is still there
        source.client.execute_command("MIGRATE", "127.0.0.1", target.port, AT, 0, 2000)
        assert level.get(KEY) is not None  # ASK
        assert level.remove(KEY)
        assert level.get(KEY) is None
        level.put(KEY, stored("b"), "miss")
        for server in (target, source):
            server.client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])
        assert level.get(KEY).value.items[0] == "b"  # MOVED

        def is_known():  # the node that was asked for the table may not know it yet
            assert level.get(KEY).value.items[0] == "b"
            return behind._table[slot].address[1] == target.port

        wait_for(is_known, what="the table is read anew")
        behind.close()


@pytest.mark.contract("C13")
def test_a_cluster_that_is_not_there_is_unavailable_at_a_bounded_cost():
    nobody = [("127.0.0.1", port) for port in servers.free_ports(3)]
    behind = ClusterNodes("l3", nobody)
    level = GuardedLevel(level_at(behind, "l3"), Breaker(failures=2, clock=FakeClock()))
    for _ in range(2):
        with pytest.raises(LevelUnavailable, match="no node of the cluster answers"):
            level.get(KEY)
    assert level.breaker.state == "open"


@pytest.mark.contract("C13")
def test_one_server_that_is_no_cluster_is_unavailable(server):
    behind = ClusterNodes("l3", [("127.0.0.1", server.port)], timeout=2.0)
    with pytest.raises(LevelUnavailable, match="no node of the cluster answers"):
        level_at(behind, "l3").get(KEY)
    behind.close()
