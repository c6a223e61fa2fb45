"""Shapes of alerts in the API."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from rest_framework import serializers

from serving_app.alert_models import (
    Alert,
    AlertChannel,
    AlertEvent,
    AlertRule,
    AlertSilence,
)

__all__ = [
    "AlertChannelSerializer",
    "AlertRuleSerializer",
    "AlertSerializer",
    "AlertSilenceSerializer",
    "EpisodeSerializer",
    "PreviewSerializer",
]


class _Checked(serializers.ModelSerializer[Any]):
    """A row that is checked as its model's ``clean`` does."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the values, once the row that they make is sound."""
        model: Any = self.Meta.model
        fields = {field.name for field in model._meta.concrete_fields}  # noqa: SLF001
        row = model() if self.instance is None else model.objects.get(pk=self.instance.pk)
        for name, value in attrs.items():
            if name in fields:
                setattr(row, name, value)
        try:
            row.clean()
        except DjangoValidationError as error:
            raise serializers.ValidationError(serializers.as_serializer_error(error)) from error
        return attrs


class AlertChannelSerializer(_Checked):
    """A channel."""

    class Meta:
        """What is shown."""

        model = AlertChannel
        fields = ("id", "name", "kind", "options", "enabled")


class AlertRuleSerializer(_Checked):
    """A rule."""

    channels: Any = serializers.SlugRelatedField(
        slug_field="name", queryset=AlertChannel.objects.all(), many=True, required=False
    )

    class Meta:
        """What is shown."""

        model = AlertRule
        fields = (
            *("id", "name", "description", "enabled", "severity", "metric", "model", "segment"),
            *("level", "kind", "above", "threshold", "clear", "window", "hold", "calm", "least"),
            *("channels", "changed"),
        )
        read_only_fields = ("changed",)


class AlertEventSerializer(serializers.ModelSerializer[AlertEvent]):
    """A step of an alert."""

    class Meta:
        """What is shown."""

        model = AlertEvent
        fields = ("at", "state", "value")


class AlertSerializer(serializers.ModelSerializer[Alert]):
    """An alert, with its steps."""

    rule: Any = serializers.SlugRelatedField(slug_field="name", read_only=True)
    rule_id = serializers.IntegerField(read_only=True)
    events = AlertEventSerializer(many=True, read_only=True)

    class Meta:
        """What is shown."""

        model = Alert
        fields = (
            *("id", "rule", "rule_id", "severity", "state", "started", "fired", "resolved"),
            *("value", "notified", "events"),
        )


class AlertSilenceSerializer(_Checked):
    """A silence."""

    rule: Any = serializers.SlugRelatedField(
        slug_field="name", queryset=AlertRule.objects.all(), required=False, allow_null=True
    )
    by = serializers.CharField(source="by.username", read_only=True, default=None)

    class Meta:
        """What is shown."""

        model = AlertSilence
        fields = ("id", "rule", "model", "severity", "starts", "ends", "reason", "by")


class EpisodeSerializer(serializers.Serializer[Any]):
    """One time that a rule would have fired."""

    started = serializers.DateTimeField()
    fired = serializers.DateTimeField()
    resolved = serializers.DateTimeField(allow_null=True)


class PreviewSerializer(serializers.Serializer[Any]):
    """When a rule would have fired."""

    episodes = EpisodeSerializer(many=True)
    points = serializers.ListField(
        child=serializers.ListField(), help_text="Pairs of a time and the value; null: unknown."
    )
