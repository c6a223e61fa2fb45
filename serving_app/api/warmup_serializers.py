"""Shapes of warm-up schedules and runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import router, transaction
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from serving_app import warmup_runs
from serving_app.models import ServedModel
from serving_app.warmup_models import ScheduledStrategy, WarmupQuestion, WarmupRun, WarmupSchedule

__all__ = [
    "AdHocSerializer",
    "ListedRunSerializer",
    "PlannedSerializer",
    "WarmupQuestionSerializer",
    "WarmupRunSerializer",
    "WarmupScheduleSerializer",
]

_PLAN = ("alias", "time_zone", "budget", "batch_size", "rate")
_FIGURES = ("warmed", "earned", "hit_share", "model_seconds", "seconds_saved")


def _cleaned(row: Any, exclude: tuple[str, ...] = ()) -> None:
    """Check a row as the admin does."""
    try:
        row.full_clean(exclude=exclude, validate_unique=False, validate_constraints=False)
    except DjangoValidationError as error:
        raise serializers.ValidationError(error.message_dict) from error


class StrategySerializer(serializers.ModelSerializer[ScheduledStrategy]):
    """One strategy, what its scores count, and its options."""

    options = serializers.DictField(required=False, default=dict)

    class Meta:
        """Fields."""

        model = ScheduledStrategy
        fields = ("strategy", "weight", "options")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check the options, as the admin does."""
        _cleaned(ScheduledStrategy(**attrs), exclude=("schedule",))
        return attrs


class WarmupScheduleSerializer(serializers.ModelSerializer[WarmupSchedule]):
    """What is warmed, and when."""

    model = serializers.SlugRelatedField(slug_field="name", queryset=ServedModel.objects.all())
    strategies = StrategySerializer(many=True, allow_empty=False)
    hit_share = serializers.FloatField(read_only=True, allow_null=True)

    class Meta:
        """Fields."""

        model = WarmupSchedule
        fields = (
            *("name", "model", "alias", "cron", "interval", "time_zone", "strategies"),
            *("budget", "batch_size", "rate", "enabled", "next_due"),
            *_FIGURES,
            "changed",
        )
        read_only_fields = ("next_due", "changed", *_FIGURES)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check what the fields mean together, as the admin does."""
        own = {name: value for name, value in attrs.items() if name != "strategies"}
        known = (
            {name: getattr(self.instance, name) for name in (*_PLAN, "name", "cron", "interval")}
            if self.instance
            else {}
        )
        _cleaned(WarmupSchedule(**{**known, **own}), exclude=("model",))
        return attrs

    def create(self, validated_data: dict[str, Any]) -> WarmupSchedule:
        """Make the schedule with its strategies, or neither."""
        strategies = validated_data.pop("strategies")
        with transaction.atomic(using=router.db_for_write(WarmupSchedule)):
            schedule = WarmupSchedule.objects.create(**validated_data)
            self._use(schedule, strategies)
        return schedule

    def update(self, instance: WarmupSchedule, validated_data: dict[str, Any]) -> WarmupSchedule:
        """Change it; strategies that are sent replace all that there are."""
        strategies = validated_data.pop("strategies", None)
        with transaction.atomic(using=router.db_for_write(WarmupSchedule)):
            for name, value in validated_data.items():
                setattr(instance, name, value)
            instance.save()
            if strategies is not None:
                instance.strategies.all().delete()
                self._use(instance, strategies)
        return instance

    def _use(self, schedule: WarmupSchedule, strategies: list[dict[str, Any]]) -> None:
        for each in strategies:
            ScheduledStrategy.objects.create(schedule=schedule, **each)


class WarmupRunSerializer(serializers.ModelSerializer[WarmupRun]):
    """One warm-up: how far it is, and what came of it."""

    schedule = serializers.CharField(source="schedule.name", allow_null=True, default=None)
    by = serializers.CharField(source="by.username", allow_null=True, default=None)
    strategies = serializers.ListField(child=serializers.DictField())
    progress = serializers.FloatField(help_text="The part of its questions that is dealt with.")
    hit_share = serializers.FloatField(allow_null=True)
    seconds = serializers.FloatField(allow_null=True, help_text="How long it took by now.")

    class Meta:
        """Fields."""

        model = WarmupRun
        fields: tuple[str, ...] = (
            *("id", "schedule", "model", "state", "progress", "message"),
            *("candidates", "warmed", "fresh", "refused", "errors"),
            *("earned", "hit_share", "model_seconds", "seconds_saved"),
            *("requested", "started", "ended", "seconds", "by", "by_clock"),
            *("runner", "seen", "takeovers", "stop_requested"),
            *("strategies", *_PLAN),
        )
        read_only_fields: tuple[str, ...] = fields


class ListedRunSerializer(WarmupRunSerializer):
    """One warm-up in a list: without its strategies, of which each may hold a long list."""

    strategies = None  # type: ignore[assignment]  # takes the field away

    class Meta(WarmupRunSerializer.Meta):
        """Fields."""

        fields = tuple(name for name in WarmupRunSerializer.Meta.fields if name != "strategies")
        read_only_fields = fields


class AdHocSerializer(serializers.Serializer[Any]):
    """A warm-up: of a schedule, or of a strategy with its options."""

    schedule = serializers.CharField(
        required=False, max_length=100, help_text="Its name; nothing else is needed then."
    )
    model_name = serializers.CharField(default="default", max_length=100)
    alias = serializers.CharField(required=False, allow_blank=True, max_length=100)
    strategy = serializers.CharField(required=False, max_length=64, help_text="One, by its name.")
    options = serializers.DictField(required=False, help_text="Of the strategy.")
    strategies = StrategySerializer(
        many=True, required=False, allow_empty=False, help_text="Several; instead of `strategy`."
    )
    time_zone = serializers.CharField(required=False, max_length=64)
    budget = serializers.IntegerField(required=False, min_value=1, max_value=2**31 - 1)
    batch_size = serializers.IntegerField(required=False, min_value=1, max_value=1024)
    rate = serializers.FloatField(required=False)
    dry_run = serializers.BooleanField(
        default=False, help_text="Only say who would be warmed, and why."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check that it says what to warm, in one way."""
        sent = set(self.initial_data if isinstance(self.initial_data, Mapping) else ())
        if "schedule" in attrs:
            more = sorted(sent - {"schedule", "dry_run"})
            if more:
                raise serializers.ValidationError(
                    {more[0]: "A schedule says this itself; change it there."}
                )
            return attrs
        if unknown := sorted(sent - set(self.fields)):
            raise serializers.ValidationError({str(unknown[0])[:50]: "There is no such field."})
        if ("strategy" in attrs) == ("strategies" in attrs):
            raise serializers.ValidationError(
                {"strategy": "Give a schedule, a strategy, or strategies."}
            )
        if "strategy" in attrs:
            one = {"strategy": attrs.pop("strategy"), "options": attrs.pop("options", {})}
            checked = StrategySerializer(data=one)
            checked.is_valid(raise_exception=True)
            attrs["strategies"] = [checked.validated_data]
        elif "options" in attrs:
            raise serializers.ValidationError({"options": "Each of the strategies has its own."})
        return attrs

    def run(self) -> WarmupRun:
        """Return the run that was asked for, checked and not saved."""
        given = self.validated_data
        run = WarmupRun(
            model=given["model_name"],
            strategies=[{"weight": 1.0, **each} for each in map(dict, given["strategies"])],
            **{name: given[name] for name in _PLAN if name in given},
        )
        _cleaned(run)
        try:
            warmup_runs.check_live(run.model, run.alias)
        except DjangoValidationError as error:
            named = error.message_dict
            if "model" in named:
                named = {"model_name": named["model"]}
            raise serializers.ValidationError(named) from error
        return run


class PlannedSerializer(serializers.Serializer[Any]):
    """One question that a run would deal with."""

    user_id = serializers.CharField()
    alias = serializers.CharField()
    context = serializers.DictField()  # type: ignore[assignment]  # a field, not the base's
    score = serializers.FloatField()
    reasons = serializers.DictField(child=serializers.CharField(), help_text="By strategy.")
    fresh = serializers.BooleanField(help_text="Whether it would be skipped.")


class WarmupQuestionSerializer(serializers.ModelSerializer[WarmupQuestion]):
    """One question of a run, and what became of it."""

    user_id = serializers.SerializerMethodField()
    context = serializers.SerializerMethodField()  # type: ignore[assignment]  # a field

    class Meta:
        """Fields."""

        model = WarmupQuestion
        fields = (
            *("position", "user_id", "alias", "context", "score", "reason", "state", "problem"),
            *("warmed_at", "fresh_until", "model_seconds", "asked"),
        )

    @extend_schema_field(str)
    def get_user_id(self, row: WarmupQuestion) -> str | int:
        """Return the user as it asks."""
        return row.user_id

    @extend_schema_field(dict[str, Any])
    def get_context(self, row: WarmupQuestion) -> Any:
        """Return the context as it was given."""
        return json.loads(row.context)
