"""Metrics: what can be read of the sums by minute, hour and day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from serving_app.core.latency import LatencyCounts
from serving_app.core.request_counts import MISS, NEGATIVE
from serving_app.core.rollups import LEVEL_COUNTS, Series

__all__ = ["METRICS", "Metric", "value_of"]

Quantile = Literal["", "p50", "p90", "p99"]

_OURS = frozenset(
    {"DeadlineExceeded", "InferenceError", "ModelNotReady", "QueueFull", "Unavailable"}
)
"""Errors that are not the caller's fault."""
_NO_HIT = frozenset({MISS, NEGATIVE})


@dataclass(frozen=True, slots=True)
class Metric:
    """What can be read of counts: a sum, a ratio of two sums, or a quantile."""

    name: str
    help: str
    top: tuple[str, ...]
    """Names of the series that are summed, or of the histogram."""
    bottom: tuple[str, ...] = ()
    """Those that the sum is divided by; none: it is not."""
    quantile: Quantile = ""
    only: frozenset[str] = frozenset()
    """Levels that are counted on top; none: all."""
    not_on_top: frozenset[str] = frozenset()
    """Levels that are not counted on top."""
    without: frozenset[str] = frozenset()
    """Levels that are counted neither on top nor below."""
    of_all: bool = False
    """Whether a level that is asked for counts on top only: its share of all."""
    unit: Literal["", "s", "ratio"] = ""
    by: frozenset[str] = frozenset({"model"})
    """What it can be told apart by: model, segment, level."""

    def names(self) -> frozenset[str]:
        """Return the series that it is read from."""
        return frozenset((*self.top, *self.bottom))


_MODEL = frozenset({"model"})
_LOOKUP = frozenset({"model", "segment", "level"})
_LEVEL = frozenset({"level"})
_NONE = frozenset[str]()
_NEGATIVE = frozenset({NEGATIVE})
_ASKED = ("answers", "errors")
_QUANTILES: tuple[tuple[Quantile, str], ...] = (
    ("p50", "median"),
    ("p90", "90th percentile"),
    ("p99", "99th percentile"),
)

_ALL = (
    Metric("requests", "Requests for a recommendation.", _ASKED),
    Metric("answers", "Those answered; the level is their source.", ("answers",), by=_MODEL),
    Metric(
        "errors",
        "Those refused or failed, whoever's fault; the level is the error.",
        ("errors",),
        by=frozenset({"model", "level"}),
    ),
    Metric(
        "failures",
        "Those that failed or were refused by no fault of the caller.",
        ("errors",),
        only=_OURS,
    ),
    Metric(
        "error_rate",
        "Failures among requests.",
        ("errors",),
        _ASKED,
        only=_OURS,
        of_all=True,
        unit="ratio",
    ),
    Metric(
        "refusals",
        "Requests refused because too much was queued.",
        ("errors",),
        only=frozenset({"QueueFull"}),
    ),
    Metric(
        "refusal_rate",
        "Refusals among requests.",
        ("errors",),
        _ASKED,
        only=frozenset({"QueueFull"}),
        of_all=True,
        unit="ratio",
    ),
    Metric("stale", "Answers that were stale.", ("stale",)),
    Metric("stale_rate", "Stale answers among all.", ("stale",), ("answers",), unit="ratio"),
    Metric("degraded", "Answers that stood in for a model that could not answer.", ("degraded",)),
    Metric("degraded_rate", "Those among all answers.", ("degraded",), ("answers",), unit="ratio"),
    Metric(
        "lookups",
        "Look-ups in the cache that were answered or missed.",
        ("lookups",),
        without=_NEGATIVE,
        by=_LOOKUP,
    ),
    Metric(
        "hits",
        "Look-ups that the cache answered, by level.",
        ("lookups",),
        without=_NO_HIT,
        by=_LOOKUP,
    ),
    Metric(
        "misses",
        "Look-ups that it did not answer.",
        ("lookups",),
        only=frozenset({MISS}),
        by=_LOOKUP,
    ),
    Metric(
        "negative", "Questions refused out of the cache.", ("lookups",), only=_NEGATIVE, by=_LOOKUP
    ),
    Metric(
        "hit_rate",
        "Hits among look-ups; of a level, its share of them.",
        ("lookups",),
        ("lookups",),
        not_on_top=_NO_HIT,
        without=_NEGATIVE,
        of_all=True,
        unit="ratio",
        by=_LOOKUP,
    ),
    Metric(
        "miss_rate",
        "Misses among look-ups.",
        ("lookups",),
        ("lookups",),
        only=frozenset({MISS}),
        without=_NEGATIVE,
        of_all=True,
        unit="ratio",
        by=_LOOKUP,
    ),
    Metric(
        "miss_seconds",
        "Time that requests took which missed.",
        ("latency_seconds",),
        only=frozenset({MISS}),
        unit="s",
        by=_LOOKUP,
    ),
    Metric(
        "mean",
        "Mean time from request to answer.",
        ("latency_seconds",),
        ("latency",),
        unit="s",
        by=_LOOKUP,
    ),
    *(
        Metric(
            q, f"From request to answer: {word}.", ("latency",), quantile=q, unit="s", by=_LOOKUP
        )
        for q, word in _QUANTILES
    ),
    *(
        Metric(
            f"level_{name}",
            f"{name.capitalize()} of a level, over all models.",
            (f"level_{name}",),
            by=_LEVEL,
        )
        for name in LEVEL_COUNTS
    ),
    Metric(
        "level_hit_rate",
        "Hits among look-ups in a level.",
        ("level_hits",),
        ("level_hits", "level_misses"),
        unit="ratio",
        by=_LEVEL,
    ),
    Metric(
        "level_up",
        "How much of the time, over all processes, a level answered.",
        ("level_up_seconds",),
        ("level_told_seconds",),
        unit="ratio",
        by=_LEVEL,
    ),
    Metric(
        "live",
        "How much of the time, over all processes, production was live.",
        ("live_seconds",),
        ("wanted_seconds",),
        unit="ratio",
    ),
    Metric("batches", "Batches run.", ("batches",)),
    Metric("batch_failures", "Batches that failed.", ("batch_failures",)),
    Metric("rows", "Rows run.", ("rows",)),
    Metric("batch_size", "Rows per batch.", ("rows",), ("batches",)),
    Metric("rejected", "Works that a queue refused.", ("rejected",)),
    Metric("expired", "Works whose deadline passed in a queue.", ("expired",)),
    Metric(
        "queue_length", "Works that waited, on average.", ("queued_seconds",), ("engine_seconds",)
    ),
    *(
        Metric(f"queue_{q}", f"Waiting for a batch: {word}.", ("queue",), quantile=q, unit="s")
        for q, word in _QUANTILES
    ),
    *(
        Metric(f"model_{q}", f"Running a batch: {word}.", ("model",), quantile=q, unit="s")
        for q, word in _QUANTILES
    ),
    Metric("model_seconds", "Time that models ran.", ("model_seconds",), unit="s"),
    Metric("http_requests", "HTTP requests, by class of status.", ("http",), by=_LEVEL),
    Metric(
        "http_failures",
        "HTTP requests answered with 5xx.",
        ("http",),
        only=frozenset({"5xx"}),
        by=_NONE,
    ),
    Metric("processes", "Serving processes that told what they counted.", ("told",), by=_NONE),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
"""By name."""


def value_of(
    metric: Metric, counts: Iterable[tuple[Series, float]], *, level: str | None = None
) -> float | None:
    """Return a metric's value for counts; None: there is none, as of a ratio without a whole.

    Args:
        metric: What to read.
        counts: Of the models and segments that are asked for, and of every level.
        level: The level that is asked for; None: all.
    """
    top = bottom = 0.0
    buckets: defaultdict[int, int] = defaultdict(int)
    left_out = metric.without | metric.not_on_top
    for series, n in counts:
        at, is_asked = series.level, level is None or series.level == level
        if series.name in metric.bottom and (is_asked or metric.of_all):
            bottom += n if at not in metric.without else 0.0
        if series.name not in metric.top or not is_asked or at in left_out:
            continue
        if metric.only and at not in metric.only:
            continue
        if metric.quantile:
            buckets[series.bucket] += round(n)
        else:
            top += n
    if metric.quantile:
        summary = LatencyCounts(dict(buckets), 0.0, 0.0).summary()
        value: float = getattr(summary, metric.quantile)
        return value if buckets else None
    if not metric.bottom:
        return top
    return top / bottom if bottom else None
