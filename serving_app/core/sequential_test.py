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

**Latency.** A request is *slow* if it took longer than a quantile of production's before this tick
(p50 and p90); a canary's, if it took more than `SLACK` buckets longer. The threshold is known
before the tick, so the same bet holds, of "no more than a quarter slower" as the null hypothesis:
a canary with an emptier queue or colder caches than production's is not yet worse.

Sources: J. Ville, *Étude critique de la notion de collectif* (1939); R. Turner, A. Ly,
P. Grünwald, *Generic E-variables for exact sequential k-sample tests that allow for optional
stopping* (J. Stat. Plan. Inference 230, 2024), for 2x2 tables in blocks; R. Johari, L. Pekelis,
D. Walsh, *Always valid inference* (Operations Research 70, 2022), for mixing over alternatives.
Deviations: Turner et al. bet on estimated success rates; conditioning on ``e`` does away with them,
as Fisher's exact test does. The mixture is over a grid, not a density. Requests of one tick are
taken to be exchangeable; those of one batch are not quite, which is why a computation counts once,
and why latency has slack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving_app.core.latency import LatencyCounts

__all__ = ["Arm", "SequentialTest", "Verdict", "log_bets"]

ODDS = np.array([1.5, 2.0, 4.0, 10.0, 50.0])
"""Odds ratios that are bet on. What is nearer to 1 than 1.2 or so is never found worse."""
QUANTILES = (0.5, 0.9)
"""Of production's latency: beyond them a request is slow."""
SLACK = 2
"""Latency buckets, of 12 % each, that the canary may be slower by."""
FEWEST = 50
"""Latencies of production without which its quantiles are unknown."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What one version did, in one tick or since the roll-out began."""

    requests: int = 0
    errors: int = 0
    buckets: Mapping[int, int] = field(default_factory=dict)
    """Latencies of what did not fail, by bucket of `serving_app.core.latency.BOUNDS`."""

    def slower_than(self, bucket: int) -> int:
        """Return how many took longer than a bucket's."""
        return sum(n for at, n in self.buckets.items() if at > bucket)

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
    """

    def __init__(
        self,
        *,
        alpha: float = 0.01,
        log_errors: Sequence[float] | None = None,
        log_latency: Sequence[float] | None = None,
        production: Arm | None = None,
    ) -> None:
        self._log_threshold = math.log(2 / alpha)
        self._errors = np.zeros(len(ODDS)) if log_errors is None else np.array(log_errors)
        self._latency = (
            np.zeros(len(ODDS) * len(QUANTILES)) if log_latency is None else np.array(log_latency)
        )
        self._production = production or Arm()

    @property
    def state(self) -> dict[str, list[float]]:
        """Return what, with production's sums, a test goes on from."""
        return {"log_errors": self._errors.tolist(), "log_latency": self._latency.tolist()}

    def add(self, canary: Arm, production: Arm) -> None:
        """Take what both arms did in one tick."""
        self._errors += log_bets(
            canary.requests, canary.errors, production.requests, production.errors
        )
        n, m = sum(canary.buckets.values()), sum(production.buckets.values())
        if sum(self._production.buckets.values()) >= FEWEST:
            self._latency += np.concatenate(
                [
                    log_bets(
                        n, canary.slower_than(bucket + SLACK), m, production.slower_than(bucket)
                    )
                    for bucket in map(self._quantile, QUANTILES)
                ]
            )
        self._production = self._production + production

    def _quantile(self, q: float) -> int:
        """Return the bucket of a quantile of production's latencies so far."""
        rank = q * sum(self._production.buckets.values())
        seen = 0
        for bucket in sorted(self._production.buckets):
            seen += self._production.buckets[bucket]
            if seen >= rank:
                return bucket
        raise AssertionError("only asked when there are some")

    def verdict(self) -> Verdict | None:
        """Return why the canary is worse, or None as long as that is not shown."""
        for measure, log_wealth in (("errors", self._errors), ("latency", self._latency)):
            log_mean = float(_log_sum(log_wealth)) - math.log(len(log_wealth))
            if log_mean >= self._log_threshold:
                return Verdict(measure, math.exp(min(log_mean, 700.0)))  # type: ignore[arg-type]
        return None
