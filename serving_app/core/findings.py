"""When and for whom the cache does not work, and what would help, in words.

Every sentence says only what was counted. What a change would gain is said as a bound, where there
is one, and else not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Cell", "Evidence", "Finding", "LevelCounts", "findings"]

_LEAST = 50
"""Look-ups without which nothing is said."""
_MUCH = 0.2
"""A part that is worth a sentence."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """Look-ups of a segment, or model, in one hour of the day."""

    name: str
    lookups: float
    misses: float
    seconds: float
    """What the requests took that missed, together."""
    hour: int | None = None

    @property
    def miss_rate(self) -> float:
        """Return misses among look-ups."""
        return self.misses / self.lookups if self.lookups else 0.0


@dataclass(frozen=True, slots=True)
class LevelCounts:
    """What a level counted."""

    insertions: float = 0.0
    evictions: float = 0.0
    expirations: float = 0.0
    up: float | None = None
    """For how much of the time it answered; None: nobody looked."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What findings are made of."""

    lookups: float = 0.0
    misses: float = 0.0
    miss_seconds: float = 0.0
    answers: float = 0.0
    stale: float = 0.0
    cells: Sequence[Cell] = ()
    """By segment and hour of the day."""
    models: Sequence[Cell] = ()
    levels: Mapping[str, LevelCounts] = field(default_factory=dict)
    question_days: int | None = None
    """Different questions on each day, summed over the days; None: not known."""
    questions: int = 0
    """Different questions over all days."""
    once: int = 0
    """Those, of them, that were asked only once."""
    own_features: float = 0.0
    """The part of requests that sent features of their own."""
    invalidations: Mapping[str, int] = field(default_factory=dict)
    """Scopes by what they cover: ``model``, ``all``, …"""
    hours: int = 0
    missing_hours: int = 0
    """Hours in which no process told anything."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    code: str
    """Stable, for programs."""
    what: str
    """What was counted."""
    help: str = ""
    """What would help."""


def findings(evidence: Evidence) -> list[Finding]:
    """Return what there is to say, what matters most first."""
    found = [*_gaps(evidence)]
    if evidence.lookups < _LEAST:
        n = round(evidence.lookups)
        said = f"The cache was asked {n:,} times: too few to say when it does not work."
        return [*found, Finding("too-few", said)]
    return [
        *_away(evidence),
        _overall(evidence),
        *_worst(evidence),
        *_models(evidence),
        *_levels(evidence),
        *_questions(evidence),
        *_features(evidence),
        *_invalidated(evidence),
        *_stale(evidence),
        *found,
    ]


def _percent(part: float, whole: float = 1.0) -> str:
    value = 100 * part / whole if whole else 0.0
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


def _overall(evidence: Evidence) -> Finding:
    missed = _percent(evidence.misses, evidence.lookups)
    return Finding(
        "overall",
        f"Of {evidence.lookups:,.0f} look-ups {missed} missed; "
        f"the requests that missed took {evidence.miss_seconds:,.1f} s together.",
    )


def _worst(evidence: Evidence) -> Iterable[Finding]:
    """Return the hours and segments that cost most, if some cost more than their share."""
    rate = evidence.misses / evidence.lookups
    worst = sorted(evidence.cells, key=lambda cell: -cell.seconds)[:_SHOWN]
    for cell in worst:
        share = cell.seconds / evidence.miss_seconds if evidence.miss_seconds else 0.0
        if (
            cell.lookups < _LEAST
            or cell.miss_rate <= rate
            or share < 2 / max(2, len(evidence.cells))
        ):
            continue
        hour = "" if cell.hour is None else f" between {cell.hour}:00 and {cell.hour + 1}:00"
        yield Finding(
            "worst",
            f"Segment {cell.name}{hour}: {_percent(cell.miss_rate)} of {cell.lookups:,.0f} "
            f"look-ups missed, which is {_percent(share)} of all the time that misses took.",
            "Warm this segment before that hour."
            if cell.hour is not None
            else "Look at what this segment asks.",
        )


def _models(evidence: Evidence) -> Iterable[Finding]:
    rate = evidence.misses / evidence.lookups
    for cell in evidence.models:
        if (
            len(evidence.models) > 1
            and cell.lookups >= _LEAST
            and cell.miss_rate > max(rate * 1.5, rate + 0.1)
        ):
            yield Finding(
                "model",
                f"Model {cell.name} misses {_percent(cell.miss_rate)} of its look-ups, all models "
                f"together {_percent(rate)}.",
                "See whether its questions differ more than they need to: its context is part of "
                "the key.",
            )


def _levels(evidence: Evidence) -> Iterable[Finding]:
    for name, counts in sorted(evidence.levels.items()):
        if counts.insertions >= _LEAST and counts.evictions > _MUCH * counts.insertions:
            yield Finding(
                "evictions",
                f"{name.upper()} evicted {counts.evictions:,.0f} values while "
                f"{counts.insertions:,.0f} were stored: it is smaller than what is asked.",
                "Give it more room (MAX_ENTRIES, MAX_BYTES), or another eviction policy; how much "
                "that would gain, these counts do not say.",
            )
        if evidence.misses >= _LEAST and counts.expirations > _MUCH * evidence.misses:
            yield Finding(
                "expirations",
                f"{name.upper()} dropped {counts.expirations:,.0f} values as expired, beside "
                f"{evidence.misses:,.0f} misses.",
                "Keep answers for longer (TTL), or let them be stale while they are renewed "
                "(STALE_WHILE_REVALIDATE).",
            )


def _questions(evidence: Evidence) -> Iterable[Finding]:
    if evidence.question_days is None or evidence.misses < _LEAST:
        return
    returning = evidence.question_days - evidence.questions
    if returning > _MUCH * evidence.misses:
        yield Finding(
            "first-of-day",
            f"{returning:,} times a question was asked for the first time on a day, that had been "
            f"asked on a day before; {evidence.misses:,.0f} look-ups missed in all.",
            f"Warm by popularity or recency: at most {min(returning, evidence.misses):,.0f} misses "
            "would have been hits.",
        )
    if evidence.once > _MUCH * evidence.misses:
        yield Finding(
            "once",
            f"{evidence.once:,} questions were asked only once; no cache answers those.",
            "See whether the context says more than the answer needs, as a time of day to the "
            "second.",
        )


def _features(evidence: Evidence) -> Iterable[Finding]:
    rate = evidence.misses / evidence.lookups
    if evidence.own_features > 0.5 and rate > 0.5:
        yield Finding(
            "own-features",
            f"{_percent(evidence.own_features)} of the requests sent features of their own: the "
            "same user with other features is another question.",
            "Let a feature source know the users' features.",
        )


def _invalidated(evidence: Evidence) -> Iterable[Finding]:
    given = evidence.invalidations
    if given.get("all") or given.get("model"):
        models = f"{given['model']:,} whole model(s)" if given.get("model") else ""
        what = " and ".join(filter(None, ("everything" if given.get("all") else "", models)))
        yield Finding(
            "invalidations",
            f"Invalidated in this time, once or more: {what}.",
            "Invalidate users or tags, where that is enough.",
        )


def _away(evidence: Evidence) -> Iterable[Finding]:
    for name, counts in sorted(evidence.levels.items()):
        if counts.up is not None and counts.up < 0.99:
            yield Finding(
                "away",
                f"{name.upper()} did not answer for {_percent(1 - counts.up)} of the time.",
                "Look at its servers: what they would have had was computed anew.",
            )


def _stale(evidence: Evidence) -> Iterable[Finding]:
    if evidence.answers >= _LEAST and evidence.stale > _MUCH * evidence.answers:
        yield Finding(
            "stale",
            f"{_percent(evidence.stale, evidence.answers)} of the answers were stale.",
            "Keep answers for longer (TTL), or see why renewals take so long.",
        )


def _gaps(evidence: Evidence) -> Iterable[Finding]:
    if evidence.missing_hours:
        yield Finding(
            "gaps",
            f"In {evidence.missing_hours:,} of {evidence.hours:,} hours no process told anything; "
            "nobody knows about those.",
        )
