"""Models and versions as resources; promoting and rolling back."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from serving_app import promotion, registration, wiring
from serving_app.api import registry_serializers as serializers
from serving_app.api.authentication import access_of
from serving_app.api.history import KeepsHistory, log
from serving_app.api.permissions import CanOperateOrAdminister
from serving_app.models import ModelVersion, ServedModel


def _user(request: Request) -> User | None:
    return request.user if isinstance(request.user, User) else None


class ServedModelViewSet(KeepsHistory, viewsets.ModelViewSet[ServedModel]):
    """Models."""

    queryset = ServedModel.objects.prefetch_related("activations__version", "aliases__version")
    serializer_class = serializers.ServedModelSerializer
    permission_classes = (CanOperateOrAdminister,)
    lookup_field = "name"
    lookup_value_regex = "[^/]+"
    http_method_names = ("get", "post", "put", "patch", "delete", "head", "options")
    filterset_fields = ("executor",)
    search_fields = ("name", "description")
    ordering_fields = ("name", "changed")

    def get_queryset(self) -> QuerySet[ServedModel]:
        """Return the models that the caller may see."""
        rows = super().get_queryset()
        models = access_of(self.request).models_for("operate")
        return rows if self.action != "list" or models is None else rows.filter(name__in=models)

    def perform_create(self, serializer: BaseSerializer[ServedModel]) -> None:
        """Register a model, if the caller may change one of this name."""
        access_of(self.request).check_model(serializer.validated_data["name"], "administer")
        super().perform_create(serializer)

    @extend_schema(request=serializers.PromoteSerializer, responses=serializers.GoLiveSerializer)
    @action(detail=True, methods=["post"])
    def promote(self, request: Request, name: str) -> Response:
        """Make a version live, in every serving process."""
        model = self.get_object()
        wanted = serializers.PromoteSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        version = get_object_or_404(model.versions, number=wanted.validated_data["version"])
        promotion.promote(version, by=_user(request))
        return self._gone_live(model, version, wanted.validated_data["wait_seconds"])

    @extend_schema(request=None, responses=serializers.GoLiveSerializer)
    @action(detail=True, methods=["post"])
    def rollback(self, request: Request, name: str) -> Response:
        """Undo the model's last promotion."""
        model = self.get_object()
        return self._gone_live(model, promotion.roll_back(model, by=_user(request)), 30.0)

    @extend_schema(responses=serializers.PromotionSerializer(many=True))
    @action(detail=True, methods=["get"])
    def promotions(self, request: Request, name: str) -> Response:
        """Return the model's promotions, the latest first."""
        rows = self.get_object().promotions.select_related("version", "replaced", "by")
        page: Any = self.paginate_queryset(rows)  # type: ignore[arg-type]  # of another model
        return self.get_paginated_response(serializers.PromotionSerializer(page, many=True).data)

    @extend_schema(responses=serializers.AliasSerializer(many=True))
    @action(detail=True, methods=["get"])
    def aliases(self, request: Request, name: str) -> Response:
        """Return the model's aliases."""
        rows = self.get_object().aliases.select_related("version")
        page: Any = self.paginate_queryset(rows)  # type: ignore[arg-type]  # of another model
        return self.get_paginated_response(serializers.AliasSerializer(page, many=True).data)

    @extend_schema(
        methods=["PUT"],
        request=serializers.AliasSerializer,
        responses=serializers.AliasSerializer,
    )
    @extend_schema(methods=["DELETE"], request=None, responses={204: None})
    @action(detail=True, methods=["put", "delete"])
    def alias(self, request: Request, name: str, alias: str) -> Response:
        """Let an alias lead to a version, or take the alias away."""
        model = self.get_object()
        if request.method == "DELETE":
            promotion.remove_alias(get_object_or_404(model.aliases, name=alias), by=_user(request))
            return Response(status=204)
        wanted = serializers.AliasSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        version = get_object_or_404(model.versions, number=given["version"]["number"])
        percent = Decimal(str(given["percent"]))
        row = promotion.set_alias(version, alias, percent=percent, by=_user(request))
        return Response(serializers.AliasSerializer(row).data)

    def _gone_live(self, model: ServedModel, version: ModelVersion, timeout: float) -> Response:
        here = wiring.get_serving().reconciler.follow(model.name, version.number, timeout)
        return Response({"model": model.name, "live_version": version.number, "live_here": here})


@extend_schema_view(
    create=extend_schema(description="Validate a version and register it; it is not live yet."),
)
class ModelVersionViewSet(
    KeepsHistory,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.CreateModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet[ModelVersion],
):
    """Versions of a model."""

    queryset = ModelVersion.objects.select_related("model").prefetch_related("aliases")
    serializer_class = serializers.ModelVersionSerializer
    permission_classes = (CanOperateOrAdminister,)
    lookup_field = "number"
    lookup_value_regex = "[0-9]+"
    filterset_fields = ("framework",)
    search_fields = ("notes",)
    ordering_fields = ("number", "created")

    def get_queryset(self) -> QuerySet[ModelVersion]:
        """Return the versions of the model in the path."""
        return super().get_queryset().filter(model__name=self.kwargs.get("name", ""))

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return the model's versions, the latest first."""
        get_object_or_404(ServedModel, name=self.kwargs["name"])
        return super().list(request, *args, **kwargs)

    def perform_create(self, serializer: BaseSerializer[ModelVersion]) -> None:
        """Validate and register the version; the model must exist."""
        model = get_object_or_404(ServedModel, name=self.kwargs["name"])
        given = serializer.validated_data
        given["feature_names"] = tuple(given.get("feature_names", ()))
        draft = registration.Draft(**given)
        version = registration.register(model.name, draft, by=_user(self.request))
        log(self.request, version, ADDITION, "Registered by the API")
        serializer.instance = version

    @extend_schema(request=None, responses=serializers.ModelVersionSerializer)
    @action(detail=True, methods=["post"])
    def validate(self, request: Request, name: str, number: str) -> Response:
        """Validate the version again; ``problem`` says what is wrong, if anything."""
        version = self.get_object()
        problem = registration.revalidate(version)
        log(request, version, CHANGE, problem or "Validated by the API")
        return Response(self.get_serializer(version).data)
