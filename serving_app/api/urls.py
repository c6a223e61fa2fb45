"""URLs below ``/api/v1/``."""

from __future__ import annotations

from typing import Any

from django.urls import path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework import exceptions
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.views import APIView
from rest_framework_simplejwt.views import TokenBlacklistView

from serving_app.api import alert_views
from serving_app.api import operation_views as operation
from serving_app.api.analysis_views import AnalysisView
from serving_app.api.cache_entry_views import CacheEntriesView
from serving_app.api.drift_views import (
    DriftDecisionViewSet,
    DriftFeaturesView,
    UserProfileViewSet,
)
from serving_app.api.event_views import EventsView
from serving_app.api.permissions import CanOperateEveryModel
from serving_app.api.plugin_views import PluginsView, PluginSwitchView
from serving_app.api.predict_views import PredictBatchView, PredictView
from serving_app.api.registry_views import ModelVersionViewSet, ServedModelViewSet
from serving_app.api.rollout_views import RollOutViewSet
from serving_app.api.segment_views import SegmentViewSet
from serving_app.api.token_views import RefreshView, ServiceTokenViewSet, SignInView
from serving_app.api.warmup_views import WarmupRunViewSet, WarmupScheduleViewSet, WarmUpView


class UnknownPathView(APIView):
    """Answers every path that is no endpoint, so that it, too, gets problem details."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    schema = None

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Refuse, whatever the method."""
        raise exceptions.NotFound(
            f"There is no endpoint {request.path}. See /api/v1/docs for those there are."
        )


_models: dict[str, Any] = {"get": "list", "post": "create"}
_model: dict[str, Any] = {"get": "retrieve", "patch": "partial_update", "delete": "destroy"}
_version: dict[str, Any] = {"get": "retrieve", "delete": "destroy"}
_name = "models/<str:name>"


def _of_one_model(actions: dict[str, Any]) -> Any:
    """Return a view of what belongs to one model: the filters of the list of models are not its."""
    return ServedModelViewSet.as_view(actions, filter_backends=())


_schedule = "warmup-schedules/<str:schedule>"
_run = "warmup-runs/<int:pk>"


def _of_schedule(name: str) -> Any:
    """Return a view of an action of one schedule."""
    return WarmupScheduleViewSet.as_view({"post": name}, filter_backends=())


urlpatterns = [
    path("predict", PredictView.as_view(), name="predict"),
    path("predict/batch", PredictBatchView.as_view(), name="predict-batch"),
    path("events", EventsView.as_view(), name="events"),
    path("health", operation.HealthView.as_view(), name="health"),
    path("health/live", operation.LiveView.as_view(), name="health-live"),
    path("health/ready", operation.ReadyView.as_view(), name="health-ready"),
    path("serving/stats", operation.ServingStatsView.as_view(), name="serving-stats"),
    path("cache/stats", operation.CacheStatsView.as_view(), name="cache-stats"),
    path("cache/entries", CacheEntriesView.as_view(), name="cache-entries"),
    path("cache/clear", operation.CacheClearView.as_view(), name="cache-clear"),
    path("cache/invalidate", operation.CacheInvalidateView.as_view(), name="cache-invalidate"),
    path("cache/warmup", WarmUpView.as_view(), name="cache-warmup"),
    path("warmup-schedules", WarmupScheduleViewSet.as_view(_models), name="warmupschedule-list"),
    path(_schedule, WarmupScheduleViewSet.as_view(_model), name="warmupschedule-detail"),
    path(f"{_schedule}/run", _of_schedule("run"), name="warmupschedule-run"),
    path(f"{_schedule}/dry-run", _of_schedule("dry_run"), name="warmupschedule-dry-run"),
    path(f"{_schedule}/stop", _of_schedule("stop"), name="warmupschedule-stop"),
    path("warmup-runs", WarmupRunViewSet.as_view({"get": "list"}), name="warmuprun-list"),
    path(_run, WarmupRunViewSet.as_view({"get": "retrieve"}), name="warmuprun-detail"),
    path(f"{_run}/stop", WarmupRunViewSet.as_view({"post": "stop"}), name="warmuprun-stop"),
    path(
        f"{_run}/questions",
        WarmupRunViewSet.as_view({"get": "questions"}, filter_backends=()),
        name="warmuprun-questions",
    ),
    path("analysis", AnalysisView.as_view(), name="analysis"),
    path("plugins", PluginsView.as_view(), name="plugins"),
    path("plugins/<str:plugin>/switch-on", PluginSwitchView.as_view(), name="plugin-switch"),
    path("alerts", alert_views.AlertViewSet.as_view({"get": "list"}), name="alert-list"),
    path(
        "alerts/<int:pk>",
        alert_views.AlertViewSet.as_view({"get": "retrieve"}),
        name="alert-detail",
    ),
    path("alert-rules", alert_views.AlertRuleViewSet.as_view(_models), name="alertrule-list"),
    path(
        "alert-rules/preview",
        alert_views.AlertRuleViewSet.as_view({"post": "try_out"}, filter_backends=()),
        name="alertrule-try-out",
    ),
    path(
        "alert-rules/<int:pk>",
        alert_views.AlertRuleViewSet.as_view(_model),
        name="alertrule-detail",
    ),
    path(
        "alert-rules/<int:pk>/preview",
        alert_views.AlertRuleViewSet.as_view(
            {"get": "preview"}, filter_backends=(), pagination_class=None
        ),
        name="alertrule-preview",
    ),
    path(
        "alert-silences",
        alert_views.AlertSilenceViewSet.as_view(_models),
        name="alertsilence-list",
    ),
    path(
        "alert-silences/<int:pk>",
        alert_views.AlertSilenceViewSet.as_view(_version),
        name="alertsilence-detail",
    ),
    path(
        "alert-channels",
        alert_views.AlertChannelViewSet.as_view(_models),
        name="alertchannel-list",
    ),
    path(
        "alert-channels/<int:pk>",
        alert_views.AlertChannelViewSet.as_view(_model),
        name="alertchannel-detail",
    ),
    path(
        "alert-channels/<int:pk>/test",
        alert_views.AlertChannelViewSet.as_view({"post": "test"}),
        name="alertchannel-test",
    ),
    path("models", ServedModelViewSet.as_view(_models), name="servedmodel-list"),
    path(_name, ServedModelViewSet.as_view(_model), name="servedmodel-detail"),
    path(f"{_name}/promote", _of_one_model({"post": "promote"}), name="promote"),
    path(f"{_name}/rollback", _of_one_model({"post": "rollback"}), name="rollback"),
    path(f"{_name}/promotions", _of_one_model({"get": "promotions"}), name="promotion-list"),
    path(f"{_name}/aliases", _of_one_model({"get": "aliases"}), name="alias-list"),
    path(
        f"{_name}/aliases/<str:alias>",
        _of_one_model({"put": "alias", "delete": "alias"}),
        name="alias-detail",
    ),
    path(f"{_name}/versions", ModelVersionViewSet.as_view(_models), name="modelversion-list"),
    path(
        f"{_name}/versions/<int:number>",
        ModelVersionViewSet.as_view(_version),
        name="modelversion-detail",
    ),
    path(
        f"{_name}/versions/<int:number>/validate",
        ModelVersionViewSet.as_view({"post": "validate"}),
        name="modelversion-validate",
    ),
    path(f"{_name}/rollouts", RollOutViewSet.as_view(_models), name="rollout-list"),
    path(
        f"{_name}/rollouts/<int:pk>",
        RollOutViewSet.as_view({"get": "retrieve"}),
        name="rollout-detail",
    ),
    path(
        f"{_name}/rollouts/<int:pk>/raise",
        RollOutViewSet.as_view({"post": "raise_share"}),
        name="rollout-raise",
    ),
    path(
        f"{_name}/rollouts/<int:pk>/promote",
        RollOutViewSet.as_view({"post": "promote"}),
        name="rollout-promote",
    ),
    path(
        f"{_name}/rollouts/<int:pk>/abort",
        RollOutViewSet.as_view({"post": "abort"}),
        name="rollout-abort",
    ),
    path("segments", SegmentViewSet.as_view(_models), name="segment-list"),
    path(
        "segments/simulate",
        SegmentViewSet.as_view({"post": "simulate"}, permission_classes=(CanOperateEveryModel,)),
        name="segment-simulate",
    ),
    path("segments/<str:segment>", SegmentViewSet.as_view(_model), name="segment-detail"),
    path(
        "segments/<str:segment>/members",
        SegmentViewSet.as_view({"get": "members"}, filter_backends=()),
        name="segment-members",
    ),
    path("drift/features", DriftFeaturesView.as_view(), name="drift-features"),
    path(
        "drift/decisions", DriftDecisionViewSet.as_view({"get": "list"}), name="driftdecision-list"
    ),
    path("drift/profiles", UserProfileViewSet.as_view({"get": "list"}), name="userprofile-list"),
    path("token", SignInView.as_view(), name="token"),
    path("token/refresh", RefreshView.as_view(), name="token-refresh"),
    path("token/revoke", TokenBlacklistView.as_view(), name="token-revoke"),
    path("tokens", ServiceTokenViewSet.as_view(_models), name="servicetoken-list"),
    path("tokens/<str:prefix>", ServiceTokenViewSet.as_view(_version), name="servicetoken-detail"),
    path("schema", SpectacularAPIView.as_view(permission_classes=[AllowAny]), name="schema"),
    path(
        "docs",
        SpectacularSwaggerView.as_view(url_name="schema", permission_classes=[AllowAny]),
        name="api-docs",
    ),
    re_path(r"", UnknownPathView.as_view(), name="unknown"),
]
