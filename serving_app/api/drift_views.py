"""Drift by the API: feature vectors in, decisions and profiles out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from plugins import InvalidInput, UserId
from serving_app import wiring
from serving_app.api.authentication import access_of
from serving_app.api.events import user_of
from serving_app.api.json import LenientJSONParser
from serving_app.api.permissions import CanOperateEveryModel, CanPredict
from serving_app.drift_models import DriftDecision, UserProfile

MOST_VECTORS = 100
MOST_FEATURES = 1000
_LONGEST_NAME = 256

_USER = {"oneOf": [{"type": "string"}, {"type": "integer"}]}


class FeatureVectorSerializer(serializers.Serializer[Any]):
    """A user's features now."""

    user_id = serializers.CharField(help_text="The user: a string or a whole number.")
    features = serializers.DictField(child=serializers.FloatField(), help_text="Values by name.")


class FeatureVectorsSerializer(serializers.Serializer[Any]):
    """Some users' features."""

    users = FeatureVectorSerializer(many=True)


class JudgedSerializer(serializers.Serializer[Any]):
    """What was decided of one user."""

    user_id = serializers.JSONField(help_text="A string or a whole number.")
    action = serializers.CharField(help_text="keep, refresh or drop.")
    distance = serializers.FloatField(help_text="From the vector at the last refresh, 0 to 1.")
    reason = serializers.CharField()
    segment = serializers.CharField()


class JudgedVectorsSerializer(serializers.Serializer[Any]):
    """What was decided, in order."""

    results = JudgedSerializer(many=True)


class DriftFeaturesView(APIView):
    """Takes users' new feature vectors."""

    permission_classes = (CanPredict,)
    parser_classes = (LenientJSONParser,)

    @extend_schema(request=FeatureVectorsSerializer, responses={200: JudgedVectorsSerializer})
    def post(self, request: Request) -> Response:
        """Compare vectors with those at the last refresh, and forget answers that they change.

        All are checked before the first is taken.
        """
        access_of(request).check_every_model("predict")
        given = _vectors(request.data)
        drift = wiring.get_serving().drift
        results = []
        for user, features in given:
            judged = drift.judge_features(user, features)
            results.append(
                {
                    "user_id": user,
                    "action": judged.action,
                    "distance": judged.distance,
                    "reason": judged.reason,
                    "segment": judged.segment,
                }
            )
        return Response({"results": results})


def _vectors(body: Any) -> list[tuple[UserId, dict[str, float]]]:
    users = body.get("users") if isinstance(body, Mapping) else None
    if not isinstance(users, list) or not 1 <= len(users) <= MOST_VECTORS:
        raise InvalidInput(f"users must be a list of 1 to {MOST_VECTORS} users.", field="users")
    return [_vector(each, f"users[{i}]") for i, each in enumerate(users)]


def _vector(value: Any, where: str) -> tuple[UserId, dict[str, float]]:
    if not isinstance(value, Mapping) or set(value) != {"user_id", "features"}:
        raise InvalidInput(f"{where} must have user_id and features, and no more.", field=where)
    user = user_of(value["user_id"], f"{where}.user_id")
    features = value["features"]
    if not isinstance(features, Mapping) or not 1 <= len(features) <= MOST_FEATURES:
        raise InvalidInput(
            f"{where}.features must be an object of 1 to {MOST_FEATURES} numbers by name.",
            field=f"{where}.features",
        )
    for name, number in features.items():
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or "\0" in name:
            raise InvalidInput(
                f"{where}.features has a name that is empty, or longer than {_LONGEST_NAME}.",
                field=f"{where}.features",
            )
        known = isinstance(number, int | float) and not isinstance(number, bool)
        if not known or not abs(number) < 1e100 or not math.isfinite(number):
            raise InvalidInput(
                f"{where}.features.{name[:50]} must be a number.",
                field=f"{where}.features.{name[:50]}",
            )
    return user, {name: float(number) for name, number in features.items()}


class DriftDecisionSerializer(serializers.ModelSerializer[DriftDecision]):
    """One change of preferences, and what was done."""

    user_id = serializers.SerializerMethodField()

    class Meta:
        """Fields."""

        model = DriftDecision
        fields = (
            *("at", "user_id", "source", "segment", "rule", "action", "distance", "events"),
            "reason",
        )

    @extend_schema_field(_USER)
    def get_user_id(self, row: DriftDecision) -> UserId:
        """Return the user as it asks."""
        return row.user_id


class UserProfileSerializer(serializers.ModelSerializer[UserProfile]):
    """What a user likes, and what the rule said of it last."""

    user_id = serializers.SerializerMethodField()
    before = serializers.DictField(child=serializers.FloatField())
    now = serializers.DictField(child=serializers.FloatField())

    class Meta:
        """Fields."""

        model = UserProfile
        fields = (
            *("user_id", "source", "before", "now", "events", "suspected", "refreshed", "judged"),
            *("distance", "reason"),
        )

    @extend_schema_field(_USER)
    def get_user_id(self, row: UserProfile) -> UserId:
        """Return the user as it asks."""
        return row.user_id


class DriftDecisionViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[DriftDecision]):
    """Decisions, the latest first."""

    queryset = DriftDecision.objects.all()
    serializer_class = DriftDecisionSerializer
    permission_classes = (CanOperateEveryModel,)
    filterset_fields = ("user", "user_is_number", "source", "segment", "action")
    ordering_fields = ("at", "distance")


class UserProfileViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[UserProfile]):
    """Profiles, who was judged last first."""

    queryset = UserProfile.objects.all()
    serializer_class = UserProfileSerializer
    permission_classes = (CanOperateEveryModel,)
    filterset_fields = ("user", "user_is_number", "source")
    ordering_fields = ("judged", "distance")
