"""When an alert begins, fires and ends: a state machine without clocks of its own.

An alert is pending once its condition holds, fires when it has held for some time, and is resolved
when the value has been back beyond a second limit for some time. So a value that swings about one
limit neither fires nor resolves it again and again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Condition", "Episode", "Kind", "State", "step", "walk"]

Kind = Literal["threshold", "rate", "absence", "yesterday"]
State = Literal["pending", "firing", "resolved"]


@dataclass(frozen=True, slots=True)
class Condition:
    """What is looked at, and for how long it must hold."""

    kind: Kind = "threshold"
    above: bool = True
    """Whether a value above the threshold is bad; else one below it."""
    threshold: float = 0.0
    clear: float | None = None
    """Beyond which value it is good again; None: the threshold."""
    hold: float = 0.0
    """Seconds that it is bad before the alert fires."""
    calm: float = 0.0
    """Seconds that it is good before the alert is resolved."""

    def is_bad(self, value: float | None) -> bool | None:
        """Return whether a value is bad; None: nobody knows."""
        if self.kind == "absence":
            return not value
        if value is None:
            return None
        return value > self.threshold if self.above else value < self.threshold

    def is_good(self, value: float | None) -> bool | None:
        """Return whether a value is good again; between bad and good, it is neither."""
        if self.kind == "absence":
            return bool(value)
        if value is None:
            return None
        limit = self.threshold if self.clear is None else self.clear
        return value <= limit if self.above else value >= limit


@dataclass(frozen=True, slots=True)
class Episode:
    """One alert, from the first bad value on."""

    state: State
    started: float
    """When the condition began to hold."""
    calm_since: float | None = None
    """Since when the value has been good, while it fires."""
    fired: float | None = None
    resolved: float | None = None
    value: float | None = None
    """The last one that was known."""


def step(
    condition: Condition, episode: Episode | None, value: float | None, now: float
) -> Episode | None:
    """Return the episode after one look; None: there is none.

    A pending one that gets good again was none. One that fires is resolved, too, when there has
    been nothing to look at for long enough: a model that was deleted would fire for ever.

    Args:
        condition: What is looked at.
        episode: The one under way; None: none is.
        value: What is now; None: nobody knows.
        now: Seconds.
    """
    bad = condition.is_bad(value)
    if episode is None or episode.state == "resolved":
        if not bad:
            return None
        episode = Episode("pending", now)
    if value is not None or condition.kind == "absence":
        episode = replace(episode, value=value)
    if episode.state == "firing":
        return _calmed(condition, episode, value, now)
    if not bad:
        return episode if bad is None else None
    held = now - episode.started >= condition.hold
    return replace(episode, state="firing", fired=now) if held else episode


def _calmed(condition: Condition, episode: Episode, value: float | None, now: float) -> Episode:
    """Return a firing episode, resolved if nothing has been bad for long enough."""
    if condition.is_good(value) is False:
        return replace(episode, calm_since=None)
    calm_since = now if episode.calm_since is None else episode.calm_since
    if now - calm_since >= condition.calm:
        return replace(episode, state="resolved", calm_since=calm_since, resolved=now)
    return replace(episode, calm_since=calm_since)


def walk(condition: Condition, values: Iterable[tuple[float, float | None]]) -> list[Episode]:
    """Return the episodes that fired, looking at values in order, each with its time."""
    found: list[Episode] = []
    episode: Episode | None = None
    for now, value in values:
        episode = step(condition, episode, value, now)
        if episode is not None and episode.state == "resolved":
            found.append(episode)
            episode = None
    if episode is not None and episode.state == "firing":
        found.append(episode)
    return found
