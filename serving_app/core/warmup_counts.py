"""What the warm-ups of this process did, for its metrics. It is never less than it was."""

from __future__ import annotations

import threading

__all__ = ["WARM_UP", "WarmupCounts"]


class WarmupCounts:
    """Counts by schedule; runs of none are counted under the empty name. Any thread calls it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, ...], float] = {}
        self._questions: dict[tuple[str, ...], float] = {}
        self._sums: dict[str, dict[tuple[str, ...], float]] = {}

    def ended(self, schedule: str, state: str) -> None:
        """Count a run that ended in a state."""
        with self._lock:
            key = schedule, state
            self._runs[key] = self._runs.get(key, 0) + 1

    def dealt_with(self, schedule: str, outcome: str, n: int) -> None:
        """Count questions that were dealt with."""
        with self._lock:
            key = schedule, outcome
            self._questions[key] = self._questions.get(key, 0) + n

    def spent(self, schedule: str, seconds: float) -> None:
        """Count seconds of the model."""
        self._add("spent", schedule, seconds)

    def earned(self, schedule: str, hits: int, seconds: float) -> None:
        """Count warmed questions that were asked, and the model's seconds for them."""
        self._add("hits", schedule, hits)
        self._add("saved", schedule, seconds)

    def _add(self, what: str, schedule: str, n: float) -> None:
        with self._lock:
            sums = self._sums.setdefault(what, {})
            sums[(schedule,)] = sums.get((schedule,), 0.0) + n

    def samples(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return all counts, by metric and labels."""
        with self._lock:
            return {
                "recserve_warmup_runs_total": dict(self._runs),
                "recserve_warmup_questions_total": dict(self._questions),
                **{metric: dict(self._sums.get(what, {})) for metric, what in _SUMS.items()},
            }


_SUMS = {
    "recserve_warmup_model_seconds_total": "spent",
    "recserve_warmup_hits_earned_total": "hits",
    "recserve_warmup_model_seconds_saved_total": "saved",
}

WARM_UP = WarmupCounts()
"""Of this process."""
