"""Whether a canary is worse than production: a test that may be looked at after every tick.

A roll-out looks at its canary every two seconds. A usual test, looked at so often, sooner or later
condemns a canary that is no worse. This one does not: what it multiplies is a *test martingale*,
whose mean is at most 1 at any time if the canary is no worse, so that by Ville's inequality it ever
reaches 1/α with probability α at most, however often, and however long, one looks.

**The bet of one tick.** Of ``n`` canary and ``m`` production requests, ``k`` and ``l`` were bad. If
all were alike, then, given that ``e = k + l`` were bad, ``k`` would be hypergeometric: which of the
``n + m`` they were is chance. Against it stands Fisher's noncentral hypergeometric distribution,
with odds ``θ`` times as high for the canary. Their likelihood ratio,
``θ^k / Σ_j P(j) θ^j``, has mean 1 if the canary is as good as production, and less if it is better,
since it grows with ``k``. As it depends on no rate, only on the odds ratio, the rates may change
from tick to tick, as they do when the database behind a feature source has a bad minute.

**The process.** The ratios of all ticks are multiplied, for each of several ``θ``, and the products
averaged, which is again a test martingale.

**Latency.** Quantiles of production's latencies before this tick make classes, each of which has a
score; a canary's latency is taken for `SLACK` buckets less than it was. Given how many of all
requests are in each class, chance decides which of them are the canary's. The bet is the likelihood
ratio for a canary that has a request with odds that grow by e^(λ·score): the product of those odds
over its requests, divided by the mean of that product over all choices of as many requests. That is
the bet above with more than two classes, has the same properties, and needs about half as many
requests as one on "slower than the median", since how much slower counts, too. The classes are
known before the tick, and the null hypothesis is "no more than a quarter slower": a canary with an
emptier queue or colder caches than production's is not yet worse.

Sources: J. Ville, *Étude critique de la notion de collectif* (1939); R. Turner, A. Ly,
P. Grünwald, *Generic E-variables for exact sequential k-sample tests that allow for optional
stopping* (J. Stat. Plan. Inference 230, 2024), for 2x2 tables in blocks; R. Johari, L. Pekelis,
D. Walsh, *Always valid inference* (Operations Research 70, 2022), for mixing over alternatives.
Deviations: Turner et al. bet on estimated success rates; conditioning on ``e`` does away with them,
as Fisher's exact test does; with classes of latency it is a linear rank test's likelihood. The
mixture is over a grid, not a density. Requests of one tick are taken to be exchangeable; those of
one batch are not quite, which is why a computation counts once, and why latency has slack.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving_app.core.latency import LatencyCounts

__all__ = ["Arm", "SequentialTest", "Verdict", "log_bets", "log_rank_bets"]

ODDS = np.array([1.5, 2.0, 4.0, 10.0, 50.0])
"""Odds ratios that are bet on. What is nearer to 1 than 1.2 or so is never found worse."""
QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.97)
"""Of production's latency: the bounds of the classes."""
SCORES = np.array([-1.15, -0.32, 0.32, 0.93, 1.51, 2.17])
"""Of the classes: where the normal distribution has the middle of each."""
TILTS = np.array([0.5, 1.0, 2.0, 4.0])
"""How much odds grow with the score: what is bet on. 1.0 is nearest to a canary that takes twice as
long, if latencies vary as usual."""
SLACK = 2
"""Latency buckets, of 12 % each, that the canary may be slower by."""
_HALVINGS = 20
"""Of 100, to find where a mean is: to 0.0001, which is close enough."""
FEWEST = 50
"""Latencies of production without which its quantiles are unknown."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What one version did, in one tick or since the roll-out began."""

    requests: int = 0
    errors: int = 0
    buckets: Mapping[int, int] = field(default_factory=dict)
    """Latencies of what did not fail, by bucket of `serving_app.core.latency.BOUNDS`."""

    @property
    def timed(self) -> int:
        """Return how many latencies are known."""
        return sum(self.buckets.values())

    def classes(self, bounds: Sequence[int]) -> NDArray[np.int64]:
        """Return how many latencies are in each class.

        Args:
            bounds: The last bucket of each class but the last, rising.
        """
        counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        for at, n in self.buckets.items():
            counts[bisect.bisect_left(bounds, at)] += n
        return counts

    @property
    def median_ms(self) -> float:
        """Return in how many milliseconds half of them were done; 0 without any."""
        return LatencyCounts(dict(self.buckets), 0.0, 0.0).summary().p50 * 1000

    def __add__(self, other: Arm) -> Arm:
        buckets = dict(self.buckets)
        for at, n in other.buckets.items():
            buckets[at] = buckets.get(at, 0) + n
        return Arm(self.requests + other.requests, self.errors + other.errors, buckets)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a canary is worse."""

    measure: Literal["errors", "latency"]
    e_value: float
    """How many times more likely, at least, what was seen is if it is worse."""


def log_bets(n: int, k: int, m: int, bad: int) -> NDArray[np.float64]:
    """Return the logarithms of one tick's likelihood ratios, for each of `ODDS`.

    Args:
        n: The canary's requests.
        k: Of those, the bad ones.
        m: Production's requests.
        bad: Of those, the bad ones.
    """
    total = k + bad
    least, most = max(0, total - m), min(n, total)
    if least == most:
        return np.zeros(len(ODDS))  # nothing bad, all bad, or an arm without requests: no news
    # ln P(j) up to a constant, from the ratio of neighbours; then relative to its sum.
    j = np.arange(least, most, dtype=np.float64)
    steps = np.log((n - j) * (total - j)) - np.log((j + 1) * (m - total + j + 1))
    log_p = np.concatenate(([0.0], np.cumsum(steps)))
    log_p -= _log_sum(log_p)
    log_odds = np.log(ODDS)
    support = np.arange(least, most + 1)
    normaliser = _log_sum(log_p[None, :] + log_odds[:, None] * support[None, :])
    bets: NDArray[np.float64] = log_odds * k - normaliser
    return bets


def log_rank_bets(canary: NDArray[np.int64], production: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the logarithms of one tick's likelihood ratios, for each of `TILTS`.

    Args:
        canary: How many of its requests are in each class, of `SCORES`.
        production: The same.
    """
    pool, n = canary + production, int(canary.sum())
    if not 0 < n < pool.sum() or np.count_nonzero(pool) == 1:
        return np.zeros(len(TILTS))  # an arm without requests, or all alike: no news
    used = pool > 0
    pool, canary = pool[used], canary[used]
    log_odds = np.vstack((np.zeros(len(pool)), TILTS[:, None] * SCORES[used]))
    choices = _log_choices(log_odds, pool, n)
    bets: NDArray[np.float64] = log_odds[1:] @ canary - (choices[1:] - choices[0])
    return bets


def _log_choices(
    log_odds: NDArray[np.float64], pool: NDArray[np.int64], n: int
) -> NDArray[np.float64]:
    """Return the logarithm of the sum, over all choices of ``n`` of a pool, of their odds' product.

    It is the coefficient of t^n in Π (1 + odds·t)^count, a class each. At any t, that is, but for
    known factors, the probability that binomial variables add up to ``n``; and at a t where their
    mean is close to ``n``, nothing of it is too small for a float.

    Args:
        log_odds: Of each class, in each row.
        pool: How many there are of each class.
        n: How many are chosen; more than none and fewer than all.

    Returns:
        For each row.
    """
    low, high = -50.0 - log_odds.max(axis=1), 50.0 - log_odds.min(axis=1)
    for _ in range(_HALVINGS):
        log_t = (low + high) / 2
        few = (1 / (1 + np.exp(-(log_odds + log_t[:, None])))) @ pool < n
        low, high = np.where(few, log_t, low), np.where(few, high, log_t)
    tilted = log_odds + log_t[:, None]
    factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, pool.max() + 1)))))
    factors = np.logaddexp(0.0, tilted) @ pool - n * log_t
    chances = [_log_chance(each, pool, n, factorials) for each in tilted]
    choices: NDArray[np.float64] = factors + np.array(chances)
    return choices


def _log_chance(
    log_odds: NDArray[np.float64],
    pool: NDArray[np.int64],
    n: int,
    factorials: NDArray[np.float64],
) -> float:
    """Return the logarithm of the probability that binomial variables add up to ``n``.

    Args:
        log_odds: Of each.
        pool: How often each is tried.
        n: The sum.
        factorials: The logarithms of the factorials, from 0 on.
    """
    chance, first = np.ones(1), 0
    for log_odd, count in zip(log_odds, pool, strict=True):
        p = 1 / (1 + math.exp(-log_odd))
        reach = 12 * math.sqrt(count * p * (1 - p)) + 40
        j = np.arange(max(0, int(count * p - reach)), min(count, int(count * p + reach)) + 1)
        log_ways = factorials[count] - factorials[j] - factorials[count - j]
        log_miss = -math.log1p(math.exp(log_odd))  # ln(1 - p)
        chance = np.convolve(chance, np.exp(log_ways + j * log_odd + count * log_miss))
        first += int(j[0])
    return math.log(chance[n - first])


def _log_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln Σ exp along the last axis."""
    top = values.max(axis=-1)
    total: NDArray[np.float64] = top + np.log(np.exp(values - top[..., None]).sum(axis=-1))
    return total


class SequentialTest:
    """Canary against production, tick after tick.

    Args:
        alpha: The greatest probability, over the whole roll-out, that a canary that is no worse is
            found worse; half of it goes to errors, half to latency.
        log_errors: State of a test that goes on: see `state`.
        log_latency: The same.
        production: What production did until now.
        before: What it did before the roll-out, from which its latency is known until it has been
            asked often enough.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.01,
        log_errors: Sequence[float] | None = None,
        log_latency: Sequence[float] | None = None,
        production: Arm | None = None,
        before: Arm | None = None,
    ) -> None:
        self._log_threshold = math.log(2 / alpha)
        self._errors = np.zeros(len(ODDS)) if log_errors is None else np.array(log_errors)
        self._latency = np.zeros(len(TILTS))
        if log_latency is not None and len(log_latency) == len(TILTS):  # else of another release
            self._latency = np.array(log_latency)
        self._production = production or Arm()
        self._before = before or Arm()

    @property
    def state(self) -> dict[str, list[float]]:
        """Return what, with production's sums, a test goes on from."""
        return {"log_errors": self._errors.tolist(), "log_latency": self._latency.tolist()}

    def add(self, canary: Arm, production: Arm) -> None:
        """Take what both arms did in one tick."""
        self._errors += log_bets(
            canary.requests, canary.errors, production.requests, production.errors
        )
        known = self._production if self._production.timed >= FEWEST else self._before
        if known.timed >= FEWEST:
            bounds = _bounds(known)
            self._latency += log_rank_bets(
                canary.classes([bucket + SLACK for bucket in bounds]), production.classes(bounds)
            )
        self._production = self._production + production

    def verdict(self) -> Verdict | None:
        """Return why the canary is worse, or None as long as that is not shown."""
        for measure, log_wealth in (("errors", self._errors), ("latency", self._latency)):
            log_mean = float(_log_sum(log_wealth)) - math.log(len(log_wealth))
            if log_mean >= self._log_threshold:
                return Verdict(measure, math.exp(min(log_mean, 700.0)))  # type: ignore[arg-type]
        return None


def _bounds(known: Arm) -> list[int]:
    """Return the buckets of the quantiles of an arm's latencies."""
    buckets = sorted(known.buckets)
    seen = np.cumsum([known.buckets[bucket] for bucket in buckets])
    return [buckets[i] for i in np.searchsorted(seen, np.array(QUANTILES) * seen[-1])]
