"""Sends notices of alerts: from an outbox in the database, so that none is lost.

A notice is written in the transaction that changes its alert, and sent by one process at a time on
a thread of its own. A channel that does not take it gets it again later, ever more rarely, for a
day; others do not wait for that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from django.db.models import F

from plugins import AlertNotice, PluginError
from plugins.apps import get_registry
from serving_app.alert_conf import alert_settings
from serving_app.alert_models import Alert, AlertChannel, AlertDelivery
from serving_app.core.alert_url import check_url

__all__ = ["backoff", "deliver", "send", "write_notices"]

logger = logging.getLogger(__name__)

_FIRST, _LONGEST = 10.0, 900.0
"""Seconds until the second try, and between two tries at most."""


class _Stops(Protocol):
    def __call__(self) -> bool:
        """Return whether to end."""


def backoff(tries: int) -> float:
    """Return how many seconds to wait after so many tries."""
    return min(_LONGEST, _FIRST * 2.0 ** min(tries - 1, 10))


def write_notices(alert: Alert, summary: str, now: datetime) -> None:
    """Put a notice of what an alert has become into the outbox, for each channel of its rule."""
    rule = alert.rule
    state = "firing" if alert.state == Alert.State.FIRING else "resolved"
    notice: dict[str, Any] = {
        "id": f"{alert.pk}-{state}",
        "rule": rule.name,
        "state": state,
        "severity": alert.severity,
        "summary": summary,
        "description": rule.description,
        "metric": rule.metric,
        "value": alert.value,
        "threshold": rule.threshold,
        "labels": rule.labels(),
        "at": now.timestamp(),
        "started": alert.started.timestamp(),
    }
    AlertDelivery.objects.bulk_create(
        AlertDelivery(channel=channel, alert=alert, notice=notice, made=now, due=now)
        for channel in rule.channels.filter(enabled=True)
    )


def send(channel: AlertChannel, notice: Mapping[str, Any]) -> None:
    """Send a notice now.

    Raises:
        Exception: Whatever the channel raises; it was not taken.
    """
    if "url" in channel.options:  # what was allowed once may be no longer
        check_url(channel.options["url"], alert_settings().webhook_hosts)
    get_registry().alert_channels.create(channel.kind, channel.options).send(AlertNotice(**notice))


def deliver(now: float, *, stopping: _Stops = lambda: False) -> int:
    """Send what is due; return how many notices were taken.

    After a failure, a channel gets nothing more this time: others do not wait for its time-outs.

    Args:
        now: Unix seconds.
        stopping: Whether to end before all is sent.
    """
    moment, settings = datetime.fromtimestamp(now, UTC), alert_settings()
    waiting = AlertDelivery.objects.filter(
        state=AlertDelivery.State.WAITING, due__lte=moment, channel__enabled=True
    )
    sent, failed = 0, set()
    # What was tried least comes first, and each channel's in order.
    rows = waiting.select_related("channel").order_by("tries", "made", "pk")
    for row in rows[: settings.most_notices]:
        if stopping():
            break
        if row.channel_id in failed:
            continue
        if _try(row, moment, timedelta(hours=settings.give_up_hours)):
            sent += 1
        else:
            failed.add(row.channel_id)
    return sent


def _try(row: AlertDelivery, now: datetime, give_up: timedelta) -> bool:
    try:
        send(row.channel, row.notice)
    except Exception as error:  # noqa: BLE001  (a plugin's)
        tries = row.tries + 1
        given_up = now - row.made >= give_up
        state = AlertDelivery.State.GIVEN_UP if given_up else AlertDelivery.State.WAITING
        logger.warning(
            "Alert channel %s did not take notice %s (try %d): %s",
            *(row.channel.name, row.notice.get("id"), tries, error),
        )
        AlertDelivery.objects.filter(pk=row.pk, state=AlertDelivery.State.WAITING).update(
            state=state,
            tries=tries,
            due=now + timedelta(seconds=backoff(tries)),
            problem=f"{type(error).__name__}: {error}"[:500]
            if not isinstance(error, PluginError)
            else str(error)[:500],
        )
        return False
    AlertDelivery.objects.filter(pk=row.pk).update(
        state=AlertDelivery.State.SENT, tries=F("tries") + 1, problem=""
    )
    return True
