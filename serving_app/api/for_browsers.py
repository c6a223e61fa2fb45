"""Django's middleware for browsers, which a program's request passes by.

Sessions, cross-site forgery, messages and the user of a session mean something where there are
cookies. A request to the API that has none, and a bearer token, is a program's: for it they would
only cost.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.middleware import AuthenticationMiddleware as _Authentication
from django.contrib.messages.middleware import MessageMiddleware as _Message
from django.contrib.sessions.middleware import SessionMiddleware as _Session
from django.http import HttpRequest

__all__ = ["AuthenticationMiddleware", "MessageMiddleware", "SessionMiddleware"]

_API = ("/api/", "/v2/")


def is_a_programs(request: HttpRequest) -> bool:
    """Return whether no browser can have sent a request by itself."""
    meta = request.META
    return (
        not meta.get("HTTP_COOKIE")
        and meta.get("HTTP_AUTHORIZATION", "")[:7].lower() == "bearer "
        and request.path_info.startswith(_API)
    )


class _ForBrowsers:
    """What a program's request passes by."""

    get_response: Any

    def __call__(self, request: HttpRequest) -> Any:
        """Return the answer, or what is awaited for it."""
        if is_a_programs(request):
            return self.get_response(request)
        return super().__call__(request)  # type: ignore[misc]  # the middleware's


class SessionMiddleware(_ForBrowsers, _Session):
    """Django's."""


class AuthenticationMiddleware(_ForBrowsers, _Authentication):
    """Django's."""


class MessageMiddleware(_ForBrowsers, _Message):
    """Django's."""
