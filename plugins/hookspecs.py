"""The hooks a plugin may implement, and the two markers.

A hook that registers something has a plural noun and returns ``{name: factory}``. A hook that
announces something is a past participle. The factory's docstring is shown in the admin; its
keyword-only parameters are its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pluggy

from plugins.contracts import (
    AdmissionFilter,
    AlertChannel,
    EvictionPolicy,
    Executor,
    FeatureSource,
    Framework,
    Recommendation,
    RecommendationRequest,
)
from plugins.drift_contracts import DriftRule
from plugins.errors import Unavailable
from plugins.warmup_contracts import WarmupStrategy

PROJECT = "recserve"
"""Both the pluggy project and the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def recserve_eviction_policies() -> Mapping[str, Callable[..., EvictionPolicy]]:  # type: ignore[empty-body]
    """Return eviction policies of the memory level by name."""


@hookspec
def recserve_admission_filters() -> Mapping[str, Callable[..., AdmissionFilter]]:  # type: ignore[empty-body]
    """Return admission filters of the memory level by name."""


@hookspec
def recserve_frameworks() -> Mapping[str, Callable[..., Framework]]:  # type: ignore[empty-body]
    """Return model frameworks by name."""


@hookspec
def recserve_executors() -> Mapping[str, Callable[..., Executor]]:  # type: ignore[empty-body]
    """Return executors by name."""


@hookspec
def recserve_feature_sources() -> Mapping[str, Callable[..., FeatureSource]]:  # type: ignore[empty-body]
    """Return feature sources by name."""


@hookspec
def recserve_warmup_strategies() -> Mapping[str, Callable[..., WarmupStrategy]]:  # type: ignore[empty-body]
    """Return warm-up strategies by name."""


@hookspec
def recserve_alert_channels() -> Mapping[str, Callable[..., AlertChannel]]:  # type: ignore[empty-body]
    """Return alert channels by name."""


@hookspec
def recserve_drift_rules() -> Mapping[str, Callable[..., DriftRule]]:  # type: ignore[empty-body]
    """Return drift rules by name."""


@hookspec(firstresult=True)
def recserve_fallback(request: RecommendationRequest, error: Unavailable) -> Recommendation | None:
    """Return an answer for a request whose model cannot answer now, or None to pass."""


@hookspec
def recserve_model_activated(model_name: str, version: int) -> None:
    """Hear that a version has gone live in this process."""
