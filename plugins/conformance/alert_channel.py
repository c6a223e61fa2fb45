"""What every alert channel must do, as a test that its author can call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from plugins.contracts import AlertChannel, AlertNotice

__all__ = ["check_alert_channel"]


def check_alert_channel(
    channel: AlertChannel,
    received: Callable[[], object],
    away: AbstractContextManager[Any] | None = None,
) -> None:
    """Check that a channel sends what it is given, and says so when it cannot.

    Args:
        channel: The channel, just built.
        received: Returns, as text or anything that becomes one, what has arrived where it sends.
        away: A context in which nothing can be sent; None: that cannot be tried.

    Raises:
        AssertionError: The channel breaks its contract; the message says where.
    """
    for notice in _notices():
        given = repr(notice)
        returned: object = channel.send(notice)  # type: ignore[func-returns-value]  # it must be
        assert returned is None, f"send returned {returned!r}, not None."
        assert repr(notice) == given, "send changed the notice."
        there = str(received())
        for what in (notice.rule, notice.state):
            assert what in there, f"{what!r} did not arrive: {there[:500]!r}"
    if away is None:
        return
    with away:
        assert _raises(channel), "send returned, but nothing can have been sent: it must raise."
    channel.send(next(_notices()))


def _raises(channel: AlertChannel) -> bool:
    try:
        channel.send(next(_notices()))
    except Exception:  # noqa: BLE001  (whatever says that it was not taken)
        return True
    return False


def _notices() -> Iterator[AlertNotice]:
    """Yield notices of every state and severity, with all that may stand in them."""
    more: dict[str, Any] = {"metric": "hit_rate", "threshold": 0.5, "started": 1.0, "at": 61.0}
    yield AlertNotice(
        *("1-firing", "Hit rate", "firing", "critical", "The hit rate is 0.1."),
        **{**more, "value": 0.1, "labels": {"model": "shop"}},
    )
    yield AlertNotice(
        *("1-resolved", "Hit rate", "resolved", "info", "The hit rate is 0.9."), **more
    )
    yield AlertNotice(
        *("2-firing", "Ünïcode ✓", "firing", "warning", "Nothing was\ncounted."),
        description='Two lines,\nand "quotes" <b>.',
    )
