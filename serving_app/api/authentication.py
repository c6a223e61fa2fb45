"""Bearer tokens in Django REST framework: a thin coat over `serving_app.access`."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.utils.functional import SimpleLazyObject
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from plugins import TokenNotValid
from serving_app import access
from serving_app.core.access import CHALLENGE, Access
from serving_app.core.request_record import current

__all__ = ["Program", "TokenAuthentication", "access_of", "bearer"]


class Program(AnonymousUser):
    """Whoever sends a service token: signed in, but no user of the database."""

    def __init__(self, granted: Access) -> None:
        self._granted = granted
        self.username = granted.subject  # type: ignore[assignment]  # of an anonymous: ""

    @property
    def is_authenticated(self) -> Any:
        """Return True: its token was verified."""
        return True

    @property
    def is_anonymous(self) -> Any:
        """Return False: its token was verified."""
        return False

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """Return whether its token's role includes one of serving's three permissions."""
        app, _, codename = perm.partition(".")
        return app == "serving_app" and self._granted.may(codename)


def bearer(header: bytes) -> bytes | None:
    """Return the token of an ``Authorization`` header; None: it holds no bearer token.

    Raises:
        TokenNotValid: It begins like one, and is none.
    """
    scheme, _, token = header.strip().partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    token = token.strip()
    if not token or b" " in token:
        raise TokenNotValid("The header must be Authorization: Bearer, a blank, and the token.")
    return token


class TokenAuthentication(BaseAuthentication):
    """Service tokens and JWTs. ``request.auth`` is the `Access`."""

    def authenticate(self, request: Request) -> tuple[Any, Access] | None:
        """Return who asks, and what it may do; None: no token was sent."""
        header = request.META.get("HTTP_AUTHORIZATION", "")
        try:
            token = bearer(header.encode("utf-8", "surrogateescape"))
            if token is None:
                return None
            granted = access.verify(token)
        except TokenNotValid as error:
            raise AuthenticationFailed(str(error), code="token_not_valid") from error
        record = current()
        if record is not None:
            record.caller = granted.subject
        kind, _, key = granted.subject.partition(":")
        if kind == "user":  # the row is only read where somebody wants it
            return SimpleLazyObject(lambda: User.objects.get(pk=key)), granted
        return Program(granted), granted

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge of a 401."""
        return CHALLENGE


def access_of(request: Request) -> Access:
    """Return what the caller of a request may do: by its token, or as who it is signed in."""
    if isinstance(request.auth, Access):
        return request.auth
    return access.of_user(request.user)


class _Scheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped base
    """Tells the OpenAPI schema of bearer tokens."""

    target_class = TokenAuthentication
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """Return the scheme."""
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A service token, or the access token of /token.",
        }
