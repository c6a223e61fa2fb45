"""Which segment a user belongs to: rules over what it did, and when their answer may change."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from serving_app.core.activity import HOUR, REQUEST

__all__ = ["COMPARISONS", "FIELDS", "Condition", "Counts", "Deed", "Facts", "Rule", "choose"]

DAY = 86_400.0
"""Seconds."""
_JUST_AFTER = 0.001
"""Seconds after a bound at which a rule is asked again: ``<=`` still holds at the bound itself."""


class Counts(NamedTuple):
    """What a user did in one hour."""

    kind: str
    """``request``, or a kind of event."""
    hour: float
    """Its start, in Unix seconds."""
    n: int


class Deed(NamedTuple):
    """One event."""

    at: float
    """Unix seconds."""
    item: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a user."""

    first: float
    """When it was seen first, in Unix seconds."""
    last: float
    """When it was seen last."""
    counts: Sequence[Counts] = ()
    """By the hour."""
    deeds: Sequence[Deed] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """Something of a user that a condition may look at.

    Args:
        label: In words, for people.
        measure: Returns the value, of what lies in the window; None: there is none.
        times: Returns the instants of what is looked at, which leaves the window one by one.
        since: Returns the instant since which the value, in days, grows by itself.
        whole: Whether it is a count, which may equal a number.
        of_events: Whether single events are looked at, and not counts by the hour.
    """

    label: str
    measure: Callable[[Facts, float, float], float | None]
    times: Callable[[Facts], Collection[float]] | None = None
    since: Callable[[Facts], float] | None = None
    whole: bool = False
    of_events: bool = False

    @property
    def has_window(self) -> bool:
        """Return whether it is measured over the last days."""
        return self.times is not None


def _age(facts: Facts, now: float, _: float) -> float:
    return (now - facts.first) / DAY


def _idle(facts: Facts, now: float, _: float) -> float:
    return (now - facts.last) / DAY


def _count_of(label: str, kinds: Collection[str] | None) -> Field:
    """Return the field that counts what was done of some kinds; None: of all kinds of events."""

    def counted(kind: str) -> bool:
        return kind != REQUEST if kinds is None else kind in kinds

    def measure(facts: Facts, _: float, start: float) -> float:
        return sum(each.n for each in facts.counts if counted(each.kind) and each.hour > start)

    def times(facts: Facts) -> list[float]:
        return [each.hour for each in facts.counts if counted(each.kind)]

    return Field(label, measure, times, whole=True)


def _active_days(facts: Facts, _: float, start: float) -> float:
    return len({each.hour // DAY for each in facts.counts if each.hour > start})


def _hours(facts: Facts) -> list[float]:
    return [each.hour for each in facts.counts]


def _items(facts: Facts, _: float, start: float) -> float:
    return len({each.item for each in facts.deeds if each.at > start})


def _values(facts: Facts, start: float) -> list[float]:
    return [each.value for each in facts.deeds if each.at > start and each.value is not None]


def _mean(facts: Facts, _: float, start: float) -> float | None:
    values = _values(facts, start)
    return math.fsum(values) / len(values) if values else None


def _total(facts: Facts, _: float, start: float) -> float:
    return math.fsum(_values(facts, start))


def _instants(facts: Facts) -> list[float]:
    return [each.at for each in facts.deeds]


FIELDS = {
    "age_days": Field("days since first seen", _age, since=lambda facts: facts.first),
    "idle_days": Field("days since last seen", _idle, since=lambda facts: facts.last),
    "requests": _count_of("requests", {REQUEST}),
    "events": _count_of("events of any kind", None),
    "views": _count_of("views", {"view"}),
    "purchases": _count_of("purchases", {"purchase"}),
    "ratings": _count_of("ratings", {"rating"}),
    "active_days": Field("days with activity", _active_days, _hours, whole=True),
    "distinct_items": Field("different items", _items, _instants, whole=True, of_events=True),
    "mean_value": Field("mean value of events", _mean, _instants, of_events=True),
    "total_value": Field("sum of values of events", _total, _instants, of_events=True),
}
"""What conditions may look at, by name."""

COMPARISONS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "lt": ("<", operator.lt),
    "le": ("≤", operator.le),
    "gt": (">", operator.gt),
    "ge": ("≥", operator.ge),
    "eq": ("=", operator.eq),
}
"""How they compare, by name: a sign, and what it means."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison.

    Raises:
        ValueError: Field or comparison is unknown, or they do not go together with the rest; the
            message says why.
    """

    field: str
    comparison: str
    value: float
    window: float | None = None
    """Seconds back from now that count; None: all that is kept."""

    def __post_init__(self) -> None:
        if self.field not in FIELDS:
            raise ValueError(f"field must be one of {', '.join(FIELDS)}, not {self.field!r}.")
        if self.comparison not in COMPARISONS:
            names = ", ".join(COMPARISONS)
            raise ValueError(f"comparison must be one of {names}, not {self.comparison!r}.")
        if not math.isfinite(self.value):
            raise ValueError("value must be a finite number.")
        known = FIELDS[self.field]
        if self.comparison == "eq" and not known.whole:
            raise ValueError(f"{self.field} is no count, and never equals a number: use < or >.")
        if self.window is not None:
            if not known.has_window:
                raise ValueError(f"{self.field} has no window: it looks back by itself.")
            if not 0 < self.window < math.inf:
                raise ValueError("The window must be a positive number of days.")

    def holds(self, facts: Facts, now: float) -> bool:
        """Return whether it holds for a user at an instant."""
        measured = FIELDS[self.field].measure(facts, now, self._start(now))
        return measured is not None and COMPARISONS[self.comparison][1](measured, self.value)

    def due(self, facts: Facts, now: float) -> float:
        """Return when it may hold no longer, or at last, although the user does nothing."""
        known = FIELDS[self.field]
        bounds: Collection[float] = ()
        if known.since is not None:
            bounds = (known.since(facts) + self.value * DAY,)
        elif known.times is not None and self.window is not None:
            bounds = [at + self.window for at in known.times(facts)]
        return min((at for at in bounds if at >= now), default=math.inf) + _JUST_AFTER

    def _start(self, now: float) -> float:
        return -math.inf if self.window is None else now - self.window

    def __str__(self) -> str:
        sign = COMPARISONS[self.comparison][0]
        text = f"{FIELDS[self.field].label} {sign} {self.value:g}"
        return text if self.window is None else f"{text} in {self.window / DAY:g} days"


@dataclass(frozen=True, slots=True)
class Rule:
    """Whom a segment takes: users for whom every condition holds."""

    segment: int
    conditions: Sequence[Condition] = field(default=())

    def holds(self, facts: Facts, now: float) -> bool:
        """Return whether every condition holds."""
        return all(each.holds(facts, now) for each in self.conditions)

    def due(self, facts: Facts, now: float) -> float:
        """Return when that may change by itself."""
        return min((each.due(facts, now) for each in self.conditions), default=math.inf)

    @property
    def of_events(self) -> bool:
        """Return whether it looks at single events."""
        return any(FIELDS[each.field].of_events for each in self.conditions)


def choose(rules: Sequence[Rule], facts: Facts, now: float) -> tuple[int | None, float]:
    """Return the segment of the first rule that holds, and when another may.

    Args:
        rules: In their order.
        facts: The user's.
        now: Unix seconds.

    Returns:
        The segment, or None if no rule holds, and the instant until which that stays so if the
        user does nothing; infinity: for ever.
    """
    due = math.inf
    for rule in rules:
        due = min(due, rule.due(facts, now))
        if rule.holds(facts, now):
            return rule.segment, due
    return None, due


def hour_start(at: float) -> float:
    """Return the start of an instant's hour."""
    return at // HOUR * HOUR
