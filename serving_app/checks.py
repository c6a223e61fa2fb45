"""System checks of serving."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from plugins import InvalidOptions, PluginError, UnknownPlugin
from plugins.apps import get_registry
from serving_app.access_conf import access_settings
from serving_app.activity_conf import activity_settings
from serving_app.alert_conf import alert_settings
from serving_app.conf import serving_settings
from serving_app.drift_conf import drift_settings
from serving_app.log_conf import log_settings
from serving_app.rollup_conf import rollup_settings
from serving_app.segment_conf import segment_settings
from serving_app.trace_conf import trace_settings
from serving_app.warmup_conf import warmup_settings

PARTS = {
    "ACCESS",
    "ACTIVITY",
    "ALERTS",
    "CACHE",
    "DRIFT",
    "LOGGING",
    "PLUGINS",
    "ROLLUPS",
    "SEGMENTS",
    "SERVING",
    "TRACING",
    "WARM_UP",
}
"""The keys of ``RECSERVE``; each app reads its own."""


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """Return what is wrong with ``RECSERVE`` as a whole, and its part ``SERVING``."""
    unknown = set(getattr(settings, "RECSERVE", {})) - PARTS
    if unknown:
        return [
            checks.Error(
                f"RECSERVE has no key {', '.join(sorted(map(repr, unknown)))}; "
                f"its keys are {', '.join(sorted(PARTS))}.",
                id="serving_app.E003",
            )
        ]
    try:
        access_settings()
        activity_settings()
        alert_settings()
        drift = drift_settings()
        log_settings()
        warmup_settings()
        segment_settings()
        rollup_settings()
        trace_settings()
        serving = serving_settings()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="serving_app.E001")]
    try:
        if drift.rule is not None:
            get_registry().drift_rules.create(drift.rule, drift.options)
    except (UnknownPlugin, InvalidOptions, PluginError) as error:
        hint = 'Correct RECSERVE["DRIFT"]: RULE or OPTIONS.'
        return [checks.Error(str(error), hint=hint, id="serving_app.E004")]
    store = serving.model_store
    if store.exists() and not os.access(store, os.R_OK | os.X_OK):
        return [
            checks.Error(
                f"The model store {store} cannot be read.",
                hint="Let the server's user read it.",
                id="serving_app.E002",
            )
        ]
    return []
