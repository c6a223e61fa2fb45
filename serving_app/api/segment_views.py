"""Segments as a resource, their members, and what a rule would select."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from serving_app.api import segment_serializers as serializers
from serving_app.api.history import KeepsHistory
from serving_app.api.permissions import CanOperateEveryModel, CanOperateOrAdministerEveryModel
from serving_app.core.segment_table import EVERYONE
from serving_app.segment_models import Segment, SegmentMember
from serving_app.segment_simulation import simulate


class SegmentViewSet(KeepsHistory, viewsets.ModelViewSet[Segment]):
    """Segments."""

    queryset = Segment.objects.prefetch_related("conditions")
    serializer_class = serializers.SegmentSerializer
    permission_classes = (CanOperateOrAdministerEveryModel,)
    lookup_field = "name"
    lookup_url_kwarg = "segment"  # a path's name is a model's
    lookup_value_regex = "[^/]+"
    http_method_names = ("get", "post", "patch", "delete", "head", "options")
    filterset_fields = ("enabled", "alias")
    search_fields = ("name", "description")
    ordering_fields = ("order", "name", "changed")

    def get_queryset(self) -> QuerySet[Segment]:
        """Return the segments, with how many members each has."""
        return super().get_queryset().annotate(n=Count("members")).order_by("order", "name")

    @extend_schema(responses=serializers.SegmentMemberSerializer(many=True), filters=False)
    @action(detail=True, methods=["get"])
    def members(self, request: Request, segment: str) -> Response:
        """Return the users of a segment, who was seen last first; `all`: of those in none."""
        rows = SegmentMember.objects.filter(first_seen__isnull=False)
        rows = (
            rows.filter(segment__isnull=True)
            if segment == EVERYONE
            else rows.filter(segment=get_object_or_404(Segment, name=segment))
        )
        page: Any = self.paginate_queryset(rows)  # type: ignore[arg-type]  # of another model
        return self.get_paginated_response(
            serializers.SegmentMemberSerializer(page, many=True).data
        )

    @extend_schema(
        request=serializers.SimulateSegmentSerializer, responses=serializers.SimulationSerializer
    )
    @action(detail=False, methods=["post"], permission_classes=(CanOperateEveryModel,))
    def simulate(self, request: Request) -> Response:
        """Return what a rule would select now. It changes nothing."""
        wanted = serializers.SimulateSegmentSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        row = Segment.objects.filter(name=given["name"]).first()
        found = simulate(
            wanted.rule,
            order=given["order"],
            name=given["name"],
            replaces=None if row is None else row.pk,
        )
        return Response(serializers.SimulationSerializer(found).data)
