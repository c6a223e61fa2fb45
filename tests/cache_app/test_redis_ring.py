"""The level in several independent Redis servers, real ones, of which one dies and comes back."""

import contextlib
from collections import Counter

import pytest

from cache_app.core.breaker import Breaker, GuardedLevel, PartlyUnavailable
from cache_app.core.codec import Codec
from cache_app.redis_level import RedisLevel
from cache_app.redis_link import Ask
from cache_app.redis_ring import RingNodes, node_name
from plugins.errors import LevelUnavailable
from serving_app.api.operation_views import _state
from serving_app.core.ranking import Ranking
from tests import servers
from tests.cache_app.test_redis_level import stored
from tests.fakes import FakeClock
from tests.servers import wait_for

pytestmark = [
    pytest.mark.contract("C13"),
    pytest.mark.contract("C12"),
    pytest.mark.xdist_group("redis"),  # one worker has the servers
]

KEYS = [f"recserve:default:1:all:u{number}:-:-" for number in range(90)]


class Ring:
    """Three servers, and a level in them."""

    def __init__(self, group, replicas):
        self.servers = {node_name(server.url): server for server in group}
        self.clock = FakeClock()
        self.nodes = RingNodes(
            "l3",
            {server.url: 1.0 for server in group},
            replicas=replicas,
            timeout=2.0,
            clock=self.clock,
        )
        self.level = GuardedLevel(RedisLevel("l3", self.nodes, Codec(Ranking)), Breaker())

    def owners(self, key):
        """Return the servers that should have a key."""
        nodes = self.nodes._ring.nodes(b"rs:" + key.encode(), self.nodes.copies)
        return [self.servers[name] for name in nodes]

    def holders(self, key):
        """Return the servers that have a key."""
        at = b"rs:" + key.encode()
        return [server for server in self.servers.values() if server.client.exists(at)]

    def state(self, server):
        return self.nodes._nodes[node_name(server.url)].breaker.state

    def fill(self, keys=KEYS):
        for key in keys:
            self.level.put(key, stored(key), "miss")


@pytest.fixture(scope="module")
def group():
    """Three servers; who kills one starts it again."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(servers.one()) for _ in range(3)]


@pytest.fixture(params=[1, 2, 3], ids=lambda count: f"replicas={count}")
def ring(group, request):
    yield from started(group, request.param)


@pytest.fixture
def single(group):
    yield from started(group, 1)


@pytest.fixture
def double(group):
    yield from started(group, 2)


def started(group, replicas):
    for server in group:
        server.client.flushall()
    ring = Ring(group, replicas)
    yield ring
    ring.nodes.close()


def found(ring, key):
    answer = ring.level.get(key)
    return answer is not None and answer.value.items[0] == key


@contextlib.contextmanager
def killed(server):
    server.kill()
    try:
        yield
    finally:
        server.start()
        server.wait()


def test_keys_are_spread_and_found(ring):
    ring.fill()
    for key in KEYS:
        assert set(ring.holders(key)) == set(ring.owners(key))
        assert found(ring, key)
    first = Counter(ring.owners(key)[0].port for key in KEYS)
    assert len(first) == 3
    assert min(first.values()) >= 15
    assert ring.level.stats().entries == len(KEYS)
    assert ring.level.remove(KEYS[0])
    assert not ring.level.remove(KEYS[0])
    assert ring.level.get(KEYS[0]) is None
    assert ring.holders(KEYS[0]) == []


def test_removals_reach_every_node(ring):
    ring.fill()
    with_nine = [key for key in KEYS if "9" in key]
    assert ring.level.remove_where(lambda key: "9" in key) == len(with_nine)
    assert not any(ring.holders(key) for key in with_nine)
    assert ring.level.clear() == (len(KEYS) - len(with_nine))
    assert [server.client.dbsize() for server in ring.servers.values()] == [0, 0, 0]


def test_a_dead_node_costs_its_keys_and_no_others(single):
    single.fill()
    dead = single.owners(KEYS[0])[0]
    its = [key for key in KEYS if single.owners(key) == [dead]]
    others = [key for key in KEYS if key not in its]
    with killed(dead):
        for _ in range(3):
            for key in its:
                with pytest.raises(PartlyUnavailable):
                    single.level.get(key)
                with pytest.raises(PartlyUnavailable):
                    single.level.put(key, stored(key), "miss")
            assert all(found(single, key) for key in others)
        assert single.state(dead) == "open"
        assert single.level.breaker.state == "closed"
        with pytest.raises(PartlyUnavailable, match=rf"^l3: .*:{dead.port}/0 failed a moment ago"):
            single.level.get(its[0])
        single.level.put(others[0], stored("new"), "refresh")
        assert single.level.get(others[0]).value.items[0] == "new"
        with pytest.raises(LevelUnavailable):
            single.level.clear()
        living = [server for server in single.servers.values() if server is not dead]
        assert [server.client.dbsize() for server in living] == [0, 0]
    comes_back(single, dead, its)


def comes_back(ring, server, keys):
    """Have a node used again: nobody is told, and nothing is moved."""

    def probe():
        ring.clock.advance(1.0)
        with contextlib.suppress(LevelUnavailable):
            ring.level.get(keys[0])
        return ring.state(server) == "closed"

    wait_for(probe, what="the node is asked again")
    for key in keys:
        wait_for(lambda key=key: ring.level.put(key, stored(key), "miss") is None)
        assert found(ring, key)
        assert server in ring.holders(key)


def test_with_two_replicas_a_dead_node_costs_nothing(double):
    double.fill()
    dead = double.owners(KEYS[0])[0]
    its = [key for key in KEYS if double.owners(key)[0] is dead]
    assert len(its) >= 15
    with killed(dead):
        for _ in range(3):
            assert all(found(double, key) for key in KEYS)
        assert double.state(dead) == "open"
        double.level.put(its[0], stored("new"), "refresh")  # the other node takes it
        assert double.level.get(its[0]).value.items[0] == "new"
        with pytest.raises(PartlyUnavailable):  # the dead one may have it still
            double.level.remove(its[1])
        assert double.level.get(its[1]) is None
        stats = double.level.stats()
        assert (stats.state, stats.nodes, stats.nodes_away) == ("closed", 3, 1)
    comes_back(double, dead, its)
    assert all(found(double, key) for key in KEYS)


def test_without_any_node_every_call_is_unavailable_at_a_bounded_cost(single):
    single.fill()
    with contextlib.ExitStack() as stack:
        for server in single.servers.values():
            stack.enter_context(killed(server))
        for key in KEYS:
            with pytest.raises(LevelUnavailable):
                single.level.get(key)
        assert {single.state(server) for server in single.servers.values()} == {"open"}
        for key in KEYS:
            with pytest.raises(PartlyUnavailable, match="failed a moment ago"):
                single.level.get(key)
        stats = single.level.stats()
        assert (stats.state, stats.nodes, stats.nodes_away) == ("closed", 3, 3)
        assert _state(stats) == "away"
    for server in single.servers.values():
        its = [key for key in KEYS if single.owners(key) == [server]]
        comes_back(single, server, its)


def test_asking_for_the_counts_finds_that_all_nodes_are_back(single):
    with contextlib.ExitStack() as stack:
        for server in single.servers.values():
            stack.enter_context(killed(server))
        for _ in range(5):
            single.level.stats()
        assert {single.state(server) for server in single.servers.values()} == {"open"}
        assert _state(single.level.stats()) == "away"

    def back():
        single.clock.advance(1.0)
        return _state(single.level.stats()) == "ok"

    wait_for(back, what="all nodes are used again")  # and nobody looked a key up


def test_a_key_with_fewer_copies_than_usual_is_counted_once(double):
    double.fill()
    for key in KEYS[:10]:
        double.owners(key)[0].client.delete(b"rs:" + key.encode())
    assert double.level.clear() == len(KEYS)


def test_a_stopped_node_is_passed_over_once_its_breaker_is_open(group, double):
    impatient = RingNodes("l3", dict.fromkeys([server.url for server in group], 1.0), replicas=2)
    level = RedisLevel("l3", impatient, Codec(Ranking))
    double.fill()
    stopped = double.owners(KEYS[0])[0]
    impatient._nodes[node_name(stopped.url)].breaker = breaker = Breaker(clock=FakeClock())
    stopped.stop()
    try:
        its = [key for key in KEYS if double.owners(key)[0] is stopped]
        for key in its[:5]:
            wait_for(lambda key=key: level.get(key))
        assert breaker.state == "open"
        for key in KEYS:
            wait_for(lambda key=key: level.get(key))
    finally:
        stopped.go_on()
        impatient.close()


def test_a_full_node_still_serves(single):
    single.fill()
    full = single.owners(KEYS[0])[0]
    full.client.config_set("maxmemory-policy", "noeviction")
    full.client.config_set("maxmemory", "100kb")
    try:
        for _ in range(10):
            with pytest.raises(PartlyUnavailable, match="is full"):
                single.level.put(KEYS[0], stored(), "miss")
        assert found(single, KEYS[0])
        assert single.state(full) == "closed"
    finally:
        full.client.config_set("maxmemory", "0")


def test_another_type_is_a_miss_and_goes(ring):
    for server in ring.owners(KEYS[0]):
        server.client.rpush(b"rs:" + KEYS[0].encode(), "x")
    assert ring.level.get(KEYS[0]) is None
    assert ring.holders(KEYS[0]) == []
    assert {ring.state(server) for server in ring.servers.values()} == {"closed"}


def test_an_error_of_our_own_does_not_hold_the_probe(single, monkeypatch):
    node = next(iter(single.nodes._nodes.values()))
    for _ in range(5):
        node.breaker.allow()
        node.breaker.failed()
    single.clock.advance(1.0)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ask, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        node.ask("GET", "x")
    monkeypatch.undo()
    single.clock.advance(1.0)
    assert node.ask("GET", "x") is None
    assert node.breaker.state == "closed"


def test_a_nodes_name_is_where_it_is():
    assert node_name("redis://:secret@a:7000/2?socket_timeout=5") == "a:7000/2"
    assert node_name("rediss://a") == "a:6379/0"
    assert node_name("redis://a:7000/0?db=3") == "a:7000/3"
    assert node_name("unix://me:secret@/run/redis.sock?db=1") == "/run/redis.sock/1"
    with pytest.raises(ValueError, match="scheme"):
        node_name("http://a")
