"""Samples of metrics as plain values: what one process has, and the sum over several.

A counter must never fall, or Prometheus takes it for a restart and counts everything anew. So what
processes that are gone counted stays in the sum, and within a process a count that began again at
zero (a version that left and came back) goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serving_app.core.latency import BOUNDS, LatencyCounts

__all__ = [
    "LATENCY_BOUNDS",
    "Buckets",
    "Family",
    "Monotone",
    "Samples",
    "from_json",
    "latencies",
    "merged",
    "to_json",
    "without_gauges",
]

Labels = tuple[str, ...]


_STEPS = [bound for i, bound in enumerate(BOUNDS) if i >= 20 and i % 20 in {0, 6, 14}]
LATENCY_BOUNDS: tuple[float, ...] = tuple(_STEPS)
"""Bounds of exported latencies: 1, 2 and 5 of each decade (to 0.3 %), from 10 µs to 100 s."""
_STEP_OF = [
    next((step for step in LATENCY_BOUNDS if step >= bound), float("inf")) for bound in BOUNDS
] + [float("inf")]


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram: how many values up to each bound, not cumulated, and their sum."""

    counts: dict[float, int] = field(default_factory=dict)
    total: float = 0.0

    @property
    def count(self) -> int:
        """Return how many values there are."""
        return sum(self.counts.values())

    def plus(self, other: Buckets) -> Buckets:
        """Return both as one."""
        counts = dict(self.counts)
        for bound, n in other.counts.items():
            counts[bound] = counts.get(bound, 0) + n
        return Buckets(counts, self.total + other.total)


Value = float | Buckets
Samples = dict[str, dict[Labels, Value]]
"""Values by name of the family, and by labels."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, what it is, and what its labels are called."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()
    merge: Literal["sum", "max", "min"] = "sum"
    """How the values of several processes become one; for gauges."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, that all are there from the first."""


def latencies(counts: LatencyCounts) -> Buckets:
    """Return a latency histogram with the bounds that are exported."""
    found: dict[float, int] = {}
    for bucket, n in counts.buckets.items():
        found[_STEP_OF[bucket]] = found.get(_STEP_OF[bucket], 0) + n
    return Buckets(found, counts.total)


def merged(parts: Iterable[Samples], families: Mapping[str, Family]) -> Samples:
    """Return the samples of several processes as one's. Families not known here are left out."""
    result: Samples = {}
    for part in parts:
        for name, samples in part.items():
            if name not in families:
                continue  # of a process of another release, during an update
            mine = result.setdefault(name, {})
            for labels, value in samples.items():
                known = mine.get(labels)
                mine[labels] = value if known is None else _both(known, value, families[name])
    return result


def _both(one: Value, two: Value, family: Family) -> Value:
    if isinstance(one, Buckets) or isinstance(two, Buckets):
        assert isinstance(one, Buckets), "a family is a histogram everywhere"
        assert isinstance(two, Buckets), "a family is a histogram everywhere"
        return one.plus(two)
    return {"sum": one + two, "max": max(one, two), "min": min(one, two)}[family.merge]


def without_gauges(samples: Samples, families: Mapping[str, Family]) -> Samples:
    """Return what stays true of a process that is gone."""
    return {
        name: each
        for name, each in samples.items()
        if name in families and families[name].kind != "gauge"
    }


class Monotone:
    """Lets no counter fall. One thread uses it."""

    def __init__(self, families: Mapping[str, Family]) -> None:
        self._families = families
        self._last: Samples = {}
        self._base: Samples = {}

    def add(self, now: Samples) -> Samples:
        """Return what was counted in all, given what is counted now."""
        for name, samples in without_gauges(self._last, self._families).items():
            for labels, before in samples.items():
                value = now.get(name, {}).get(labels)
                if value is None or _size(value) < _size(before):
                    base = self._base.setdefault(name, {})
                    known = base.get(labels)
                    base[labels] = (
                        before if known is None else _both(known, before, self._families[name])
                    )
        self._last = now
        return merged([self._base, now], self._families)


def _size(value: Value) -> float:
    return value.count if isinstance(value, Buckets) else value


def to_json(samples: Samples) -> dict[str, Any]:
    """Return samples as JSON values."""
    return {
        name: [
            [
                list(labels),
                [[[str(b), n] for b, n in sorted(value.counts.items())], value.total]
                if isinstance(value, Buckets)
                else value,
            ]
            for labels, value in each.items()
        ]
        for name, each in samples.items()
    }


def from_json(values: Any) -> Samples:
    """Return the samples that `to_json` wrote; what cannot be read is left out."""
    samples: Samples = {}
    for name, each in values.items() if isinstance(values, Mapping) else ():
        try:
            samples[name] = {tuple(labels): _value(value) for labels, value in each}
        except (TypeError, ValueError):
            continue
    return samples


def _value(value: Any) -> Value:
    if isinstance(value, list):
        counts, total = value
        return Buckets({float(bound): int(n) for bound, n in counts}, float(total))
    return float(value)
