"""L1."""

import threading
from random import Random

import pytest

from cache_app.core.levels import Stored
from cache_app.core.memory import MemoryLevel
from plugins.errors import PluginError
from plugins.eviction.builtin import recserve_eviction_policies
from plugins.eviction.fifo import FIFO
from plugins.eviction.linked import LINKS
from plugins.eviction.lru import LRU
from plugins.eviction.sieve import SIEVE
from tests.fakes import FakeClock
from tests.plugins.conformance.test_eviction import Buffered, Calling, Counting
from tests.plugins.eviction.ghost_fifo import GhostFIFO

pytestmark = pytest.mark.contract("C3")

MODES = {FIFO: "none", SIEVE: "flag", LRU: "stamp", Counting: "count", Buffered: "buffer"}
EVERY = [*recserve_eviction_policies().values(), Counting, Buffered, Calling, GhostFIFO]


@pytest.fixture
def clock():
    return FakeClock()


def stored(value="v", *, at=1_000_000.0, ttl=60.0):
    return Stored(value, at, at + ttl)


@pytest.mark.parametrize("policy", EVERY)
def test_a_value_is_served_until_the_instant_it_expires(policy, clock):
    level = MemoryLevel(policy, capacity=2, clock=clock)
    level.put("a", stored())
    clock.advance(59.9)
    assert level.get("a").value == "v"
    assert level.peek("a").key == "a"
    clock.advance(0.1)
    assert level.peek("a") is None
    assert len(level) == 1
    assert level.get("a") is None
    assert len(level) == 0
    stats = level.stats()
    assert (stats.hits, stats.misses, stats.expirations, stats.removals) == (1, 1, 1, 0)
    level.check()


class CountingDict(dict):
    looked_up = 0

    def _count(self):
        type(self).looked_up += 1

    def __getitem__(self, key):
        self._count()
        return super().__getitem__(key)

    def get(self, key, default=None):
        self._count()
        return super().get(key, default)

    def __contains__(self, key):
        self._count()
        return super().__contains__(key)


real_lock = threading.Lock


class CountingLock:
    def __init__(self):
        self._lock, self.taken = real_lock(), 0

    def __enter__(self):
        self.taken += 1
        self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


@pytest.mark.parametrize("policy", EVERY)
def test_a_hit_is_one_look_up_and_takes_a_lock_only_if_the_policy_hears_of_each(
    policy, clock, monkeypatch
):
    monkeypatch.setattr(MemoryLevel, "_table", CountingDict)
    monkeypatch.setattr("cache_app.core.memory.threading.Lock", CountingLock)
    level = MemoryLevel(policy, capacity=9, clock=clock)
    assert level._policy.hit_mode == MODES.get(policy, level._policy.hit_mode)
    level.put("a", stored())
    CountingDict.looked_up = level._lock.taken = 0
    for _ in range(200):
        assert level.get("a") is not None
    assert CountingDict.looked_up == 200
    locks = {"call": 200, "buffer": 200 // 64}
    assert level._lock.taken == locks.get(level._policy.hit_mode, 0)
    assert level.stats().hits == 200


def test_flags_and_counts_are_kept(clock):
    for policy, expected in ((SIEVE, 1), (Counting, 3)):
        level = MemoryLevel(policy, capacity=9, clock=clock)
        level.put("a", stored())
        for _ in range(9):
            level.get("a")
        assert level.peek("a").ref == expected


@pytest.mark.parametrize("policy", EVERY)
def test_a_value_that_does_not_fit_is_refused_and_drops_what_it_should_replace(policy, clock):
    level = MemoryLevel(policy, capacity=3, clock=clock, weigh=len)
    level.put("a", stored("aa"))
    level.put("a", stored("aaaa"))
    assert level.get("a") is None
    level.put("b", stored("bbb"))
    level.put("b", stored("b", at=0.0))
    stats = level.stats()
    assert (stats.rejected, stats.entries, stats.weight, stats.evictions) == (2, 0, 0, 0)
    level.check()


@pytest.mark.parametrize("policy", EVERY)
def test_overwriting_changes_value_expiry_and_weight(policy, clock):
    level = MemoryLevel(policy, capacity=9, clock=clock, weigh=len)
    level.put("a", stored("aa", ttl=5))
    level.put("a", stored("aaaa", ttl=50))
    clock.advance(20)
    assert level.get("a").value == "aaaa"
    assert (level.stats().weight, len(level), level.stats().insertions) == (4, 1, 2)
    level.check()


@pytest.mark.parametrize("policy", EVERY)
def test_removing(policy, clock):
    level = MemoryLevel(policy, capacity=9, clock=clock)
    for key in ("user:1", "user:2", "item:1"):
        level.put(key, stored())
    assert level.remove("user:1")
    assert not level.remove("user:1")
    assert level.remove_where(lambda key: key.startswith("user")) == 1
    assert level.clear() == 1
    assert (len(level), level.stats().removals) == (0, 3)
    level.put("user:1", stored("again"))
    assert level.get("user:1").value == "again"
    level.check()


def test_a_ghost_comes_back(clock):
    level = MemoryLevel(GhostFIFO, capacity=2, clock=clock)
    for key in "abc":
        level.put(key, stored())
    assert level.get("a") is None
    assert level.peek("a") is None
    assert not level.remove("a")
    assert (len(level), level.stats().ghosts) == (2, 1)
    level.put("a", stored("back"))
    assert level._policy.returned == 1
    assert level.get("a").value == "back"
    for number in range(50):
        level.put(f"k{number}", stored())
        level.check()
        assert level.stats().ghosts <= 2
    assert level.get("a").value == "back", "the main queue is evicted last"
    level.clear()
    level.check()


class HoardsGhosts(FIFO):
    def evict(self, now):
        victim = super().evict(now)
        victim.keep_ghost = True
        return victim


def test_ghosts_never_grow_beyond_the_capacity_whatever_the_policy_wants(clock):
    level = MemoryLevel(HoardsGhosts, capacity=5, clock=clock)
    for number in range(100):
        level.put(f"k{number}", stored())
        level.check()
    assert level.stats().ghosts == 5
    assert len(level._entries) == 10
    ghost = level._entries["k0"]
    level.drop_ghost(ghost)
    level.drop_ghost(ghost)
    assert level.stats().ghosts == 4


class Stubborn(FIFO):
    def evict(self, now):
        return self.host._entries.get("gone") or type("Entry", (), {"key": "x", "expires": 1.0})


class Helpless(FIFO):
    def evict(self, now):
        raise LookupError("nothing to evict")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Stubborn, "Stubborn cannot evict: it chose 'x', which is not resident"),
        (Helpless, "Helpless cannot evict: nothing to evict"),
    ],
)
def test_the_capacity_holds_even_if_the_policy_is_broken(policy, message, clock):
    level = MemoryLevel(policy, capacity=2, clock=clock)
    level.put("a", stored())
    level.put("b", stored())
    for key in "cde":
        with pytest.raises(PluginError, match=message):
            level.put(key, stored())
        assert len(level) == 2
    assert level.get("a").value == "v"


def test_a_policy_that_declares_nonsense_is_refused():
    claims = type("Claims", (FIFO,), {"entry_slots": ("value", *LINKS)})
    with pytest.raises(PluginError, match="Claims declares entry_slots that L1 owns: value"):
        MemoryLevel(claims, capacity=1)
    odd = type("Odd", (FIFO,), {"hit_mode": "often"})
    with pytest.raises(PluginError, match="Odd declares hit_mode 'often'"):
        MemoryLevel(odd, capacity=1)
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        MemoryLevel(FIFO, capacity=0)


def test_hits_in_the_buffer_count_before_an_eviction(clock):
    level = MemoryLevel(Buffered, capacity=2, clock=clock)
    level.put("a", stored())
    level.put("b", stored())
    level.get("a")
    level.put("c", stored())
    assert level.peek("a") is not None
    assert level.peek("b") is None


def test_an_evicted_entry_keeps_no_value_alive(clock):
    level = MemoryLevel(LRU, capacity=1, clock=clock)
    level.put("a", stored())
    entry = level.peek("a")
    level.put("b", stored())
    assert entry.value is None


@pytest.mark.parametrize("policy", EVERY)
def test_threads_may_do_everything_at_once(policy):
    clock = FakeClock()
    level = MemoryLevel(policy, capacity=30, clock=clock, weigh=lambda value: value[0])
    errors, start = [], threading.Barrier(4)

    def hammer(seed):
        random = Random(seed)
        start.wait()
        try:
            for number in range(3000):
                key = f"k{random.randrange(60)}"
                found = level.get(key)
                value = None
                if found is not None:
                    created, fresh_until, expires = found.instants
                    value = found.value
                    # It may have left since; but no value is older than its instants.
                    assert value is None or value[1] == key
                    assert value is None or value[2] >= expires
                    assert value is None or created < fresh_until <= expires
                if value is None:
                    now = clock()
                    expires = now + random.random()
                    weighing = random.randint(1, 4)
                    level.put(key, Stored((weighing, key, expires), now - 1, expires, expires))
                elif number % 17 == 0:
                    level.remove(key)
                elif number % 501 == 0:
                    level.remove_where(lambda key: key.endswith("3"))
                if number % 50 == 0:
                    clock.advance(0.1)
        except Exception as error:  # noqa: BLE001  (the main thread asserts there is none)
            errors.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    level.check()
    stats = level.stats()
    assert stats.hits + stats.misses == 12_000
