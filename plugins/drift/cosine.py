"""Drift by the angle between two profiles."""

from __future__ import annotations

from collections.abc import Mapping

from plugins.drift_contracts import DriftCase, DriftVerdict

__all__ = ["CosineRule", "cosine_distance"]


class CosineRule:
    """Refreshes when the cosine distance of two profiles stays large, and drops when it is huge.

    A single odd purchase is no change of taste. So there is a hysteresis: a distance of
    ``refresh_at`` makes the rule suspect a change, and only if the following ``confirm`` looks do
    not find it below ``settle_at``, it is one.

    Args:
        refresh_at: The distance, 0 to 1, from which on a change is suspected.
        settle_at: The distance below which a suspicion ends.
        drop_at: The distance at which a confirmed change drops what is cached; above 1: never.
        confirm: Looks with new events that must confirm a suspicion; 0: none.
        min_events: Events since the last refresh before which nothing is decided. Of a feature
            vector, one is enough.
    """

    def __init__(
        self,
        *,
        refresh_at: float = 0.5,
        settle_at: float = 0.35,
        drop_at: float = 0.9,
        confirm: int = 1,
        min_events: int = 5,
    ) -> None:
        if not 0 < settle_at <= refresh_at <= 1:
            raise ValueError("0 < settle_at <= refresh_at <= 1 must hold")
        if drop_at < refresh_at:
            raise ValueError("drop_at must not be below refresh_at")
        if confirm < 0 or min_events < 1:
            raise ValueError("confirm must be at least 0, and min_events at least 1")
        self._refresh_at = refresh_at
        self._settle_at = settle_at
        self._drop_at = drop_at
        self._confirm = confirm
        self._min_events = min_events

    def judge(self, case: DriftCase) -> DriftVerdict:
        """Return what is to be done."""
        distance = cosine_distance(case.before, case.now)
        if case.source == "events" and case.events < self._min_events:
            reason = f"only {case.events} of {self._min_events} events"
            return DriftVerdict("keep", distance, reason, case.suspected > 0)
        bound = self._settle_at if case.suspected else self._refresh_at
        if distance < bound:
            return DriftVerdict("keep", distance, f"{distance:.2f} is below {bound:g}")
        confirm = 0 if case.source == "features" else self._confirm
        if case.suspected < confirm:
            reason = f"{distance:.2f}: suspected {case.suspected + 1} times, {confirm} to confirm"
            return DriftVerdict("keep", distance, reason, suspects=True)
        if distance >= self._drop_at:
            return DriftVerdict("drop", distance, f"{distance:.2f} is {self._drop_at:g} or more")
        return DriftVerdict("refresh", distance, f"{distance:.2f} is {bound:g} or more")


def cosine_distance(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Return 1 minus the cosine of two vectors of length 1, cut to 0 to 1; of empty ones: 0 or 1.

    Opposite weights, as feature vectors may have, are as far apart as those with nothing in common.
    """
    if not before or not now:
        return 0.0 if not before and not now else 1.0
    if len(before) > len(now):
        before, now = now, before
    dot = sum(weight * now.get(term, 0.0) for term, weight in before.items())
    return min(1.0, max(0.0, 1.0 - dot))
