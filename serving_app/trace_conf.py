"""The settings of tracing: ``RECSERVE["TRACING"]``, read here and nowhere else."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import at_most, mapping, part, text

__all__ = ["TraceSettings", "trace_settings"]


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Settings of tracing. Each field is a key of ``RECSERVE["TRACING"]`` in upper case."""

    endpoint: str = ""
    """Where spans are sent to, by OTLP over HTTP; empty: nothing is traced."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of what is sent there, such as a token."""
    sample: float = 1.0
    """Which part of the requests is traced that bring no decision of their own."""
    service_name: str = "recserve"
    """What the spans say that they are of."""
    timeout: float = 5.0
    """Seconds that sending may take."""


def trace_settings() -> TraceSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, its value is of the wrong form, or OpenTelemetry is
            not installed.
    """
    found = part(
        "TRACING",
        TraceSettings,
        {
            "ENDPOINT": _url,
            "HEADERS": _headers,
            "SAMPLE": lambda value, where: at_most(value, 1, where),
            "SERVICE_NAME": text,
        },
    )
    if found.endpoint and importlib.util.find_spec("opentelemetry") is None:
        raise ImproperlyConfigured(
            'RECSERVE["TRACING"]["ENDPOINT"] needs OpenTelemetry: '
            "pip install -r requirements/extras.txt."
        )
    return found


def _url(value: Any, where: str) -> str:
    if value == "":
        return ""
    parts = urlsplit(value if isinstance(value, str) else "")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ImproperlyConfigured(
            f"{where} must be an address such as http://127.0.0.1:4318/v1/traces, not {value!r}."
        )
    return str(value)


def _headers(value: Any, where: str) -> Mapping[str, str]:
    given = mapping(value, where)
    if not all(isinstance(name, str) and isinstance(each, str) for name, each in given.items()):
        raise ImproperlyConfigured(f"{where} must map names to texts.")
    return dict(given)
