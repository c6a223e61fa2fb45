"""What is known of a roll-out: the counts of its two versions, and the test, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from serving_app.core.outcomes import OutcomeCounts
from serving_app.core.sequential_test import Arm, SequentialTest, Verdict

__all__ = ["Evidence"]


@dataclass(slots=True)
class Evidence:
    """What processes told of a roll-out so far. One thread of one process uses it at a time."""

    canary: Arm = field(default_factory=Arm)
    production: Arm = field(default_factory=Arm)
    seen: dict[str, tuple[Arm, Arm]] = field(default_factory=dict)
    """The last counts of each process: of the canary, and of production."""
    before: Arm = field(default_factory=Arm)
    """What production had done in each process when it was first seen."""
    log_errors: list[float] | None = None
    log_latency: list[float] | None = None

    def look(
        self, told: Mapping[str, tuple[OutcomeCounts, OutcomeCounts]], *, alpha: float
    ) -> Verdict | None:
        """Take what has been counted since the last look; return why the canary is worse, if so.

        Args:
            told: What each process counted, of the canary and of production, since it began. What
                a process counted before it is first seen does not count: it may be older than the
                roll-out.
            alpha: See `SequentialTest`.
        """
        canary, production = Arm(), Arm()
        for process, counts in told.items():
            now = (_arm(counts[0]), _arm(counts[1]))
            before = self.seen.get(process)
            if before is None:
                before = now
                self.before = self.before + now[1]
            canary = canary + _since(before[0], now[0])
            production = production + _since(before[1], now[1])
            self.seen[process] = now
        self.seen = {process: self.seen[process] for process in told}
        test = SequentialTest(
            alpha=alpha,
            log_errors=self.log_errors,
            log_latency=self.log_latency,
            production=self.production,
            before=self.before,
        )
        test.add(canary, production)
        self.canary, self.production = self.canary + canary, self.production + production
        self.log_errors, self.log_latency = test.state["log_errors"], test.state["log_latency"]
        return test.verdict()

    def as_json(self) -> dict[str, Any]:
        """Return the evidence as JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return values

    @classmethod
    def from_json(cls, values: Any) -> Evidence:
        """Return the evidence that `as_json` wrote, or none of an empty value.

        Raises:
            ValueError: It did not write these.
        """
        return msgspec.convert(values, cls, strict=False, str_keys=True)


def _arm(counts: OutcomeCounts) -> Arm:
    return Arm(counts.requests, counts.errors, counts.seconds.buckets)


def _since(before: Arm, now: Arm) -> Arm:
    """Return what was counted in between; counts that fell belong to a version loaded anew."""
    if now.requests < before.requests or now.errors < before.errors:
        return now
    buckets = {at: n - before.buckets.get(at, 0) for at, n in now.buckets.items()}
    if min(buckets.values(), default=0) < 0:
        return now
    return Arm(
        now.requests - before.requests,
        now.errors - before.errors,
        {at: n for at, n in buckets.items() if n},
    )
