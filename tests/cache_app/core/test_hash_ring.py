"""The hash ring: few keys move, loads are even, and every process agrees."""

import math
import os
import subprocess
import sys
import threading
from array import array
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis.strategies import binary, data, floats, integers, lists, permutations, text

from cache_app.core import hash_ring
from cache_app.core.hash_ring import HashRing
from tests.journeys.conftest import ROOT

pytestmark = pytest.mark.contract("C13")

KEYS = [f"rs:recserve:default:1:all:u{number}:-:-".encode() for number in range(20_000)]
FEW = KEYS[:300]
names = lists(text(min_size=1, max_size=20), min_size=1, max_size=8, unique=True)


def ring_of(count, weight=1.0):
    return HashRing({f"10.0.0.{number}:6379/0": weight for number in range(1, count + 1)})


def placed(ring, keys=KEYS):
    return {key: ring.node(key) for key in keys}


# --- What moves ---


@pytest.mark.parametrize("count", range(2, 11))
def test_a_node_that_goes_takes_its_share_and_no_other(count):
    before = placed(ring_of(count))
    for gone in set(before.values()):
        ring = ring_of(count)
        ring.remove(gone)
        after = placed(ring)
        moved = [key for key in KEYS if before[key] != after[key]]
        assert all(before[key] == gone for key in moved)
        assert len(moved) <= (1 / count + 0.01) * len(KEYS)
        ring.add(gone)
        assert placed(ring, FEW) == {key: before[key] for key in FEW}


@given(names, text(min_size=1), floats(0.1, 3.0))
@settings(max_examples=50, deadline=None)
def test_a_new_node_takes_keys_for_itself_only(known, new, weight):
    ring = HashRing(dict.fromkeys(known, 1.0), points=40)
    if new in known:
        ring.remove(new)
        if not ring.weights:
            return
    before = placed(ring, FEW)
    ring.add(new, weight)
    for key in FEW:
        assert ring.node(key) in (before[key], new)
    heavier = placed(ring, FEW)
    ring.add(new, weight + 1)  # a heavier one keeps what it has
    assert all(ring.node(key) == new for key in FEW if heavier[key] == new)
    ring.remove(new)
    assert placed(ring, FEW) == before


@given(names, data())
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_nodes_does_not_matter(known, draw):
    one_by_one = HashRing(points=40)
    for name in draw.draw(permutations(known)):
        one_by_one.add(name)
    assert placed(one_by_one, FEW) == placed(HashRing(dict.fromkeys(known, 1.0), points=40), FEW)


def test_every_process_agrees():
    code = (
        "from cache_app.core.hash_ring import HashRing\n"
        "ring = HashRing({'a:1/0': 1, 'b:1/0': 2.5, 'é:1/0': 0.5})\n"
        "print([ring.nodes(f'key {n}', 2) for n in range(200)])\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(answers) == 1


def test_places_never_change():
    # Another version of recserve must find what this one stored.
    ring = HashRing({"a:1/0": 1, "b:1/0": 2.5, "é:1/0": 0.5})
    assert "".join(ring.node(f"key {number}")[0] for number in range(40)) == PLACES
    assert ring.node("é") == ring.node("é".encode())


PLACES = "abbbbébbbabbéaéaaabbbabbbabbébbbabbébbbb"


# --- How even ---


@pytest.mark.parametrize("count", [2, 3, 10])
def test_loads_are_even_without_bounds_already(count):
    loads = Counter(placed(ring_of(count)).values())
    assert max(loads.values()) / (len(KEYS) / count) <= 1.06


def test_weights_are_shares():
    ring = HashRing({"a": 1, "b": 2, "c": 0.5, "d": 4.5})
    loads = Counter(placed(ring).values())
    for name, weight in ring.weights.items():
        assert loads[name] / len(KEYS) == pytest.approx(weight / 8, rel=0.06), name


@pytest.mark.parametrize("bound", [1.0, 1.05, 1.25])
@pytest.mark.parametrize("count", [3, 10])
def test_bounded_loads_stay_below_the_bound(count, bound):
    # Few points: without the bound, loads would be uneven.
    nodes = {f"node {number}": 1.0 for number in range(count)}
    ring = HashRing(nodes, points=2)
    keys = KEYS[:3000]
    assert max(Counter(placed(ring, keys).values()).values()) > 1.25 * len(keys) / count
    loads = Counter()
    for done, key in enumerate(keys, 1):
        loads[ring.node_within(key, loads, bound)] += 1
        assert max(loads.values()) <= math.ceil(Fraction(bound) * done / count)
    assert max(loads.values()) / (len(keys) / count) <= 1.25


@given(
    lists(floats(0.1, 5.0), min_size=1, max_size=6),
    lists(floats(0, 50), min_size=6, max_size=6),
    floats(1.0, 2.0),
    binary(),
)
@example([1.0, 1.0], [0.5, 0.5] + [0.0] * 4, 1.0, b"")
@settings(max_examples=200, deadline=None)
def test_some_node_has_always_room(weights, given_loads, bound, key):
    ring = HashRing({f"n{number}": weight for number, weight in enumerate(weights)}, points=5)
    loads = {f"n{number}": load for number, load in enumerate(given_loads)}
    assert ring.node_within(key, loads, bound) in ring.weights


def test_bounds_follow_weights():
    ring = HashRing({"small": 1, "large": 3})
    loads = Counter()
    for key in KEYS[:2000]:
        loads[ring.node_within(key, loads, 1.0)] += 1
    assert loads == {"small": 500, "large": 1500}


def test_a_node_with_room_keeps_its_keys():
    ring = ring_of(3)
    assert all(ring.node_within(key, {}) == ring.node(key) for key in FEW)


# --- Replicas ---


@given(names, integers(0, 10), binary())
@settings(max_examples=100, deadline=None)
def test_replicas_are_different_nodes(known, replicas, key):
    ring = HashRing(dict.fromkeys(known, 1.0), points=20)
    nodes = ring.nodes(key, replicas)
    assert len(nodes) == len(set(nodes)) == min(replicas, len(known))
    assert set(nodes) <= set(known)
    assert nodes[:1] == ([ring.node(key)] if replicas else [])
    everyone = ring.nodes(key, len(known))
    assert everyone[:replicas] == nodes
    if len(known) > 1:  # the next takes over from a node that goes
        ring.remove(everyone[0])
        assert ring.nodes(key, len(known)) == everyone[1:]


# --- Corners ---


def test_nodes_in_one_place_are_told_apart_by_name(monkeypatch):
    monkeypatch.setattr(hash_ring, "_places", lambda name, count: array("Q", [1 << 40] * count))
    for order in ("abc", "cba", "bca"):
        ring = HashRing(dict.fromkeys(order, 1.0), points=3)
        assert {ring.node(key) for key in FEW} == {"a"}
        assert ring.nodes(b"x", 3) == ["a", "b", "c"]
        ring.remove("a")
        assert ring.node(b"x") == "b"


def test_an_empty_ring_has_no_node():
    ring = HashRing()
    assert ring.nodes("x", 2) == []
    for look_up in (lambda: ring.node("x"), lambda: ring.node_within("x", {})):
        with pytest.raises(LookupError, match="The ring has no node"):
            look_up()
    with pytest.raises(KeyError):
        ring.remove("x")


@pytest.mark.parametrize("weight", [0, -1, math.inf, math.nan])
def test_a_weight_is_positive(weight):
    with pytest.raises(ValueError, match="The weight of a must be a positive number"):
        HashRing({"a": weight})
    with pytest.raises(ValueError, match="The weight of a must be a positive number"):
        HashRing().add("a", weight)


def test_what_else_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="name must not be empty"):
        HashRing({"": 1})
    with pytest.raises(ValueError, match="points must be 1 or more"):
        HashRing(points=0)
    with pytest.raises(ValueError, match="bound must be 1 or more"):
        ring_of(1).node_within("x", {}, bound=0.9)
    monkeypatch.setattr(hash_ring, "_NODE", 1)
    with pytest.raises(ValueError, match="A ring has 1 nodes at most"):
        HashRing({"a": 1, "b": 1})


def test_the_lightest_node_has_a_point():
    assert HashRing({"a": 1e-9}).node("x") == "a"


def test_threads_look_up_while_nodes_come_and_go():
    ring = HashRing({"a": 1.0, "b": 1.0}, points=50)
    errors = []
    done = threading.Event()

    def look_up():
        try:
            while not done.is_set():
                for key in FEW:
                    assert ring.node(key) in {"a", "b", "c"}
                    assert len(ring.nodes(key, 2)) == 2
        except (AssertionError, LookupError) as error:
            errors.append(error)

    threads = [threading.Thread(target=look_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        ring.add("c")
        ring.remove("c")
    done.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert ring.weights == {"a": 1.0, "b": 1.0}
