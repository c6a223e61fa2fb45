"""Shapes of the API: models, versions, aliases and roll-outs."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from serving_app.core.outputs import OUTPUTS
from serving_app.models import (
    Activation,
    Alias,
    ModelVersion,
    Promotion,
    RollOut,
    RollOutStep,
    ServedModel,
)


class ActivationSerializer(serializers.ModelSerializer[Activation]):
    """What one process made of one version that should be live."""

    version = serializers.IntegerField(source="version.number")

    class Meta:
        """Fields."""

        model = Activation
        fields = ("process", "version", "state", "problem", "load_seconds", "seen")


class AliasSerializer(serializers.ModelSerializer[Alias]):
    """A name for one of a model's versions."""

    version = serializers.IntegerField(source="version.number", min_value=1)
    percent = serializers.FloatField(default=0.0, min_value=0, max_value=100)

    class Meta:
        """Fields."""

        model = Alias
        fields = ("name", "version", "percent", "changed")
        read_only_fields = ("name", "changed")


_TOGETHER = ("executor", "executor_options", "max_wait", "headroom", "timeout")


class ServedModelSerializer(serializers.ModelSerializer[ServedModel]):
    """A model."""

    executor_options = serializers.DictField(required=False)
    live_version = serializers.IntegerField(
        source="live_version.number", read_only=True, allow_null=True, default=None
    )
    aliases = AliasSerializer(many=True, read_only=True)
    activations = ActivationSerializer(many=True, read_only=True)

    class Meta:
        """Fields."""

        model = ServedModel
        fields = (
            "name",
            "description",
            "live_version",
            "aliases",
            "executor",
            "executor_options",
            "max_batch",
            "max_wait",
            "max_queue",
            "headroom",
            "timeout",
            "changed",
            "activations",
        )

    def validate_name(self, name: str) -> str:
        """Refuse to rename a model: clients ask for it by name."""
        if self.instance is not None and self.instance.name != name:
            raise serializers.ValidationError("A model cannot be renamed; clients ask by name.")
        return name

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check what the fields mean together, as the admin does."""
        known = {f: getattr(self.instance, f) for f in _TOGETHER} if self.instance else {}
        given = {f: attrs[f] for f in _TOGETHER if f in attrs}
        try:
            ServedModel(**{**known, **given}).clean()
        except DjangoValidationError as error:
            raise serializers.ValidationError(error.message_dict) from error
        return attrs


class ModelVersionSerializer(serializers.ModelSerializer[ModelVersion]):
    """A version of a model. Posting one validates it first."""

    model = serializers.CharField(source="model.name", read_only=True)
    sha256 = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=64,
        help_text="If given, the artifact must have this digest.",
    )
    catalogue = serializers.CharField(required=False, allow_blank=True, max_length=500)
    feature_names = serializers.ListField(child=serializers.CharField(), required=False)
    feature_schema = serializers.ListField(child=serializers.DictField(), required=False)
    output = serializers.ChoiceField(
        choices=OUTPUTS,
        required=False,
        allow_blank=True,
        help_text="If absent, validation finds out.",
    )
    output_options = serializers.DictField(required=False)
    framework_options = serializers.DictField(required=False)
    feature_source_options = serializers.DictField(required=False)
    metrics = serializers.DictField(required=False)
    live = serializers.SerializerMethodField()

    class Meta:
        """Fields."""

        model = ModelVersion
        fields = (
            "model",
            "number",
            "live",
            "framework",
            "framework_options",
            "artifact",
            "sha256",
            "signature",
            "feature_names",
            "feature_schema",
            "output",
            "output_options",
            "item_vectors",
            "catalogue",
            "items",
            "feature_source",
            "feature_source_options",
            "notes",
            "metrics",
            "created",
            "validated",
            "problem",
        )
        read_only_fields = ("number", "signature", "items", "created", "validated", "problem")

    @extend_schema_field(bool)
    def get_live(self, version: ModelVersion) -> bool:
        """Return whether this is the model's live version."""
        return version.in_production


class PromoteSerializer(serializers.Serializer[Any]):
    """Which version should be live."""

    version = serializers.IntegerField(min_value=1)
    wait_seconds = serializers.FloatField(
        default=30.0,
        min_value=0,
        max_value=120,
        help_text="How long to wait until the version is live in the answering process.",
    )


class PromotionSerializer(serializers.ModelSerializer[Promotion]):
    """One change of a model's live version."""

    version = serializers.IntegerField(source="version.number")
    replaced = serializers.IntegerField(source="replaced.number", allow_null=True, default=None)
    by = serializers.CharField(source="by.username", allow_null=True, default=None)

    class Meta:
        """Fields."""

        model = Promotion
        fields = ("version", "replaced", "at", "by", "rolled_back")


class GoLiveSerializer(serializers.Serializer[Any]):
    """The state after promoting or rolling back."""

    model = serializers.CharField()
    live_version = serializers.IntegerField()
    live_here = serializers.BooleanField(
        help_text="Whether the answering process serves it already."
    )


class StartRollOutSerializer(serializers.Serializer[Any]):
    """Which version should be tried, and on how many users."""

    version = serializers.IntegerField(min_value=1)
    percents = serializers.ListField(
        child=serializers.FloatField(),
        help_text="The canary's shares, one after the other, in percent and steps of 0.01.",
    )
    step_seconds = serializers.FloatField(
        default=None,
        allow_null=True,
        min_value=1,
        help_text="After how long the next share comes by itself; null: only by hand.",
    )


class RaiseSerializer(serializers.Serializer[Any]):
    """The canary's next share."""

    percent = serializers.FloatField(required=False, help_text="Absent: the roll-out's next step.")


class ReasonSerializer(serializers.Serializer[Any]):
    """Why something is done, for the history."""

    reason = serializers.CharField(default="", allow_blank=True, max_length=1000)


class RollOutStepSerializer(serializers.ModelSerializer[RollOutStep]):
    """One thing that happened to a roll-out."""

    by = serializers.CharField(source="by.username", allow_null=True, default=None)
    percent = serializers.FloatField()

    class Meta:
        """Fields."""

        model = RollOutStep
        fields = ("at", "action", "percent", "by", "reason", "figures")


class RollOutSerializer(serializers.ModelSerializer[RollOut]):
    """One version's way from a share of the users to all of them, or back."""

    candidate = serializers.IntegerField(source="candidate.number")
    production = serializers.IntegerField(source="production.number")
    percent = serializers.FloatField(help_text="The canary's present share.")
    by = serializers.CharField(source="by.username", allow_null=True, default=None)
    steps = RollOutStepSerializer(many=True)

    class Meta:
        """Fields."""

        model = RollOut
        fields = (
            "id",
            "candidate",
            "production",
            "state",
            "percent",
            "percents",
            "step_seconds",
            "started",
            "ended",
            "by",
            "steps",
        )
