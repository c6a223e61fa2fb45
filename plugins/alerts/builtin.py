"""Registers the built-in alert channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.alerts.email import EmailChannel
from plugins.alerts.log import LogChannel
from plugins.alerts.webhook import WebhookChannel
from plugins.contracts import AlertChannel
from plugins.hookspecs import hookimpl


@hookimpl
def recserve_alert_channels() -> Mapping[str, Callable[..., AlertChannel]]:
    """Return the built-in alert channels."""
    return {"email": EmailChannel, "log": LogChannel, "webhook": WebhookChannel}
