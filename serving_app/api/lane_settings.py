"""What the lane needs of Django's settings, read once: whether it may answer, and its headers."""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.security import SecurityMiddleware

from serving_app.access_conf import access_settings
from serving_app.conf import OFF, ON, serving_settings
from serving_app.core.access import Access
from serving_app.core.throttling import Rate
from serving_app.log_conf import log_settings
from serving_app.trace_conf import trace_settings

__all__ = ["LaneSettings", "lane_settings"]

logger = logging.getLogger(__name__)

Header = tuple[bytes, bytes]

_MIDDLEWARE = frozenset(
    {
        "serving_app.api.request_ids.request_ids",
        "corsheaders.middleware.CorsMiddleware",
        "serving_app.api.answers.api_answers",
        "django.middleware.security.SecurityMiddleware",
        "whitenoise.middleware.WhiteNoiseMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "serving_app.api.for_browsers.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "serving_app.api.for_browsers.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "serving_app.api.for_browsers.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    }
)
"""What the lane does, or what does nothing to a request that it takes."""
_REST = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "serving_app.api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_THROTTLE_CLASSES": ["serving_app.api.throttles.RoleThrottle"],
    "DEFAULT_RENDERER_CLASSES": [
        "serving_app.api.json.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "EXCEPTION_HANDLER": "serving_app.api.problems.exception_handler",
}
"""What the lane does as well."""
_HOSTS = 100
"""Host headers remembered."""


class LaneSettings:
    """The settings as they were when this was made. The event loop's thread uses it."""

    def __init__(self) -> None:
        self.limits = serving_settings()
        self.on = _is_on(self.limits.lane)
        self.redirects: bool = settings.SECURE_SSL_REDIRECT
        """Whether a request that did not come by HTTPS is sent there; Django does it."""
        self.hits = log_settings().payloads == 0 and not trace_settings().endpoint
        """Whether hits may be answered in one go: no request is to be kept with its answer, or to
        be traced."""
        self._throttles = access_settings().throttles["predict"]
        self._hosts: dict[bytes, bool] = {}
        self._guards: dict[bool, list[Header]] = {}
        self._headers: dict[tuple[str, bytes, bool], list[Header]] = {}

    def rate(self, access: Access) -> Rate | None:
        """Return the caller's rate, as `serving_app.rates.limit` does."""
        if not self._throttles:
            return None
        role = access.role
        return self._throttles[role] if role in self._throttles else self._throttles.get("")

    def is_allowed(self, host: bytes | None) -> bool:
        """Return whether Django would answer at this host."""
        if host is None:
            return False
        known = self._hosts.get(host)
        if known is None:
            request = HttpRequest()
            request.META = {"HTTP_HOST": host.decode("latin-1"), "SERVER_PORT": "80"}
            try:
                known = bool(request.get_host())
            except DisallowedHost:
                known = False
            if len(self._hosts) >= _HOSTS:
                self._hosts.clear()
            self._hosts[host] = known
        return known

    def headers(self, allow: str, kind: bytes, *, secure: bool) -> list[Header]:
        """Return what every such answer carries, as Django's middleware would set it."""
        found = self._headers.get((allow, kind, secure))
        if found is None:
            found = _headers(allow, kind, secure=secure)
            self._headers[allow, kind, secure] = found
        return found

    def guards(self, *, secure: bool) -> list[Header]:
        """Return the headers by which Django's middleware guards every answer."""
        found = self._guards.get(secure)
        if found is None:
            found = self._guards[secure] = _as_headers(_guarded(HttpResponse(), secure=secure))
            found[:] = [each for each in found if each[0] != b"content-type"]
        return found


_current: LaneSettings | None = None


def lane_settings() -> LaneSettings:
    """Return the settings, read when first asked for."""
    global _current  # noqa: PLW0603  (one set per process)
    if _current is None:
        _current = LaneSettings()
    return _current


@receiver(setting_changed)
def _changed(**_: object) -> None:
    """Read them again; tests change settings."""
    global _current  # noqa: PLW0603  (one set per process)
    _current = None


def _is_on(lane: str) -> bool:
    """Return whether the lane answers; it must not go round a deployment's own middleware."""
    if lane == OFF:
        return False
    if lane == ON:
        return True
    rest = getattr(settings, "REST_FRAMEWORK", {})
    strange = [each for each in settings.MIDDLEWARE if each not in _MIDDLEWARE]
    strange += [key for key, value in _REST.items() if rest.get(key) != value]
    if settings.USE_X_FORWARDED_HOST or settings.SECURE_PROXY_SSL_HEADER:
        strange.append("USE_X_FORWARDED_HOST or SECURE_PROXY_SSL_HEADER")
    if strange:
        logger.warning(
            "Django answers every request, as the lane knows nothing of %s; "
            "LANE = 'on' lets the lane answer all the same",
            ", ".join(strange),
        )
    return not strange


def _headers(allow: str, kind: bytes, *, secure: bool) -> list[Header]:
    response = HttpResponse(headers={"Allow": allow, "Cache-Control": "private, no-cache"})
    response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
    response = _guarded(response, secure=secure)
    response.headers["Content-Type"] = kind.decode()
    return _as_headers(response)


def _guarded(response: HttpResponse, *, secure: bool) -> HttpResponse:
    request = HttpRequest()
    request.META = {"wsgi.url_scheme": "https"} if secure else {}
    request.is_secure = lambda: secure  # type: ignore[method-assign]  # of this one
    for middleware in (XFrameOptionsMiddleware, SecurityMiddleware):
        if f"{middleware.__module__}.{middleware.__name__}" in settings.MIDDLEWARE:
            response = _through(middleware, request, response)
    return response


def _as_headers(response: HttpResponse) -> list[Header]:
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.items()
    ]


def _through(middleware: Any, request: HttpRequest, response: HttpResponse) -> HttpResponse:
    answered: HttpResponse = middleware(lambda _: response).process_response(request, response)
    return answered
