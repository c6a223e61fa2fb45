"""How often one caller may ask: GCRA, which needs one number per caller and no clean-up.

The generic cell rate algorithm (ITU-T I.371, annex A): a caller's *theoretical arrival time* (TAT)
moves on by one interval with each request; who is further ahead of the clock than the burst allows
must wait until that is no longer so. What was refused moves nothing, so the wait is exact.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["LocalRates", "Rate", "rate"]

_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "hour": 3600.0, "day": 86400.0}
_TEXT = re.compile(r"([1-9][0-9]{0,8})/([a-z]+)\Z")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds; all of them may come at once."""

    requests: int
    seconds: float

    @property
    def interval(self) -> float:
        """Seconds that one request stands for."""
        return self.seconds / self.requests


def rate(text: str) -> Rate:
    """Return the rate that a text such as ``20/s`` or ``100/min`` says.

    Raises:
        ValueError: It says none.
    """
    match = _TEXT.match(text) if isinstance(text, str) else None
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no rate; write 20/s, 100/min, 1000/h or 5000/day.")
    return Rate(int(match[1]), _UNITS[match[2]])


class LocalRates:
    """Rates of this process alone. Any thread uses them.

    Args:
        capacity: How many callers are remembered. Those who asked longest ago are forgotten first.
        clock: Seconds.
    """

    def __init__(
        self, *, capacity: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._clock = clock
        self._arrivals: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str, rate: Rate, cost: int = 1) -> float:
        """Count ``cost`` requests, and return 0; or count nothing, and return seconds to wait.

        A cost above the rate's number of requests counts as that number.
        """
        step = rate.interval * min(cost, rate.requests)
        with self._lock:
            now = self._clock()
            arrival = max(self._arrivals.get(key, now), now) + step
            wait = arrival - now - rate.seconds
            if wait > 1e-9 * rate.seconds:
                return wait
            self._arrivals[key] = arrival
            self._arrivals.move_to_end(key)
            while len(self._arrivals) > self._capacity:
                self._arrivals.popitem(last=False)
        return 0.0
