"""Looks at rules, and says which alerts begin, fire and end; tries rules on the past.

One process of all evaluates at a time: it holds a lease in the database. What an alert has become,
and the notices of it, are written in one transaction.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from django.db import IntegrityError, transaction
from django.db.models import Q

from serving_app import rollups
from serving_app.alert_channels import write_notices
from serving_app.alert_conf import alert_settings
from serving_app.alert_models import (
    Alert,
    AlertDelivery,
    AlertEvent,
    AlertLease,
    AlertRule,
    AlertSilence,
    Severity,
)
from serving_app.core.alerting import Episode, State, step, walk
from serving_app.core.rollup_metrics import METRICS

__all__ = ["Preview", "evaluate", "firing", "give_lease", "preview", "say", "take_lease"]

logger = logging.getLogger(__name__)

_DAY = 86400.0
_LOOKUPS = frozenset({"lookups", "latency", "latency_seconds"})
_LONGEST_PREVIEW = 7 * _DAY


# --- What is --------------------------------------------------------------------------------------


Reader: TypeAlias = Callable[..., Mapping[str, float | None]]
"""`rollups.values`, or what reads the past as it does."""


def value_at(rule: AlertRule, now: float, read: Reader = rollups.values) -> float | None:
    """Return what the rule compares with its threshold; None: nobody knows."""
    # Minutes that began in the window: one that began before it may tell of what was before.
    since = -(-(now - rule.window) // 60) * 60
    labels = {name: getattr(rule, name) or None for name in ("model", "segment", "level")}
    if rule.least and not _is_enough(rule, labels, since, now, read):
        return None
    value = read((rule.metric,), since, now, **labels)[rule.metric]
    if value is None:
        return None
    if rule.kind == AlertRule.Kind.RATE:
        return value / (now - since)
    if rule.kind == AlertRule.Kind.YESTERDAY:
        return _change(rule, value, (since, now), labels, read)
    return value


def _is_enough(
    rule: AlertRule, labels: dict[str, str | None], since: float, now: float, read: Reader
) -> bool:
    """Return whether as much was asked as the rule wants."""
    counted = "lookups" if METRICS[rule.metric].names() <= _LOOKUPS else "requests"
    known = {name: value for name, value in labels.items() if name in METRICS[counted].by}
    return (read((counted,), since, now, **known)[counted] or 0.0) >= rule.least


def _change(
    rule: AlertRule,
    value: float,
    period: tuple[float, float],
    labels: dict[str, str | None],
    read: Reader,
) -> float | None:
    """Return by which part a value differs from that of the same hour, the day before."""
    since, until = period
    hour = (until - _DAY) // 3600 * 3600
    before = read((rule.metric,), hour, hour + 3600, step="hour", **labels)[rule.metric]
    metric = METRICS[rule.metric]
    if before is not None and not (metric.bottom or metric.quantile):
        before *= (until - since) / 3600
    return (value - before) / before if before else None


def say(rule: AlertRule, state: str, value: float | None) -> str:
    """Return in a sentence what an alert is about."""
    about = " ".join(f"{name} {label}" for name, label in rule.labels().items())
    of = f" of {about}" if about else ""
    minutes = f"{rule.window / 60:g} min"
    if rule.kind == AlertRule.Kind.ABSENCE:
        none = "Nothing was counted" if state != "resolved" else "Something was counted again"
        return f"{rule.name}: {none} of {rule.metric}{of} in {minutes}."
    unit = METRICS[rule.metric].unit
    if rule.kind == AlertRule.Kind.YESTERDAY:
        now = "is unknown" if value is None else f"changed by {100 * value:+.3g} %"
        limit = f"{100 * rule.threshold:+.3g} %"
        return (
            f"{rule.name}: {rule.metric}{of} {now} since the same hour yesterday (limit {limit})."
        )
    scaled = "unknown" if value is None else _number(value, unit)
    rate = " per second" if rule.kind == AlertRule.Kind.RATE else ""
    return (
        f"{rule.name}: {rule.metric}{of}: {scaled}{rate} over {minutes} "
        f"(limit {_number(rule.threshold, unit)})."
    )


def _number(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{100 * value:.3g} %"
    return f"{value:.4g} s" if unit == "s" else f"{value:.6g}"


# --- Evaluating ---------------------------------------------------------------------------------


def take_lease(name: str, holder: str, now: float, seconds: float) -> bool:
    """Return whether this holder may do something for some seconds: nobody else does, then."""
    moment = _moment(now)
    AlertLease.objects.get_or_create(name=name, defaults={"until": moment})
    free = AlertLease.objects.filter(Q(holder=holder) | Q(until__lte=moment), name=name)
    taken = free.update(holder=holder, until=moment + timedelta(seconds=seconds))
    return taken == 1


def give_lease(name: str, holder: str, now: float) -> None:
    """Let others do it: this holder is done."""
    AlertLease.objects.filter(name=name, holder=holder).update(holder="", until=_moment(now))


def evaluate(now: float) -> int:
    """Look at every rule that is enabled; return how many alerts changed their state."""
    changed = 0
    under_way = {alert.rule_id: alert for alert in Alert.objects.filter(state__in=Alert.OPEN)}
    for rule in AlertRule.objects.filter(enabled=True):
        try:
            changed += _look(rule, under_way.get(rule.pk), now)
        except IntegrityError:  # another process did the same, after a lease ran out
            logger.info("Another process looks at rule %s", rule)
        except ValueError as error:  # a metric of another release
            logger.warning("Rule %s cannot be evaluated: %s", rule, error)
    _end_of_disabled(now)
    _forget(now)
    return changed


def _look(rule: AlertRule, alert: Alert | None, now: float) -> bool:
    before = None if alert is None else _episode(alert)
    after = step(rule.condition(), before, value_at(rule, now), now)
    if alert is None and after is None:
        return False
    with transaction.atomic():
        if after is None:
            return alert is not None and _drop(alert)
        if alert is None:
            alert = Alert.objects.create(rule=rule, severity=rule.severity, started=_moment(now))
        alert.rule = rule
        if not _write(alert, after):
            return False  # another process did
        is_changed = before is None or before.state != after.state
        if is_changed:
            at = _moment(now)
            AlertEvent.objects.create(alert=alert, at=at, state=after.state, value=after.value)
            log = logger.info if after.state == "pending" else logger.warning
            log("Alert %s: %s", after.state, say(rule, after.state, after.value))
        _notify(alert, now)
    return is_changed


def _drop(alert: Alert) -> bool:
    """Forget a pending alert whose condition did not hold for long enough."""
    return bool(Alert.objects.filter(pk=alert.pk, turn=alert.turn).delete()[0])


def _write(alert: Alert, episode: Episode) -> bool:
    """Write what an alert has become, unless another process has written since it was read."""
    alert.state = Alert.State(episode.state)
    alert.value = episode.value
    alert.fired, alert.resolved = _moment_or_none(episode.fired), _moment_or_none(episode.resolved)
    alert.calm_since = _moment_or_none(episode.calm_since)
    names = ("state", "value", "fired", "resolved", "calm_since")
    written = Alert.objects.filter(pk=alert.pk, turn=alert.turn).update(
        turn=alert.turn + 1, **{name: getattr(alert, name) for name in names}
    )
    alert.turn += 1
    return written == 1


def _notify(alert: Alert, now: float) -> None:
    """Write the notices that an alert's state asks for, unless it is silenced.

    One that fires still when a silence ends is told of then; an end is told to who knows of the
    beginning.
    """
    firing_untold = alert.state == Alert.State.FIRING and alert.notified is None
    if firing_untold and not _silenced(alert, now):
        alert.notified = _moment(now)
        Alert.objects.filter(pk=alert.pk).update(notified=alert.notified)
    elif alert.state != Alert.State.RESOLVED or alert.notified is None:
        return
    write_notices(alert, say(alert.rule, alert.state, alert.value), _moment(now))


def _silenced(alert: Alert, now: float) -> bool:
    rule, moment = alert.rule, _moment(now)
    return AlertSilence.objects.filter(
        Q(rule=rule) | Q(rule=None),
        Q(model="") | Q(model=rule.model),
        Q(severity="") | Q(severity=alert.severity),
        starts__lte=moment,
        ends__gt=moment,
    ).exists()


def _end_of_disabled(now: float) -> None:
    """Resolve, without a notice, the alerts of rules that nobody looks at any more."""
    for alert in Alert.objects.filter(rule__enabled=False, state__in=Alert.OPEN):
        with transaction.atomic():
            if alert.state == Alert.State.PENDING:
                _drop(alert)
                continue
            ended = Alert.objects.filter(pk=alert.pk, turn=alert.turn).update(
                state=Alert.State.RESOLVED, resolved=_moment(now), turn=alert.turn + 1
            )
            if ended:
                AlertEvent.objects.create(
                    alert=alert, at=_moment(now), state=Alert.State.RESOLVED, value=None
                )


def _forget(now: float) -> None:
    old = _moment(now) - timedelta(days=alert_settings().keep_days)
    Alert.objects.filter(state=Alert.State.RESOLVED, resolved__lt=old).delete()
    AlertDelivery.objects.exclude(state=AlertDelivery.State.WAITING).filter(made__lt=old).delete()
    AlertSilence.objects.filter(ends__lt=old).delete()


def firing() -> dict[str, int]:
    """Return how many alerts fire, by severity."""
    counts = dict.fromkeys((str(severity) for severity in Severity.values), 0)
    for severity in Alert.objects.filter(state=Alert.State.FIRING).values_list(
        "severity", flat=True
    ):
        counts[severity] = counts.get(severity, 0) + 1
    return counts


def _episode(alert: Alert) -> Episode:
    def seconds(at: datetime | None) -> float | None:
        return None if at is None else at.timestamp()

    state: State = "firing" if alert.state == Alert.State.FIRING else "pending"
    return Episode(
        *(state, alert.started.timestamp(), seconds(alert.calm_since), seconds(alert.fired)),
        value=alert.value,
    )


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _moment_or_none(at: float | None) -> datetime | None:
    return None if at is None else _moment(at)


# --- The past -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Preview:
    """When a rule would have fired."""

    values: list[tuple[float, float | None]]
    """What it would have compared, at the end of each minute."""
    episodes: list[Episode]


def preview(rule: AlertRule, since: float, until: float) -> Preview:
    """Try a rule, saved or not, on the past, with a look at the end of each minute.

    Raises:
        ValueError: The period is none, or longer than a week.
    """
    if not since < until:
        raise ValueError("A period begins before it ends.")
    if until - since > _LONGEST_PREVIEW:
        raise ValueError("A rule is tried on a week at most.")
    read = _Past(since - rule.window, until)
    first = -(-since // 60) * 60
    values = [
        (float(at), value_at(rule, at, read)) for at in range(int(first), math.floor(until) + 1, 60)
    ]
    return Preview(values, walk(rule.condition(), values))


class _Past:
    """Reads as `rollups.values` does, but the minutes of a period only once."""

    def __init__(self, since: float, until: float) -> None:
        self._period = since, until
        self._minutes: dict[tuple[str | None, ...], rollups.Minutes] = {}
        self._hours: dict[tuple[float, str], Mapping[str, float | None]] = {}

    def __call__(
        self,
        metrics: Sequence[str],
        since: float,
        until: float,
        *,
        step: rollups.Step = "minute",
        **labels: Any,
    ) -> Mapping[str, float | None]:
        if step != "minute":
            known = self._hours.get((since, metrics[0]))
            if known is None:
                known = rollups.values(metrics, since, until, step=step, **labels)
                self._hours[since, metrics[0]] = known
            return known
        key = (*metrics, *labels.values())
        if key not in self._minutes:
            self._minutes[key] = rollups.Minutes(metrics, *self._period, **labels)
        return self._minutes[key].values(since, until)
