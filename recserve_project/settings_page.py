"""The admin's page of the settings in force: each value, its default, and where it comes from."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from cache_app.conf import cache_settings
from plugins.conf import plugin_settings
from serving_app.access_conf import access_settings
from serving_app.activity_conf import activity_settings
from serving_app.alert_conf import alert_settings
from serving_app.conf import serving_settings
from serving_app.drift_conf import drift_settings
from serving_app.log_conf import log_settings
from serving_app.rollup_conf import rollup_settings
from serving_app.segment_conf import segment_settings
from serving_app.trace_conf import trace_settings
from serving_app.warmup_conf import warmup_settings

__all__ = ["ENVIRONMENT", "PARTS", "sections", "settings_page", "shown"]

PERMISSION = "serving_app.operate"
"""Who may see the page: staff with this permission; a superuser has every one."""
HIDDEN = "••••••"

_SECRET = re.compile(r"pass|secret|token|credential|^auth$", re.IGNORECASE)
_NO_SECRET = frozenset({"remembered_tokens"})
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")

ENVIRONMENT: Mapping[str, Callable[[], Any]] = {
    "RECSERVE_VAR": lambda: getattr(settings, "VAR", None),
    "RECSERVE_SECRET_KEY": lambda: HIDDEN,
    "RECSERVE_DEBUG": lambda: settings.DEBUG,
    "RECSERVE_ALLOWED_HOSTS": lambda: settings.ALLOWED_HOSTS,
    "RECSERVE_CSRF_TRUSTED_ORIGINS": lambda: settings.CSRF_TRUSTED_ORIGINS,
    "RECSERVE_DATABASE_URL": lambda: {
        name.lower(): settings.DATABASES["default"].get(name)
        for name in ("ENGINE", "HOST", "PORT", "NAME", "USER")
    },
    "RECSERVE_REDIS_URL": lambda: getattr(settings, "REDIS_URL", ""),
    "RECSERVE_MODEL_HOST": lambda: _given("SERVING").get("MODEL_HOST"),
    "RECSERVE_LANE": lambda: _given("SERVING").get("LANE"),
    "RECSERVE_LANE_ENTRANCE": lambda: _given("SERVING").get("LANE_ENTRANCE"),
    "RECSERVE_HTTPS": lambda: settings.SESSION_COOKIE_SECURE,
    "RECSERVE_HSTS_SECONDS": lambda: settings.SECURE_HSTS_SECONDS,
    "RECSERVE_CORS_ALLOWED_ORIGINS": lambda: settings.CORS_ALLOWED_ORIGINS,
    "RECSERVE_OTLP_ENDPOINT": lambda: _given("TRACING").get("ENDPOINT"),
    "RECSERVE_LOG_LEVEL": lambda: _log("root")["level"],
    "RECSERVE_LOG_FORMAT": lambda: _log("handlers")["console"]["formatter"],
}
"""What the environment decides, with what follows from it."""

_FROM_ENVIRONMENT = {
    ("SERVING", "MODEL_STORE"): "RECSERVE_VAR",
    ("SERVING", "MODEL_HOST"): "RECSERVE_MODEL_HOST",
    ("SERVING", "LANE"): "RECSERVE_LANE",
    ("SERVING", "LANE_ENTRANCE"): "RECSERVE_LANE_ENTRANCE",
    ("CACHE", "L2"): "RECSERVE_REDIS_URL",
    ("CACHE", "EPOCH_FILE"): "RECSERVE_VAR",
    ("TRACING", "ENDPOINT"): "RECSERVE_OTLP_ENDPOINT",
}
"""Settings that this project's settings file takes from a variable."""


def settings_page(request: HttpRequest, admin_site: AdminSite) -> HttpResponse:
    """Return the page.

    Raises:
        PermissionDenied: The user is no staff, or may not operate.
    """
    if not (admin_site.has_permission(request) and request.user.has_perm(PERMISSION)):
        raise PermissionDenied
    context = {
        **admin_site.each_context(request),
        "title": _("Settings in force"),
        "variables": [
            {"name": name, "value": shown(value()), "is_set": name in os.environ}
            for name, value in ENVIRONMENT.items()
        ],
        "sections": list(sections()),
    }
    return render(request, "admin/settings.html", context)


PARTS: Mapping[str, Callable[[], Any]] = {
    "ACCESS": access_settings,
    "ACTIVITY": activity_settings,
    "ALERTS": alert_settings,
    "CACHE": cache_settings,
    "DRIFT": drift_settings,
    "LOGGING": log_settings,
    "PLUGINS": plugin_settings,
    "ROLLUPS": rollup_settings,
    "SEGMENTS": segment_settings,
    "SERVING": serving_settings,
    "TRACING": trace_settings,
    "WARM_UP": warmup_settings,
}
"""What reads each part of ``RECSERVE``."""


def sections() -> Iterator[dict[str, Any]]:
    """Yield the parts of ``RECSERVE``, with every key of each, or what is wrong with it."""
    for name, read in PARTS.items():
        try:
            values = read()
        except ImproperlyConfigured as error:
            yield {"name": name, "rows": [], "problem": str(error)}
        else:
            yield {"name": name, "rows": list(_rows(name, values)), "problem": ""}


def _rows(section: str, values: Any) -> Iterator[dict[str, Any]]:
    given = _given(section)
    for field in dataclasses.fields(values):
        parent, _dot, rest = field.name.partition("_")
        nested = isinstance(given.get(parent.upper()), Mapping) or parent == "l1"
        key = f"{parent}.{rest}".upper() if nested else field.name.upper()
        inside = given.get(parent.upper(), {}) if nested else given
        is_given = (rest if nested else field.name).upper() in inside
        variable = _FROM_ENVIRONMENT.get((section, key))
        yield {
            "key": key,
            "value": shown(getattr(values, field.name), field.name),
            "default": shown(_default(field), field.name),
            "source": variable
            if variable is not None and is_given and variable in os.environ
            else _("settings")
            if is_given
            else _("default"),
        }


def _log(part: str) -> Any:
    return settings.LOGGING[part]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None


def _given(section: str) -> Mapping[str, Any]:
    given = getattr(settings, "RECSERVE", {}).get(section, {})
    return given if isinstance(given, Mapping) else {}


def shown(value: Any, name: str = "") -> str:
    """Return a value as text, without what is secret: by its name, or as part of a URL."""
    if _SECRET.search(name) and name.lower() not in _NO_SECRET and value not in (None, "", HIDDEN):
        return HIDDEN
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        parts = (f"{key}: {shown(each, str(key))}" for key, each in value.items() if each != "")
        return ", ".join(parts) or "—"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(shown(each) for each in value) or "—"
    if value is None or value == "":
        return "—"
    if isinstance(value, Path):
        return str(value)
    return _USER_INFO.sub(f"{HIDDEN}@", str(value))
