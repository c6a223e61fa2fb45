"""Warm-up schedules and runs as resources, and ``POST /cache/warmup``."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db.models import QuerySet
from django.urls import reverse
from django_filters.rest_framework import CharFilter, FilterSet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from serving_app import warmup_runs, wiring
from serving_app.api.authentication import access_of
from serving_app.api.history import KeepsHistory
from serving_app.api.permissions import CanOperate, CanOperateOrAdminister
from serving_app.api.warmup_serializers import (
    AdHocSerializer,
    ListedRunSerializer,
    PlannedSerializer,
    WarmupQuestionSerializer,
    WarmupRunSerializer,
    WarmupScheduleSerializer,
)
from serving_app.warmup_models import WarmupQuestion, WarmupRun, WarmupSchedule

_SHOWN = 1000
"""The most questions that a dry run returns."""
_RUNNING = frozenset({"run", "dry_run", "stop"})
"""What operators may do with a schedule."""


class RunUnderWay(APIException):
    """A run of the schedule is not over yet."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "run_under_way"


def _user(request: Request) -> User | None:
    return request.user if isinstance(request.user, User) else None


def _start(run: WarmupRun, request: Request) -> Response:
    """Ask for a run, and say where it can be watched."""
    try:
        warmup_runs.request_run(run, by=_user(request))
    except warmup_runs.AlreadyRunning as error:
        raise RunUnderWay(" ".join(error.messages)) from error
    where = reverse("warmuprun-detail", kwargs={"pk": run.pk})
    return Response(
        WarmupRunSerializer(run).data,
        status=status.HTTP_202_ACCEPTED,
        headers={"Location": request.build_absolute_uri(where)},
    )


def _of(schedule: WarmupSchedule) -> WarmupRun:
    try:
        return warmup_runs.run_of(schedule)
    except DjangoValidationError as error:
        raise serializers.ValidationError(error.message_dict) from error


def _planned(run: WarmupRun, limit: int) -> Response:
    """Return who would be warmed. Nothing is warmed or written."""
    run.budget = min(run.budget, limit)
    found = [
        {
            "user_id": each.request.user_id,
            "alias": each.request.alias,
            "context": each.request.context,
            "score": each.score,
            "reasons": each.reasons,
            "fresh": fresh,
        }
        for each, fresh in wiring.get_serving().warm_up.runner.dry_run(run)
    ]
    return Response(found)


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", "100")
    if not given.isdecimal() or len(given) > 9 or not 1 <= int(given) <= _SHOWN:
        raise serializers.ValidationError({"limit": f"Give a whole number from 1 to {_SHOWN}."})
    return int(given)


class ScheduleFilter(FilterSet):  # type: ignore[misc]  # django-filter has no types
    """What lists of schedules can be filtered by."""

    model = CharFilter("model__name")
    strategy = CharFilter("strategies__strategy")

    class Meta:
        """Fields."""

        model = WarmupSchedule
        fields = ("enabled",)


class RunFilter(FilterSet):  # type: ignore[misc]  # django-filter has no types
    """What lists of runs can be filtered by."""

    schedule = CharFilter("schedule__name")

    class Meta:
        """Fields."""

        model = WarmupRun
        fields = ("model", "state", "by_clock")


class WarmUpView(APIView):
    """Starting a warm-up."""

    permission_classes = (CanOperate,)

    @extend_schema(
        request=AdHocSerializer,
        responses={202: WarmupRunSerializer, 200: PlannedSerializer(many=True)},
    )
    def post(self, request: Request) -> Response:
        """Start a warm-up; the answer says where it can be watched.

        A serving process takes it within a second or so. With `dry_run` nothing is started: the
        first hundred questions are returned, and why they would be warmed.
        """
        given = AdHocSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        name = given.validated_data.get("schedule")
        if name is None:
            access_of(request).check_model(given.validated_data["model_name"], "operate")
            run = given.run()
        else:
            rows = WarmupSchedule.objects.select_related("model")
            schedule = rows.filter(name=name).first()
            if schedule is None:
                raise serializers.ValidationError({"schedule": f"There is no schedule {name!r}."})
            access_of(request).check_model(schedule.model.name, "operate")
            run = _of(schedule)
        if given.validated_data["dry_run"]:
            return _planned(run, 100)
        return _start(run, request)


class WarmupScheduleViewSet(KeepsHistory, viewsets.ModelViewSet[WarmupSchedule]):
    """Warm-up schedules."""

    queryset = WarmupSchedule.objects.select_related("model").prefetch_related("strategies")
    serializer_class = WarmupScheduleSerializer
    permission_classes = (CanOperateOrAdminister,)
    lookup_field = "name"
    lookup_url_kwarg = "schedule"
    http_method_names = ("get", "post", "patch", "delete", "head", "options")
    filterset_class = ScheduleFilter
    search_fields = ("name",)
    ordering_fields = ("name", "next_due", "changed", "warmed", "earned", "seconds_saved")

    def get_permissions(self) -> list[BasePermission]:
        """Return who may: operators run schedules, administrators change them."""
        return [CanOperate() if self.action in _RUNNING else CanOperateOrAdminister()]

    def get_queryset(self) -> QuerySet[WarmupSchedule]:
        """Return the schedules of the models that the caller may see."""
        models = access_of(self.request).models_for("operate")
        rows = super().get_queryset().distinct()
        return (
            rows if self.action != "list" or models is None else rows.filter(model__name__in=models)
        )

    def get_object(self) -> WarmupSchedule:
        """Return the schedule in the path, if the caller may have to do with its model."""
        row = super().get_object()
        changes = self.action in {"partial_update", "destroy"}
        self._check(row.model.name, "administer" if changes else "operate")
        return row

    def perform_create(self, serializer: BaseSerializer[WarmupSchedule]) -> None:
        """Make a schedule, if the caller may change its model."""
        self._check(serializer.validated_data["model"].name, "administer")
        super().perform_create(serializer)

    def perform_update(self, serializer: BaseSerializer[WarmupSchedule]) -> None:
        """Change a schedule, if the caller may change the model that it is of then."""
        if "model" in serializer.validated_data:
            self._check(serializer.validated_data["model"].name, "administer")
        super().perform_update(serializer)

    def _check(self, model: str, permission: str) -> None:
        access_of(self.request).check_model(model, permission)

    @extend_schema(request=None, responses={202: WarmupRunSerializer})
    @action(detail=True, methods=["post"])
    def run(self, request: Request, schedule: str) -> Response:
        """Run the schedule now, whenever it is due."""
        return _start(_of(self.get_object()), request)

    @extend_schema(
        parameters=[OpenApiParameter("limit", int, description=f"Up to {_SHOWN}; 100 if absent.")],
        request=None,
        responses=PlannedSerializer(many=True),
    )
    @action(detail=True, methods=["post"], filter_backends=(), pagination_class=None)
    def dry_run(self, request: Request, schedule: str) -> Response:
        """Say who would be warmed now, the best first, and why. Nothing is warmed."""
        return _planned(_of(self.get_object()), _limit(request))

    @extend_schema(request=None, responses=WarmupRunSerializer)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, schedule: str) -> Response:
        """Stop the run of the schedule that waits or runs."""
        run = self.get_object().runs.filter(state__in=WarmupRun.ACTIVE).first()
        if run is None:
            raise serializers.ValidationError({"schedule": "No run of it waits or runs."})
        return _stopped(run)


def _stopped(run: WarmupRun) -> Response:
    warmup_runs.stop(run)
    run.refresh_from_db()
    return Response(WarmupRunSerializer(run).data)


class WarmupRunViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[WarmupRun]
):
    """Warm-up runs, the latest first."""

    queryset = WarmupRun.objects.select_related("schedule", "by")
    serializer_class = WarmupRunSerializer
    permission_classes = (CanOperate,)
    lookup_value_regex = "[0-9]+"
    filterset_class = RunFilter
    ordering_fields = ("requested", "started", "ended", "warmed", "earned", "seconds_saved")

    def get_queryset(self) -> QuerySet[WarmupRun]:
        """Return the runs of the models that the caller may see."""
        models = access_of(self.request).models_for("operate")
        rows = super().get_queryset()
        if self.action != "list":
            return rows
        return rows.defer("strategies").filter(**({} if models is None else {"model__in": models}))

    def get_serializer_class(self) -> type[WarmupRunSerializer]:
        """Return the shape of one run, or of one in a list."""
        return ListedRunSerializer if self.action == "list" else WarmupRunSerializer

    def get_object(self) -> WarmupRun:
        """Return the run in the path, if the caller may see its model."""
        row = super().get_object()
        access_of(self.request).check_model(row.model, "operate")
        return row

    @extend_schema(request=None, responses=WarmupRunSerializer)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str) -> Response:
        """Stop the run; one that is over stays as it is."""
        return _stopped(self.get_object())

    @extend_schema(responses=WarmupQuestionSerializer(many=True))
    @action(detail=True, methods=["get"], filter_backends=())
    def questions(self, request: Request, pk: str) -> Response:
        """Return the run's questions, and what became of each, while they are kept."""
        rows = WarmupQuestion.objects.filter(run=self.get_object()).order_by("position")
        page: Any = self.paginate_queryset(rows)  # type: ignore[arg-type]  # of another model
        return self.get_paginated_response(WarmupQuestionSerializer(page, many=True).data)
