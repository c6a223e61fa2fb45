"""How long a batch takes, fitted to those that ran: t(n) = b + a·n."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["CostModel"]

_FORGET = 0.93
"""What an observation still weighs when the next one comes: about the last 14 count."""
_WIDE = 4.0
"""An observation further from its prediction than this many mean deviations is an outlier."""
_PERSISTS = 5
"""So many outliers in a row on one side are no outliers: the model has changed."""
_ENOUGH = 5
"""Observations before the first prediction."""


class CostModel:
    """Least squares with exponential forgetting, which outliers hardly move.

    Equal to recursive least squares with that forgetting factor, in the form of weighted sums, but
    for three things. An outlier counts as the largest deviation that is none. Where batches are all
    of about one size, what they do not tell (which part of the time is ``b``) stays as it was in
    proportion. And neither ``a`` nor ``b`` is below zero.

    ``a`` and ``b`` are seconds; sizes are what a batch's parts count together. It is not locked.
    """

    def __init__(self) -> None:
        self.a = 0.0
        self.b = 0.0
        self.observations = 0
        self._deviation = 0.25
        """Mean deviation of the observations from their predictions, of these."""
        self._one_side = 0
        """Outliers in a row; below zero: on the low side."""
        self._weight = self._n = self._t = self._nn = self._nt = 0.0

    def observe(self, size: int, seconds: float) -> None:
        """Hear of a batch that ran."""
        self.observations += 1
        if self.observations > _ENOUGH:
            seconds = self._clipped(self.b + self.a * size, seconds)
        # The weighted sums, and what solves them: the flatter the sizes, the closer to the last
        # proportion.
        weight = self._weight = self._weight * _FORGET + 1
        n = self._n = self._n * _FORGET + size
        t = self._t = self._t * _FORGET + seconds
        nn = self._nn = self._nn * _FORGET + size * size
        nt = self._nt = self._nt * _FORGET + size * seconds
        n, t = n / weight, t / weight
        variance = nn / weight - n * n
        if variance < 0:
            variance = 0.0
        before = self.b + self.a * n
        prior = self.a * t / before if before else 0.0
        pull = 0.01 * n * n
        slope = (nt / weight - n * t + pull * prior) / (variance + pull)
        most = t / n
        self.a = a = 0.0 if slope < 0 else min(slope, most)
        self.b = t - a * n if t > a * n else 0.0

    def predict(self, size: int) -> float | None:
        """Return the seconds that a batch is expected to take; None: too few ran yet."""
        return None if self.observations < _ENOUGH else self.b + self.a * size

    def chain(self, size: int, max_batch: int) -> float | None:
        """Return the seconds that full batches of this size together take, one after the other."""
        if self.observations < _ENOUGH:
            return None
        return self.b * -(-size // max_batch) + self.a * size

    def _clipped(self, expected: float, seconds: float) -> float:
        """Return what an observation counts as; forget much if the model has changed."""
        deviation = (seconds - expected) / expected if expected else 0.0
        wide = _WIDE * self._deviation
        if -wide <= deviation <= wide:
            self._one_side = 0
        else:
            side = 1 if deviation > 0 else -1
            self._one_side = self._one_side + side if self._one_side * side > 0 else side
            if abs(self._one_side) >= _PERSISTS:
                for name in ("_weight", "_n", "_t", "_nn", "_nt"):
                    setattr(self, name, getattr(self, name) * 0.05)
                wide = abs(deviation)
            deviation = max(-wide, min(wide, deviation))
        self._deviation += (1 - _FORGET) * (min(abs(deviation), 1.0) - self._deviation)
        self._deviation = max(self._deviation, 0.05)
        return expected * (1 + deviation)

    @staticmethod
    def mean(parts: Iterable[tuple[float, float, int]]) -> tuple[float, float]:
        """Return ``a`` and ``b`` over several models, each with its number of observations."""
        weighted = [(a * n, b * n, n) for a, b, n in parts]
        total = sum(n for _, _, n in weighted) or 1
        return sum(a for a, _, _ in weighted) / total, sum(b for _, b, _ in weighted) / total
