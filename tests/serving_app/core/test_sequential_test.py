"""The test is right: by hand, by enumeration, and on simulated roll-outs."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_app.core.latency import BOUNDS
from serving_app.core.sequential_test import (
    ODDS,
    SCORES,
    TILTS,
    Arm,
    SequentialTest,
    log_bets,
    log_rank_bets,
)

pytestmark = pytest.mark.contract("S14")


def hypergeometric(n, m, bad):
    """Return P(k) that k of the bad ones are among the first n."""
    whole = math.comb(n + m, bad)
    return {
        k: math.comb(n, k) * math.comb(m, bad - k) / whole
        for k in range(max(0, bad - m), min(n, bad) + 1)
    }


@given(n=st.integers(0, 30), m=st.integers(0, 60), data=st.data())
def test_a_bet_has_mean_one_if_both_arms_are_alike(n, m, data):
    bad = data.draw(st.integers(0, n + m))
    mean = sum(p * np.exp(log_bets(n, k, m, bad - k)) for k, p in hypergeometric(n, m, bad).items())
    assert mean == pytest.approx(np.ones(len(ODDS)))


@given(n=st.integers(1, 20), m=st.integers(1, 40), better=st.floats(0.05, 1.0), data=st.data())
def test_a_bet_has_a_mean_below_one_if_the_canary_is_better(n, m, better, data):
    bad = data.draw(st.integers(0, n + m))
    weights = {k: p * better**k for k, p in hypergeometric(n, m, bad).items()}
    whole = sum(weights.values())
    mean = sum(w / whole * np.exp(log_bets(n, k, m, bad - k)) for k, w in weights.items())
    assert (mean <= 1 + 1e-9).all()


def test_a_bet_by_hand():
    # One canary and three production requests, one bad: P(k=1) = 1/4.
    assert np.exp(log_bets(1, 1, 3, 0)) == pytest.approx(ODDS / (3 / 4 + ODDS / 4))
    assert np.exp(log_bets(1, 0, 3, 1)) == pytest.approx(1 / (3 / 4 + ODDS / 4))


classes = st.lists(st.integers(0, len(SCORES) - 1), min_size=1, max_size=9)


def of_classes(values):
    return np.bincount(values, minlength=len(SCORES))


@given(pool=classes, n=st.integers(0, 9))
def test_a_bet_on_latency_has_mean_one_if_both_arms_are_alike(pool, n):
    everyone = range(len(pool))
    bets = [
        np.exp(
            log_rank_bets(
                of_classes([pool[i] for i in chosen]),
                of_classes([pool[i] for i in everyone if i not in chosen]),
            )
        )
        for chosen in itertools.combinations(everyone, min(n, len(pool)))
    ]
    assert np.mean(bets, axis=0) == pytest.approx(np.ones(len(TILTS)))


@given(canary=classes, production=classes, which=st.integers(0, 8))
def test_a_bet_on_latency_grows_with_each_of_the_canarys(canary, production, which):
    """So that its mean is no more than one if the canary is faster."""
    which %= len(canary)
    slower = [*canary[:which], len(SCORES) - 1, *canary[which + 1 :]]
    others = of_classes(production)
    before, after = (log_rank_bets(of_classes(each), others) for each in (canary, slower))
    assert (after >= before - 1e-9).all()


def test_many_latencies_are_no_trouble():
    alike = log_rank_bets(np.full(6, 30_000), np.full(6, 100_000))
    assert np.isfinite(alike).all()
    assert alike.max() < 0
    slower = log_rank_bets(np.arange(0, 60_000, 10_000), np.full(6, 100_000))
    assert np.isfinite(slower).all()
    assert slower.max() > 1000


def test_latencies_from_before_the_roll_out_make_the_first_tick_count():
    slow, usual = Arm(20, 0, {70: 20}), Arm(80, 0, {60: 80})
    test = SequentialTest()
    test.add(slow, usual)
    assert test.verdict() is None
    test = SequentialTest(before=Arm(100, 0, {60: 100}))
    test.add(slow, usual)
    assert test.verdict().measure == "latency"


def test_the_state_of_another_releases_latency_is_left_out():
    test = SequentialTest(log_latency=[9.0] * 10)
    assert test.verdict() is None


def test_many_requests_are_no_trouble():
    bets = log_bets(200_000, 20_000, 800_000, 20_000)
    assert np.isfinite(bets).all()
    assert bets.max() > 1000


def simulated(rng, requests, share, rate, seconds):
    """Return one tick of an arm; its latencies are lognormal."""
    n = rng.binomial(requests, share)
    errors = rng.binomial(n, rate)
    took = rng.lognormal(math.log(seconds), 0.5, n - errors)
    buckets, counts = np.unique(np.searchsorted(BOUNDS, took), return_counts=True)
    return Arm(n, int(errors), dict(zip(buckets.tolist(), counts.tolist(), strict=True)))


def roll_out(seed, *, ticks, worse_rate=0.0, slower=1.0, share=None):
    """Return after how many ticks a simulated canary is found worse, and why; None: never.

    Traffic, error rate and latency change from tick to tick, for both arms alike.
    """
    rng = np.random.default_rng(seed)
    share = share or rng.choice([0.01, 0.05, 0.2, 0.5])
    base = rng.choice([0.0, 0.001, 0.02, 0.1])
    speed = rng.choice([0.001, 0.01, 0.1])
    test = SequentialTest()
    for tick in range(ticks):
        requests = int(rng.choice([0, 5, 50, 200, 1000]))
        rate = min(1.0, base * rng.choice([0.5, 1.0, 5.0]))
        seconds = speed * rng.lognormal(0, 0.3)
        arm = partial(simulated, rng, requests)
        test.add(
            arm(share, min(1.0, rate + worse_rate), seconds * slower),
            arm(1 - share, rate, seconds),
        )
        if (verdict := test.verdict()) is not None:
            return tick + 1, verdict.measure
    return None


def test_of_300_canaries_that_are_no_worse_at_most_one_percent_is_rolled_back():
    found = [seed for seed in range(300) if roll_out(seed, ticks=100) is not None]
    assert len(found) <= 3, found


def test_looking_at_a_usual_test_after_every_tick_would_condemn_many():
    """The figure above means something: the same traffic, by a z-test at 1 %."""

    def peeking(seed):
        rng = np.random.default_rng(seed)
        k = n = bad = m = 0
        for _ in range(100):
            requests = int(rng.choice([5, 50, 200, 1000]))
            n, m = n + requests, m + requests
            k, bad = k + rng.binomial(requests, 0.02), bad + rng.binomial(requests, 0.02)
            pooled = (k + bad) / (n + m)
            deviation = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
            if deviation and (k / n - bad / m) / deviation > 2.326:
                return True
        return False

    assert sum(map(peeking, range(300))) > 9


@pytest.mark.parametrize(
    ("worse", "measure"),
    [
        ({"worse_rate": 1.0}, "errors"),
        ({"worse_rate": 0.3}, "errors"),
        ({"slower": 3.0}, "latency"),
        ({"slower": 20.0}, "latency"),
    ],
)
def test_a_canary_that_is_worse_is_found_soon(worse, measure):
    found = [roll_out(seed, ticks=60, share=0.1, **worse) for seed in range(40)]
    assert all(found), "each is found within two minutes"
    assert {why for _, why in found} == {measure}
    assert sorted(ticks for ticks, _ in found)[20] <= 4


def test_a_canary_that_is_faster_or_no_more_than_a_fifth_slower_is_not_worse():
    for slower in (0.3, 1.2):
        found = [roll_out(seed, ticks=60, share=0.5, slower=slower) for seed in range(15)]
        assert not any(found), slower


def test_an_arm_without_requests_and_latencies_of_nobody_say_nothing():
    test = SequentialTest()
    test.add(Arm(10, 10), Arm())
    test.add(Arm(), Arm(10, 10))
    test.add(Arm(5, 0, {90: 5}), Arm(5, 0, {10: 5}))  # too few to know a quantile
    assert test.verdict() is None


def test_a_test_goes_on_from_its_state():
    whole, first = SequentialTest(), SequentialTest()
    ticks = [(Arm(20, n, {50 + n: 20 - n}), Arm(80, 1, {50: 40, 52: 39})) for n in range(6)]
    production = Arm()
    for canary, other in ticks[:3]:
        whole.add(canary, other)
        first.add(canary, other)
        production = production + other
    second = SequentialTest(**first.state, production=production)
    for canary, other in ticks[3:]:
        whole.add(canary, other)
        second.add(canary, other)
    assert second.state == whole.state
    assert second.verdict() == whole.verdict()
