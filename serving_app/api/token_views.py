"""Signing in, and service tokens as a resource."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE
from django.contrib.auth.models import User
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework_simplejwt.serializers import TokenRefreshSerializer
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.tokens import RefreshToken
from rest_framework_simplejwt.utils import get_md5_hash_password
from rest_framework_simplejwt.views import TokenObtainPairView, TokenRefreshView

from serving_app.access import create_token
from serving_app.access_models import ServiceToken
from serving_app.api.history import log
from serving_app.api.permissions import CanAdministerEveryModel
from serving_app.api.throttles import SignInThrottle
from serving_app.models import ServedModel


class RefreshSerializer(TokenRefreshSerializer):
    """Renews tokens, unless their user is gone or has a new password."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, str]:
        """Return a new access token, and the refresh token that takes this one's place."""
        claims = RefreshToken(attrs["refresh"])
        user = User.objects.filter(pk=claims.get(api_settings.USER_ID_CLAIM)).first()
        stamp = claims.get(api_settings.REVOKE_TOKEN_CLAIM)
        if user is None or stamp != get_md5_hash_password(user.password):
            raise AuthenticationFailed(
                "The token's user is gone, or has a new password.", code="token_not_valid"
            )
        pair: dict[str, str] = super().validate(attrs)
        return pair


class SignInView(TokenObtainPairView):
    """Gives a user tokens for name and password."""

    throttle_classes = (SignInThrottle,)


class RefreshView(TokenRefreshView):
    """Renews tokens. A refresh token can be used once."""

    serializer_class = RefreshSerializer


class ServiceTokenSerializer(serializers.ModelSerializer[ServiceToken]):
    """A service token, without its text."""

    models = serializers.SlugRelatedField(
        slug_field="name",
        many=True,
        required=False,
        allow_null=True,
        queryset=ServedModel.objects.all(),
        help_text="The models it may ask; absent or null: every one. For the role predict.",
    )
    valid = serializers.BooleanField(source="is_valid", read_only=True)

    class Meta:
        """Fields."""

        model = ServiceToken
        fields = (
            "prefix",
            "name",
            "role",
            "models",
            "expires",
            "valid",
            "revoked",
            "last_used",
            "created",
        )
        read_only_fields = ("prefix", "revoked", "last_used", "created")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse a list of models where it would not hold."""
        if attrs.get("models") is not None and attrs.get("role", "predict") != "predict":
            raise serializers.ValidationError(
                {"models": "Only a token of the role predict can be limited to models."}
            )
        return attrs

    def to_representation(self, instance: ServiceToken) -> dict[str, Any]:
        """Return the row; ``models`` is null for every one."""
        names = sorted(model.name for model in instance.served_models.all())
        shown: dict[str, Any] = {}
        for name, each in self.fields.items():
            if name == "models":
                shown[name] = None if instance.all_models else names
            else:
                value = each.get_attribute(instance)
                shown[name] = None if value is None else each.to_representation(value)
        return shown


class NewServiceTokenSerializer(ServiceTokenSerializer):
    """A service token that was just made, with its text."""

    token = serializers.CharField(read_only=True, help_text="Shown now, and never again.")

    class Meta(ServiceTokenSerializer.Meta):
        """Fields."""

        fields = (*ServiceTokenSerializer.Meta.fields, "token")  # type: ignore[assignment]


@extend_schema_view(
    create=extend_schema(
        description="Make a service token. Its text is in this answer, and nowhere else.",
        responses={201: NewServiceTokenSerializer},
        examples=[
            OpenApiExample(
                "One model", value={"name": "shop", "models": ["default"]}, request_only=True
            )
        ],
    ),
    destroy=extend_schema(description="Revoke the token. Its row stays, as a record."),
)
class ServiceTokenViewSet(
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.CreateModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet[ServiceToken],
):
    """Service tokens."""

    queryset = ServiceToken.objects.prefetch_related("served_models")
    serializer_class = ServiceTokenSerializer
    permission_classes = (CanAdministerEveryModel,)
    lookup_field = "prefix"
    lookup_value_regex = "[a-z0-9_]+"
    filterset_fields = ("role",)
    search_fields = ("name", "prefix")
    ordering_fields = ("name", "created", "expires", "last_used")

    def get_queryset(self) -> QuerySet[ServiceToken]:
        """Return the tokens."""
        return super().get_queryset()

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Make a token, and return it with its text."""
        wanted = self.get_serializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        row, text = create_token(
            given["name"],
            role=given.get("role", ServiceToken.Role.PREDICT),
            models=given.get("models"),
            expires=given.get("expires"),
            by=request.user if isinstance(request.user, User) else None,
        )
        log(request, row, ADDITION, "Given by the API")
        body = {**self.get_serializer(row).data, "token": text}
        return Response(body, status=status.HTTP_201_CREATED)

    def perform_destroy(self, instance: ServiceToken) -> None:
        """Revoke the token."""
        instance.revoke()
        log(self.request, instance, CHANGE, "Revoked by the API")
