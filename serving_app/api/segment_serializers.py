"""Shapes of the API: segments, their members, and what a rule would select."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import transaction
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from serving_app.core.segment_rules import Condition
from serving_app.segment_models import Segment, SegmentCondition, SegmentMember

MOST_CONDITIONS = 20


class SegmentConditionSerializer(serializers.ModelSerializer[SegmentCondition]):
    """One comparison."""

    class Meta:
        """Fields."""

        model = SegmentCondition
        fields = ("field", "comparison", "value", "window_days")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check that it means something, as the admin does."""
        try:
            SegmentCondition(**attrs).clean()
        except DjangoValidationError as error:
            raise serializers.ValidationError(_messages(error)) from error
        return attrs


def _messages(error: DjangoValidationError) -> Any:
    return error.message_dict if hasattr(error, "error_dict") else error.messages


class SegmentSerializer(serializers.ModelSerializer[Segment]):
    """A group of users that is chosen by a rule, and cached and counted together."""

    conditions = SegmentConditionSerializer(
        many=True,
        required=False,
        max_length=MOST_CONDITIONS,  # type: ignore[call-arg]  # of lists
    )
    rule = serializers.CharField(source="described", read_only=True, help_text="In words.")
    members = serializers.IntegerField(source="n", read_only=True, default=0)
    policy_options = serializers.DictField(required=False)
    drift_options = serializers.DictField(required=False)

    class Meta:
        """Fields."""

        model = Segment
        fields = (
            "name",
            "description",
            "order",
            "enabled",
            "conditions",
            "rule",
            "share",
            "policy",
            "policy_options",
            "ttl",
            "drift_rule",
            "drift_options",
            "alias",
            "members",
            "created",
            "changed",
        )
        read_only_fields = ("created", "changed")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check what the fields mean together, as the admin does."""
        own = [f.name for f in Segment._meta.concrete_fields]  # noqa: SLF001  (public, in spite of its name)
        known = {name: getattr(self.instance, name) for name in own} if self.instance else {}
        given = {name: value for name, value in attrs.items() if name in own}
        try:
            Segment(**{**known, **given}).clean()
        except DjangoValidationError as error:
            raise serializers.ValidationError(_messages(error)) from error
        return attrs

    def create(self, validated_data: dict[str, Any]) -> Segment:
        """Make a segment with its rule."""
        conditions = validated_data.pop("conditions", [])
        with transaction.atomic():
            row = super().create(validated_data)
            self._rewrite(row, conditions)
        return row

    def update(self, instance: Segment, validated_data: dict[str, Any]) -> Segment:
        """Change a segment; its rule is replaced as a whole, if one is given."""
        conditions = validated_data.pop("conditions", None)
        with transaction.atomic():
            row = super().update(instance, validated_data)
            if conditions is not None:
                row.conditions.all().delete()
                self._rewrite(row, conditions)
        return row

    @staticmethod
    def _rewrite(row: Segment, conditions: Sequence[Mapping[str, Any]]) -> None:
        for each in conditions:
            SegmentCondition.objects.create(segment=row, **each)


class SegmentMemberSerializer(serializers.ModelSerializer[SegmentMember]):
    """A user in a segment."""

    user_id = serializers.SerializerMethodField()

    class Meta:
        """Fields."""

        model = SegmentMember
        fields = ("user_id", "since", "first_seen", "last_seen")

    @extend_schema_field({"oneOf": [{"type": "string"}, {"type": "integer"}]})
    def get_user_id(self, member: SegmentMember) -> str | int:
        """Return the user as it asks."""
        return member.user_id


class SimulateSegmentSerializer(serializers.Serializer[Any]):
    """A rule to try."""

    name = serializers.CharField(
        default="",
        allow_blank=True,
        max_length=50,
        help_text="The segment whose rule it would be; a new one's, if there is none of the name.",
    )
    order = serializers.IntegerField(default=100, min_value=0, max_value=2**31 - 1)
    conditions = SegmentConditionSerializer(
        many=True,
        max_length=MOST_CONDITIONS,  # type: ignore[call-arg]  # of lists
    )

    @property
    def rule(self) -> list[Condition]:
        """The conditions, as the rules have them."""
        return [SegmentCondition(**each).condition() for each in self.validated_data["conditions"]]


class OverlapSerializer(serializers.Serializer[Any]):
    """What the rule has in common with a segment's."""

    segment = serializers.CharField()
    selected = serializers.IntegerField(help_text="Users whom both select.")
    first = serializers.BooleanField(help_text="Whether that segment comes first.")


class SelectedSerializer(serializers.Serializer[Any]):
    """A user whom the rule would take."""

    user_id = serializers.JSONField(source="user", help_text="A string or a whole number.")
    segment = serializers.CharField(help_text="Where it is by the rules of today.")
    requests = serializers.IntegerField()
    first_seen = serializers.DateTimeField()
    last_seen = serializers.DateTimeField()


class SimulationSerializer(serializers.Serializer[Any]):
    """What a rule would select now."""

    known = serializers.IntegerField(help_text="Users that are known.")
    looked_at = serializers.IntegerField(help_text="Of those, an even sample if they are many.")
    selected = serializers.IntegerField(help_text="Of those: for whom the rule holds.")
    taken = serializers.IntegerField(help_text="Of those: whom no earlier segment takes.")
    estimate = serializers.IntegerField(help_text="Of all that are known, about.")
    leaving = serializers.DictField(
        child=serializers.IntegerField(), help_text="Whom it takes, by where they are today."
    )
    overlaps = OverlapSerializer(many=True)
    sample = SelectedSerializer(many=True)
