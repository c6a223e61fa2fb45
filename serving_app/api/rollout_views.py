"""Roll-outs as resources: start, raise, promote, abort."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from serving_app import rollout
from serving_app.api import registry_serializers as serializers
from serving_app.api.permissions import CanOperateOrAdminister
from serving_app.models import RollOut, ServedModel


class RollOutViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[RollOut]
):
    """Roll-outs of a model."""

    queryset = RollOut.objects.select_related("model", "candidate", "production", "by")
    serializer_class = serializers.RollOutSerializer
    permission_classes = (CanOperateOrAdminister,)
    lookup_value_regex = "[0-9]+"
    filterset_fields = ("state",)
    ordering_fields = ("started", "ended")

    def get_queryset(self) -> QuerySet[RollOut]:
        """Return the roll-outs of the model in the path, with their steps."""
        rows = super().get_queryset().filter(model__name=self.kwargs.get("name", ""))
        return rows.prefetch_related("steps__by", "model__aliases")

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return the model's roll-outs, the latest first."""
        get_object_or_404(ServedModel, name=self.kwargs["name"])
        return super().list(request, *args, **kwargs)

    @extend_schema(
        request=serializers.StartRollOutSerializer, responses={201: serializers.RollOutSerializer}
    )
    def create(self, request: Request, name: str) -> Response:
        """Let a version answer a share of the users, and compare it with production."""
        model = get_object_or_404(ServedModel, name=name)
        given = serializers.StartRollOutSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        wanted = given.validated_data
        started = rollout.start(
            get_object_or_404(model.versions, number=wanted["version"]),
            wanted["percents"],
            step_seconds=wanted["step_seconds"],
            by=_user(request),
        )
        return self._state(started, status=201)

    @extend_schema(request=serializers.RaiseSerializer, responses=serializers.RollOutSerializer)
    @action(detail=True, methods=["post"])
    def raise_share(self, request: Request, name: str, pk: str) -> Response:
        """Give the canary its next share, or the one that is sent."""
        given = serializers.RaiseSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        percent = given.validated_data.get("percent")
        return self._state(rollout.raise_share(self.get_object(), percent, by=_user(request)))

    @extend_schema(request=serializers.ReasonSerializer, responses=serializers.RollOutSerializer)
    @action(detail=True, methods=["post"])
    def promote(self, request: Request, name: str, pk: str) -> Response:
        """Let the candidate answer everyone."""
        reason = _reason(request)
        return self._state(rollout.promote(self.get_object(), by=_user(request), reason=reason))

    @extend_schema(request=serializers.ReasonSerializer, responses=serializers.RollOutSerializer)
    @action(detail=True, methods=["post"])
    def abort(self, request: Request, name: str, pk: str) -> Response:
        """Let production answer everyone again."""
        reason = _reason(request)
        return self._state(rollout.abort(self.get_object(), by=_user(request), reason=reason))

    def _state(self, row: RollOut, status: int = 200) -> Response:
        return Response(self.get_serializer(self.get_queryset().get(pk=row.pk)).data, status=status)


def _user(request: Request) -> User | None:
    return request.user if isinstance(request.user, User) else None


def _reason(request: Request) -> str:
    given = serializers.ReasonSerializer(data=request.data)
    given.is_valid(raise_exception=True)
    reason: str = given.validated_data["reason"]
    return reason
