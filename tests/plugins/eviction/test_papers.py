"""Policies beside their papers' algorithms, and what they are known to be good at."""

import math
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache_app.core.levels import Stored
from cache_app.core.memory import MemoryLevel
from plugins.eviction.arc import ARC
from plugins.eviction.builtin import recserve_eviction_policies
from plugins.eviction.climber import HillClimber
from plugins.eviction.lirs import LIRS
from plugins.eviction.sketch import FrequencySketch
from plugins.eviction.w_tinylfu import WTinyLFU

pytestmark = pytest.mark.contract("C3")

POLICIES = recserve_eviction_policies()
REQUESTS = st.lists(st.integers(0, 14), max_size=150)


class ARCOfThePaper:
    """Figure 4, word by word, on lists whose most recently used is first."""

    def __init__(self, capacity):
        self.c, self.p = capacity, 0.0
        self.t1, self.t2, self.b1, self.b2 = [], [], [], []

    def request(self, x):
        if x in self.t1 or x in self.t2:  # case I
            (self.t1 if x in self.t1 else self.t2).remove(x)
            self.t2.insert(0, x)
            return True
        if x in self.b1:  # case II
            self.p = min(self.p + max(len(self.b2) / len(self.b1), 1), self.c)
            self.replace(x)
            self.b1.remove(x)
            self.t2.insert(0, x)
        elif x in self.b2:  # case III
            self.p = max(self.p - max(len(self.b1) / len(self.b2), 1), 0)
            self.replace(x)
            self.b2.remove(x)
            self.t2.insert(0, x)
        else:  # case IV
            if len(self.t1) + len(self.b1) == self.c:
                if len(self.t1) < self.c:
                    self.b1.pop()
                    self.replace(x)
                else:
                    self.t1.pop()
            else:
                total = len(self.t1) + len(self.t2) + len(self.b1) + len(self.b2)
                if total >= self.c:
                    if total == 2 * self.c:
                        self.b2.pop()
                    self.replace(x)
            self.t1.insert(0, x)
        return False

    def replace(self, x):
        t1 = len(self.t1)
        if self.t1 and (t1 > self.p or (x in self.b2 and t1 == self.p)):
            self.b1.insert(0, self.t1.pop())
        else:
            self.b2.insert(0, self.t2.pop())

    def residents(self):
        return {*self.t1, *self.t2}


class LIRSOfThePaper:
    """Section 3.3 on lists: the top of S and the end of Q are last. Ghosts are bounded too."""

    def __init__(self, capacity):
        self.c = capacity
        self.hot_limit = capacity - max(1, int(0.01 * capacity))
        self.s, self.q, self.hot, self.ghosts = [], [], set(), []

    def request(self, x):
        hit = x in self.hot or x in self.q
        if x in self.hot:
            self.to_top(x)
        elif hit:
            self.q.remove(x)
            if x in self.s:
                self.heat(x)
            else:
                self.to_top(x)
                self.q.append(x)
        else:
            full = len(self.hot) + len(self.q) == self.c
            comes_back = x in self.s
            if comes_back:
                self.ghosts.remove(x)
            if full:
                victim = self.q.pop(0)
                if victim in self.s:
                    if len(self.ghosts) == self.c:
                        self.s.remove(self.ghosts.pop(0))
                    self.ghosts.append(victim)
            if comes_back or len(self.hot) < self.hot_limit:
                self.heat(x)
            else:
                self.to_top(x)
                self.q.append(x)
        self.prune()
        return hit

    def to_top(self, x):
        if x in self.s:
            self.s.remove(x)
        self.s.append(x)

    def heat(self, x):
        self.to_top(x)
        self.hot.add(x)
        if len(self.hot) > self.hot_limit:
            self.prune()
            bottom = self.s.pop(0)
            self.hot.remove(bottom)
            self.q.append(bottom)

    def prune(self):
        while self.s and self.s[0] not in self.hot:
            gone = self.s.pop(0)
            if gone in self.ghosts:
                self.ghosts.remove(gone)

    def residents(self):
        return {*self.hot, *self.q}


@pytest.mark.parametrize(("policy", "paper"), [(ARC, ARCOfThePaper), (LIRS, LIRSOfThePaper)])
@given(requests=REQUESTS, capacity=st.integers(2, 7))
@example(requests=[0, 0, 2, 4, 2, 1, 3, 0, 1], capacity=2)  # T1 is full of entries, B2 of ghosts
@settings(max_examples=150, deadline=None)
def test_a_policy_does_as_its_paper_says(policy, paper, requests, capacity):
    level, reference = MemoryLevel(policy, capacity=capacity), paper(capacity)
    for number in requests:
        key = f"k{number}"
        hit = level.get(key) is not None
        if not hit:
            level.put(key, Stored(1, 0.0, math.inf))
        level.check()
        assert hit == reference.request(key)
        assert {k for k, e in level._entries.items() if e.value} == reference.residents()


def hits(name, keys, capacity):
    level = MemoryLevel(POLICIES[name], capacity=capacity, rng=Random(0))
    for key in keys:
        if level.get(key) is None:
            level.put(key, Stored(1, 0.0, math.inf))
    level.check()
    return level.stats().hits


def test_lirs_and_w_tinylfu_withstand_a_loop_that_lru_never_hits():
    loop = [f"k{number % 120}" for number in range(12_000)]
    assert hits("lru", loop, 100) == 0
    for name in ("lirs", "w_tinylfu"):
        assert hits(name, loop, 100) > 0.5 * len(loop)


def test_arc_and_lirs_keep_hot_keys_that_a_scan_takes_from_lru():
    random = Random(1)
    keys = []
    for round_ in range(40):
        keys += [f"hot{random.randrange(60)}" for _ in range(300)]
        keys += [f"scan{round_}-{number}" for number in range(150)]
    worst = hits("lru", keys, 100)
    for name in ("arc", "lirs", "s3fifo", "w_tinylfu"):
        assert hits(name, keys, 100) > worst


@pytest.mark.parametrize("name", ["s3fifo", "w_tinylfu", "arc", "two_q", "lirs", "gdsf", "clock"])
def test_a_policy_beats_fifo_on_zipf(name):
    random = Random(2)
    ranks = range(1, 5001)
    keys = [f"k{n}" for n in random.choices(ranks, [1 / rank for rank in ranks], k=30_000)]
    assert hits(name, keys, 200) > hits("fifo", keys, 200)


# --- W-TinyLFU --------------------------------------------------------------------------------


def fill(level, prefix, count, origin="miss"):
    for number in range(count):
        level.put(f"{prefix}{number}", Stored(1, 0.0, math.inf), origin)
        level.check()


def residents(level, prefix):
    return {k for k, e in level._entries.items() if e.value and k.startswith(prefix)}


def test_the_filter_of_w_tinylfu_refuses_what_is_rarely_used():
    level = MemoryLevel(WTinyLFU, capacity=50, rng=Random(0))
    fill(level, "used", 50)
    for _ in range(3):
        for number in range(50):
            level.get(f"used{number}")
    fill(level, "once", 500)
    assert len(residents(level, "used")) >= 45


def test_warmed_entries_are_not_refused_and_leave_first_while_unused():
    level = MemoryLevel(WTinyLFU, capacity=50, rng=Random(0))
    fill(level, "used", 50)
    for _ in range(3):
        for number in range(50):
            level.get(f"used{number}")
    level.put("warm0", Stored(1, 0.0, math.inf), "warmup")
    assert residents(level, "warm") == {"warm0"}
    before = residents(level, "used")
    level.put("new", Stored(1, 0.0, math.inf))
    assert residents(level, "warm") == set()
    assert residents(level, "used") == before


def test_the_keys_of_a_new_version_are_not_locked_out_by_those_of_the_old_one():
    kept = []
    for told in (False, True):
        level = MemoryLevel(WTinyLFU, capacity=50, rng=Random(0))
        fill(level, "old", 50)
        for _ in range(14):
            for number in range(50):
                level.get(f"old{number}")
        if told:
            for _ in range(2):  # the version goes live, and its keys are invalidated
                level.on_generation("default", 0, 2)
        for _ in range(6):
            for number in range(50):
                if level.get(f"new{number}") is None:
                    level.put(f"new{number}", Stored(1, 0.0, math.inf))
        level.check()
        kept.append(len(residents(level, "new")))
    assert kept[1] > 2 * kept[0]


def test_a_warmed_entry_that_was_used_stays_like_any_other():
    level = MemoryLevel(WTinyLFU, capacity=50, rng=Random(0))
    fill(level, "warm", 50, "warmup")
    for _ in range(3):
        level.get("warm7")
    fill(level, "new", 40)
    assert "warm7" in residents(level, "warm")
    assert residents(level, "new") == {f"new{number}" for number in range(40)}
    assert residents(level, "warm") == {"warm7", *(f"warm{n}" for n in range(41, 50))}


def test_the_window_follows_the_hit_ratio():
    climber = HillClimber(1000, 0.01)
    sizes = []
    for ratio in (0.2, 0.3, 0.4, 0.4, 0.1):
        for number in range(10_000):
            climber.count(hit=number < ratio * 10_000, entries=1000)
        climber.check()
        sizes.append(climber.window)
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3]
    assert sizes[4] < sizes[3]
    for _ in range(50):
        for number in range(10_000):
            climber.count(hit=number < 4000, entries=1000)
        climber.check()


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60))
@settings(deadline=None)
def test_the_sketch_never_counts_too_little_until_it_ages(spots):
    sketch = FrequencySketch(64)
    for spot in spots:
        sketch.add(spot)
    sketch.check()
    for spot in spots:
        assert sketch.frequency(spot) >= min(15, spots.count(spot))


def test_the_sketch_ages():
    sketch = FrequencySketch(16)
    for _ in range(159):
        sketch.add(3)
    assert sketch.frequency(3) == 15
    sketch.add(3)
    assert sketch.frequency(3) == 7
    sketch.halve()
    assert sketch.frequency(3) == 3
    sketch.grow(17)
    assert sketch.frequency(3) == 0
    sketch.check()
