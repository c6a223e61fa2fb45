"""How much an asking counts, the longer it is ago the less."""

from __future__ import annotations

import math

from plugins.warmup.option_checks import DAY

__all__ = ["Fading"]


class Fading:
    """Weights of askings that halve at a constant pace, or do not fade at all.

    Args:
        days: How far back askings are counted.
        half_life_days: After how many days an asking counts half; None: all count alike.
    """

    def __init__(self, days: float, half_life_days: float | None) -> None:
        self._half_life = None if half_life_days is None else half_life_days * DAY
        if half_life_days is None:
            self.per_day = 1 / days
            """What the sum of weights is to be multiplied by to give the askings a day."""
        else:
            # One asking a day sums up to the integral of its weight over the days that count.
            rate = math.log(2) / half_life_days
            self.per_day = rate / -math.expm1(-rate * days)

    def worth(self, age: float) -> float:
        """Return what an asking weighs that was so many seconds ago."""
        if self._half_life is None:
            return 1.0
        return float(0.5 ** (max(0.0, age) / self._half_life))
