"""Shapes of the API: resources of the registry, and the schema of the predict endpoints.

The predict bodies are read by `translation`, which all doors share; their serializers here only
describe them in the OpenAPI schema.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from serving_app.core.activity import EVENT_KINDS
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


class RecommendationRequestSerializer(serializers.Serializer[Any]):
    """One question."""

    user_id = serializers.CharField(help_text="The user: a string or a whole number.")
    model_name = serializers.CharField(
        default="default", help_text="The model; model@alias or model@version for one of its own."
    )
    features = serializers.JSONField(
        required=False,
        help_text="Values by name, or a list in the model's order; absent: the feature source.",
    )
    context = serializers.DictField(  # type: ignore[assignment]  # a field, not the base's
        required=False
    )
    k = serializers.IntegerField(default=10, min_value=1)
    exclude = serializers.ListField(child=serializers.CharField(), required=False)
    timeout_ms = serializers.FloatField(required=False)
    titles = serializers.BooleanField(default=False, help_text="Add the items' titles.")
    explain = serializers.BooleanField(
        default=False, help_text="Say how the answer came about; for operators."
    )


class ExplanationSerializer(serializers.Serializer[Any]):
    """How an answer came about."""

    cache_level = serializers.CharField(allow_null=True, help_text="null: none answered.")
    age_ms = serializers.FloatField(allow_null=True, help_text="Since it was computed.")
    model_version = serializers.IntegerField(allow_null=True)
    alias = serializers.CharField(allow_null=True)
    segment = serializers.CharField()
    batch_size = serializers.IntegerField(allow_null=True, help_text="null: not computed now.")
    queue_ms = serializers.FloatField(allow_null=True)
    model_ms = serializers.FloatField(allow_null=True)


class RecommendationSerializer(serializers.Serializer[Any]):
    """One answer."""

    user_id = serializers.CharField()
    recommendations = serializers.ListField(child=serializers.CharField())
    scores = serializers.ListField(child=serializers.FloatField())
    titles = serializers.ListField(child=serializers.CharField(), required=False)
    model_name = serializers.CharField()
    model_version = serializers.IntegerField(allow_null=True)
    alias = serializers.CharField(
        allow_null=True,
        help_text="production, canary, or the alias asked for; null for a version or a fallback.",
    )
    latency_ms = serializers.FloatField()
    cached = serializers.BooleanField()
    source = serializers.CharField(  # type: ignore[assignment]  # a field, not the base's
        help_text="model, a cache level, or fallback."
    )
    stale = serializers.BooleanField(help_text="Out of the cache, and due to be computed anew.")
    degraded = serializers.BooleanField(
        help_text="A stale answer or a fallback stands in for the model, which could not answer."
    )
    explain = ExplanationSerializer(required=False)


class BatchRequestSerializer(serializers.Serializer[Any]):
    """Several questions."""

    requests = RecommendationRequestSerializer(many=True)
    batch_id = serializers.CharField(required=False)


class BatchSerializer(serializers.Serializer[Any]):
    """Their answers, in order; a bad request has its problem details in its place."""

    batch_id = serializers.CharField()
    results = RecommendationSerializer(many=True)
    batch_size = serializers.IntegerField()
    total_latency_ms = serializers.FloatField()


class EventSerializer(serializers.Serializer[Any]):
    """Something that a user did."""

    user_id = serializers.CharField(help_text="The user: a string or a whole number.")
    item_id = serializers.CharField()
    kind = serializers.ChoiceField(choices=EVENT_KINDS)
    model_name = serializers.CharField(
        default="default", help_text="The model whose activity it counts for."
    )
    at = serializers.JSONField(
        required=False, help_text="ISO 8601 with its zone, or Unix seconds; absent: now."
    )
    value = serializers.FloatField(
        required=False, help_text="The rating, which needs one, or the pieces bought."
    )
    event_id = serializers.CharField(
        required=False, max_length=128, help_text="An event whose id is known is not taken again."
    )


class EventsSerializer(serializers.Serializer[Any]):
    """Several events."""

    events = EventSerializer(many=True)


class RecordedEventsSerializer(serializers.Serializer[Any]):
    """What became of them."""

    recorded = serializers.IntegerField()
    repeated = serializers.IntegerField(help_text="Those whose event_id was known.")
    refused = serializers.IntegerField()
    errors = serializers.ListField(  # type: ignore[assignment]  # a field, not the base's
        child=serializers.DictField(),
        help_text="Problem details of each that was refused, with its index.",
    )


class QuestionSerializer(serializers.Serializer[Any]):
    """What tells one entry from another."""

    user_id = serializers.CharField(help_text="The user: a string or a whole number.")
    model_name = serializers.CharField(default="default")
    features = serializers.JSONField(required=False)
    context = serializers.DictField(  # type: ignore[assignment]  # a field, not the base's
        required=False
    )


class ScopeSerializer(serializers.Serializer[Any]):
    """What to forget: everything that belongs to all that is given together."""

    user_id = serializers.CharField(
        required=False, help_text="A user, alone or by a model; a number and its text are one."
    )
    model_name = serializers.CharField(required=False, help_text="A model.")
    version = serializers.IntegerField(
        required=False, min_value=1, help_text="A version, with its model_name."
    )
    tag = serializers.CharField(
        required=False, help_text="A tag that requests declared in context.tags; alone."
    )
    segment = serializers.CharField(required=False, help_text="A segment; alone.")
    key = serializers.CharField(required=False, help_text="The key of one entry; alone.")
    question = QuestionSerializer(
        required=False, help_text="The one entry that answers it, by the live version; alone."
    )
    all = serializers.BooleanField(required=False, help_text="true: everything; alone.")


class InvalidateSerializer(ScopeSerializer):
    """One scope, or several."""

    scopes = ScopeSerializer(many=True, required=False, help_text="1 to 100 scopes; alone.")


class BoundSerializer(serializers.Serializer[Any]):
    """Seconds after which no older answer is served."""

    this_host = serializers.FloatField()
    other_hosts = serializers.FloatField()


class InvalidatedSerializer(serializers.Serializer[Any]):
    """What was invalidated."""

    invalidated = ScopeSerializer(many=True)
    epoch = serializers.IntegerField()
    bound_seconds = BoundSerializer()


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
