"""Shapes of the API: predictions, events and invalidations.

The predict bodies are read by `translation`, which all doors share; their serializers here only
describe them in the OpenAPI schema.
"""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from serving_app.core.activity import EVENT_KINDS


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
