"""Signs JWTs with keys that can be changed while everything runs: each token names its key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import jwt
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from rest_framework_simplejwt import state
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenBackendExpiredToken
from rest_framework_simplejwt.settings import api_settings

from serving_app.access_models import SigningKey

__all__ = ["RotatingBackend", "install", "rotate"]

_ALGORITHM = "HS256"


class RotatingBackend(TokenBackend):
    """Encodes with the newest key, and decodes with the key that a token names.

    It reads the key from the database each time: what was verified lately is remembered one floor
    above, in `serving_app.access`.
    """

    def encode(self, payload: dict[str, Any]) -> str:
        """Return a signed token."""
        key = SigningKey.objects.filter(retires=None).first() or SigningKey.make()
        claims = {**payload, "aud": self.audience, "iss": self.issuer}
        return jwt.encode(claims, key.secret(), algorithm=_ALGORITHM, headers={"kid": key.kid})

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        """Return a token's claims.

        Raises:
            TokenBackendError: It is not one of ours, or no longer valid.
        """
        try:
            header = jwt.get_unverified_header(token)
            key = SigningKey.objects.filter(
                Q(retires=None) | Q(retires__gt=timezone.now()), kid=str(header.get("kid"))[:16]
            ).first()
            if key is None:
                raise TokenBackendError("Token is invalid")
            claims: dict[str, Any] = jwt.decode(
                token,
                key.secret(),
                algorithms=[_ALGORITHM],
                audience=self.audience,
                issuer=self.issuer,
                leeway=self.get_leeway(),
                options={"verify_signature": verify},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenBackendExpiredToken("Token is expired") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenBackendError("Token is invalid") from error
        return claims


def install() -> None:
    """Let every token class of simplejwt sign and verify so. Called once, when Django is ready."""
    state.token_backend = RotatingBackend(
        _ALGORITHM,
        signing_key="",
        audience=api_settings.AUDIENCE,
        issuer=api_settings.ISSUER,
    )


def rotate(*, keep: timedelta | None = None) -> SigningKey:
    """Return a new key, which signs from now on, in every process.

    Args:
        keep: How long the keys before it still verify; None: as long as the longest token that
            they signed lives. Zero refuses every token that there is.
    """
    if keep is None:
        keep = api_settings.REFRESH_TOKEN_LIFETIME
    now = timezone.now()
    with transaction.atomic():
        key = SigningKey.make()
        for old in SigningKey.objects.exclude(pk=key.pk):
            if old.retires is None or old.retires > now + keep:
                old.retires = now + keep
                old.save(update_fields=["retires"])
            elif old.retires < now:
                old.delete()
    return key
