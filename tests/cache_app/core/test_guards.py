"""Whatever a policy or a filter raises, L1 answers, holds its capacity, and can get another one."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_app.core.guards import guarded_filter
from cache_app.core.levels import Stored
from cache_app.core.memory import MemoryLevel
from plugins.admission.base import BaseAdmissionFilter
from plugins.eviction.fifo import FIFO
from plugins.eviction.lru import LRU
from plugins.eviction.sieve import SIEVE
from plugins.loading import load_plugins

pytestmark = [pytest.mark.contract("O7"), pytest.mark.contract("C3")]

POLICIES = load_plugins(entry_points=()).eviction_policies


def stored(value="v", expires=float("inf")):
    return Stored(value, 0.0, expires, cost=0.01)


def shaky(name, rng, rate):
    """Return a policy that raises in the middle of things; then its state may be anything."""
    broken = []
    policy = POLICIES.create(name)
    kind = type(policy)

    def breaks(method):
        def call(self, *args):
            assert not broken, "it was asked again"
            if rng.random() < rate:
                broken.append(method)
                raise RuntimeError(f"{method.__name__} broke")
            done = method(self, *args)
            if rng.random() < rate:
                broken.append(method)
                raise RuntimeError(f"{method.__name__} broke afterwards")
            return done

        return call

    names = ("on_insert", "on_hit", "on_hits", "on_remove", "on_generation", "evict")
    changed = {each: breaks(getattr(kind, each)) for each in names}
    changed["__slots__"] = ()
    try:
        policy.__class__ = type("Shaky", (kind,), changed)
    except TypeError:  # it has slots, and its class cannot be changed
        policy = type("Shaky", (kind,), changed)()
    return policy


def check_alone(level):
    """Check what L1 itself answers for; the policy has lost its way."""
    policy = level._policy
    level._policy = type("Mute", (), {"check": lambda self: None})()
    level.check()
    level._policy = policy


@pytest.mark.parametrize("name", POLICIES.names())
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), rate=st.sampled_from([0.02, 0.3, 1.0]))
def test_whatever_a_policy_raises_l1_goes_on(name, seed, rate):
    rng, told, clock = Random(seed), [], [0.0]
    level = MemoryLevel(
        lambda: shaky(name, rng, rate),
        capacity=8,
        clock=lambda: clock[0],
        rng=Random(seed),
        failed=told.append,
    )
    for step in range(150):
        key = f"k{rng.randrange(20)}"
        match rng.randrange(6):
            case 0 | 1:
                found = level.get(key)
                assert found is None or found.value == key
            case 2 | 3:
                expires = rng.choice([float("inf"), clock[0] + 3])
                level.put(key, stored(key, expires), rng.choice(["miss", "warmup"]))
            case 4:
                level.remove(key)
            case 5:
                level.on_generation("n", 0, 1)
        clock[0] += 0.1
        assert len(level) <= 8
        if step % 10 == 0:
            check_alone(level)
        if level.policy_failed and rng.random() < 0.1:
            level.replace_policy(shaky(name, rng, rate), told.append)
            check_alone(level)
    assert told or rate < 0.3
    assert all("broke" in str(error) for error in told), told

    before = level.stats()
    level.replace_policy(SIEVE())
    level.check()
    after = level.stats()
    assert (after.hits, after.misses) == (before.hits, before.misses)
    for n in range(30):
        level.put(f"n{n}", stored(f"n{n}"))
        level.check()
    assert len(level) == 8


def test_what_is_stored_stays_when_the_policy_changes():
    clock = [0.0]
    level = MemoryLevel(FIFO, capacity=4, clock=lambda: clock[0], weigh=len, failed=lambda _: None)
    level.put("gone", stored("g", expires=1.0))
    level.put("a", stored("a"))
    level.put("b", stored("bb"), "warmup")
    level.get("a")
    level.get("a")
    old_get = level.get
    clock[0] = 2.0
    level.replace_policy(LRU())
    level.check()
    assert level.peek("a").uses == 2
    assert level.get("a").value == "a"
    assert level.get("b").value == "bb"
    assert level.get("gone") is None
    assert old_get("gone") is None, "a look-up that was under way harms nothing"
    level.put("c", stored("cc"))
    level.check()
    assert level.get("a") is None, "b is newer by use"
    assert level.stats().hits == 4


def test_a_policy_that_declares_nonsense_takes_no_place():
    level = MemoryLevel(FIFO, capacity=4)
    level.put("a", stored())
    odd = type("Odd", (FIFO,), {"hit_mode": "often"})()
    with pytest.raises(Exception, match="hit_mode 'often'"):
        level.replace_policy(odd)
    assert level.get("a").value == "v"
    level.check()


class Broken(BaseAdmissionFilter):
    def admit(self, candidate, now):
        raise RuntimeError("admit broke")

    def prefers(self, candidate, victim, now):
        raise RuntimeError("prefers broke")

    def on_generation(self, namespace, old, new):
        raise RuntimeError("on_generation broke")


def test_a_filter_that_raises_admits_and_can_be_taken_out():
    told = []
    level = MemoryLevel(FIFO, capacity=1, admission=lambda: [guarded_filter(Broken(), told.append)])
    level.put("a", stored())
    level.put("b", stored())
    level.on_generation("n", 0, 1)
    assert level.get("b").value == "v"
    assert [str(error) for error in told] == [
        *("admit broke", "admit broke", "prefers broke", "on_generation broke")
    ]
    level.replace_filters([])
    level.put("c", stored())
    assert len(told) == 4
    level.check()
