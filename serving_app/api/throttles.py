"""Throttles in Django REST framework: a thin coat over `serving_app.rates`."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from serving_app import rates
from serving_app.api.authentication import access_of
from serving_app.api.permissions import HasRole


class RoleThrottle(BaseThrottle):
    """Counts a request in the scope of the permission that its view asks for, if it does."""

    def allow_request(self, request: Request, view: Any) -> bool:
        """Return True, or raise `Throttled`."""
        for permission in view.get_permissions():
            if isinstance(permission, HasRole):
                rates.check(access_of(request), permission.role(request))
        return True


class SignInThrottle(BaseThrottle):
    """Counts attempts to sign in by address and user name, so that nobody tries every password."""

    def allow_request(self, request: Request, view: Any) -> bool:
        """Return True, or raise `Throttled`."""
        name = request.data.get("username", "") if isinstance(request.data, dict) else ""
        rates.check_sign_in(request.META.get("REMOTE_ADDR", ""), str(name)[:150])
        return True
