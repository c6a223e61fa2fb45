"""What each kind of plugin must do, as tests that any author can call."""

from __future__ import annotations

from plugins.conformance.admission import check_admission_filter
from plugins.conformance.alert_channel import check_alert_channel
from plugins.conformance.drift import check_drift_rule
from plugins.conformance.eviction import check_eviction_policy
from plugins.conformance.executor import check_executor
from plugins.conformance.feature_source import check_feature_source
from plugins.conformance.framework import check_framework
from plugins.conformance.warmup import check_warmup_strategy

__all__ = [
    "check_admission_filter",
    "check_alert_channel",
    "check_drift_rule",
    "check_eviction_policy",
    "check_executor",
    "check_feature_source",
    "check_framework",
    "check_warmup_strategy",
]
