"""Alerts as resources: rules, what became of them, silences, channels."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.contrib.admin.models import ADDITION
from django.contrib.auth.models import User
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from plugins import InvalidInput
from serving_app import alerts
from serving_app.alert_channels import send
from serving_app.alert_models import Alert, AlertChannel, AlertRule, AlertSilence
from serving_app.analysis import parse_time
from serving_app.api import alert_serializers as shapes
from serving_app.api.authentication import access_of
from serving_app.api.history import KeepsHistory, log
from serving_app.api.permissions import CanOperate, CanOperateOrAdminister

__all__ = [
    "AlertChannelViewSet",
    "AlertRuleViewSet",
    "AlertSilenceViewSet",
    "AlertViewSet",
]

_METHODS = ("get", "post", "patch", "delete", "head", "options")


class _EveryModel(CanOperateOrAdminister):
    """Operators read, administrators change; both of every model, which alerts concern."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Return whether the caller has the role.

        Raises:
            ModelNotPermitted: It is one of some models only.
        """
        if not super().has_permission(request, view):
            return False
        access_of(request).check_every_model(self.role(request))
        return True


class _Operator(_EveryModel):
    """Operators read and change."""

    def role(self, request: Request) -> str:
        """Return the permission of operators."""
        return CanOperate.codename


class AlertRuleViewSet(KeepsHistory, viewsets.ModelViewSet[AlertRule]):
    """Rules."""

    queryset = AlertRule.objects.prefetch_related("channels")
    serializer_class = shapes.AlertRuleSerializer
    permission_classes = (_EveryModel,)
    http_method_names = _METHODS
    filterset_fields = ("enabled", "severity", "metric", "model", "kind")
    search_fields = ("name", "description")
    ordering_fields = ("name", "severity", "changed")

    @extend_schema(
        request=None,
        parameters=[
            OpenApiParameter("from", str, description="A time, or how long ago: 24h (default)."),
            OpenApiParameter("to", str, description="A time, or now (default)."),
        ],
        responses=shapes.PreviewSerializer,
    )
    @action(detail=True, methods=["get"], filter_backends=(), pagination_class=None)
    def preview(self, request: Request, pk: str) -> Response:
        """Try a rule on the past, a week at most: when it would have fired."""
        return Response(_preview(self.get_object(), request))

    @extend_schema(
        request=shapes.AlertRuleSerializer,
        parameters=[
            OpenApiParameter("from", str, description="A time, or how long ago: 24h (default)."),
            OpenApiParameter("to", str, description="A time, or now (default)."),
        ],
        responses={200: shapes.PreviewSerializer},
    )
    @action(detail=False, methods=["post"])
    def try_out(self, request: Request) -> Response:
        """Try a rule that is not saved on the past."""
        asked = request.data if isinstance(request.data, Mapping) else {}
        given = self.get_serializer(data={**asked, "name": f"(not saved {uuid.uuid4()})"})
        given.is_valid(raise_exception=True)
        values = {name: each for name, each in given.validated_data.items() if name != "channels"}
        return Response(_preview(AlertRule(**values), request))


def _preview(rule: AlertRule, request: Request) -> dict[str, Any]:
    zone, now = timezone.get_current_timezone(), time.time()
    times = {}
    for name, default in (("from", "24h"), ("to", "now")):
        try:
            times[name] = parse_time(request.query_params.get(name) or default, zone, now=now)
        except ValueError as error:
            raise InvalidInput(str(error), field=name) from error
    try:
        found = alerts.preview(rule, times["from"], times["to"])
    except ValueError as error:
        raise InvalidInput(str(error), field="from") from error
    return {
        "episodes": [
            {
                "started": _moment(episode.started),
                "fired": _moment(episode.fired),
                "resolved": _moment(episode.resolved),
            }
            for episode in found.episodes
        ],
        "points": [[_moment(at), value] for at, value in found.values],
    }


def _moment(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()


class AlertViewSet(viewsets.ReadOnlyModelViewSet[Alert]):
    """Alerts: what rules found, and when."""

    queryset = Alert.objects.select_related("rule").prefetch_related("events")
    serializer_class = shapes.AlertSerializer
    permission_classes = (_EveryModel,)
    filterset_fields = ("state", "severity", "rule")
    search_fields = ("rule__name",)
    ordering_fields = ("started", "fired", "resolved")


class AlertSilenceViewSet(
    KeepsHistory,
    mixins.CreateModelMixin,
    mixins.DestroyModelMixin,
    viewsets.ReadOnlyModelViewSet[AlertSilence],
):
    """Silences. Deleting one ends it."""

    queryset = AlertSilence.objects.select_related("rule", "by")
    serializer_class = shapes.AlertSilenceSerializer
    permission_classes = (_Operator,)
    filterset_fields = ("rule", "severity", "model")
    search_fields = ("reason",)
    ordering_fields = ("starts", "ends")

    def perform_create(self, serializer: BaseSerializer[AlertSilence]) -> None:
        """Make a silence, by the caller."""
        user = self.request.user
        silence = serializer.save(by=user if isinstance(user, User) else None)
        log(self.request, silence, ADDITION, "Added by the API")


class AlertChannelViewSet(KeepsHistory, viewsets.ModelViewSet[AlertChannel]):
    """Channels."""

    queryset = AlertChannel.objects.all()
    serializer_class = shapes.AlertChannelSerializer
    permission_classes = (_EveryModel,)
    http_method_names = _METHODS
    filterset_fields = ("kind", "enabled")
    search_fields = ("name",)
    ordering_fields = ("name", "kind")

    @extend_schema(request=None, responses={200: OpenApiTypes.OBJECT})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        """Send a notice that says it is a test; ``problem`` says why it was not taken."""
        now = time.time()
        notice = {
            "id": f"test-{int(now)}",
            "rule": "Test",
            "state": "resolved",
            "severity": "info",
            "summary": "This is a test of the channel.",
            "at": now,
            "started": now,
        }
        try:
            send(self.get_object(), notice)
        except Exception as error:  # noqa: BLE001  (a plugin's)
            return Response({"sent": False, "problem": f"{type(error).__name__}: {error}"[:500]})
        return Response({"sent": True, "problem": ""})
