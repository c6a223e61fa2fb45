"""The settings of access: ``RECSERVE["ACCESS"]``, read here and nowhere else."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from cache_app.conf_values import count, positive, section
from serving_app.core.access import ROLES
from serving_app.core.throttling import Rate, rate

__all__ = ["SCOPES", "AccessSettings", "access_settings"]

_WHERE = 'RECSERVE["ACCESS"]'
SCOPES = (*ROLES, "sign_in")
"""What is throttled on its own."""

_THROTTLES: Mapping[str, Any] = {
    "predict": None,
    "operate": "100/s",
    "administer": "100/s",
    "sign_in": "20/min",
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Settings of access. Each field is a key of ``RECSERVE["ACCESS"]`` in upper case."""

    throttles: Mapping[str, Mapping[str, Rate | None]] = field(default_factory=dict)
    """Rate by scope and role; the role ``""`` stands for every other."""
    remembered_tokens: int = 10_000
    """How many verified tokens a process remembers."""
    revocation_seconds: float = 2.0
    """How long a revoked token may still be taken by another process."""
    outage_seconds: float = 300.0
    """How long remembered tokens are taken while the database does not answer."""
    metrics_networks: tuple[Network, ...] = ()
    """Networks that may read ``/metrics`` without a token."""


def access_settings() -> AccessSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    given = getattr(settings, "RECSERVE", {}).get("ACCESS", {})
    text = repr(given)  # which tells 1, 1.0 and True apart
    found = _known.get(text)
    if found is None:
        if len(_known) >= _KEPT:
            _known.clear()
        found = _known[text] = _parsed(given)
    return found


_known: dict[str, AccessSettings] = {}
_KEPT = 16
"""Settings remembered: each request asks for them."""


def _parsed(given: Any) -> AccessSettings:
    try:
        plain = json.loads(json.dumps(given))
    except TypeError as error:
        raise ImproperlyConfigured('RECSERVE["ACCESS"] must be a dict of plain values.') from error
    given = section(plain, _WHERE, [f.name.upper() for f in fields(AccessSettings)])
    known = AccessSettings()
    return AccessSettings(
        throttles=_throttles(given.get("THROTTLES", {})),
        remembered_tokens=count(
            given.get("REMEMBERED_TOKENS", known.remembered_tokens),
            f'{_WHERE}["REMEMBERED_TOKENS"]',
        ),
        revocation_seconds=positive(
            given.get("REVOCATION_SECONDS", known.revocation_seconds),
            f'{_WHERE}["REVOCATION_SECONDS"]',
        ),
        outage_seconds=positive(
            given.get("OUTAGE_SECONDS", known.outage_seconds), f'{_WHERE}["OUTAGE_SECONDS"]'
        ),
        metrics_networks=_networks(given.get("METRICS_NETWORKS", [])),
    )


def _throttles(given: Any) -> Mapping[str, Mapping[str, Rate | None]]:
    where = 'RECSERVE["ACCESS"]["THROTTLES"]'
    if not isinstance(given, Mapping) or not given.keys() <= set(SCOPES):
        raise ImproperlyConfigured(f"{where} must be a dict with keys of {', '.join(SCOPES)}.")
    rates: dict[str, Mapping[str, Rate | None]] = {}
    for scope, value in {**_THROTTLES, **given}.items():
        by_role = value if isinstance(value, Mapping) else {"": value}
        if not by_role.keys() <= {"", *ROLES}:
            raise ImproperlyConfigured(f"{where}[{scope!r}] has roles of {', '.join(ROLES)}.")
        try:
            rates[scope] = {
                role: None if text is None else rate(text) for role, text in by_role.items()
            }
        except ValueError as error:
            raise ImproperlyConfigured(f"{where}[{scope!r}]: {error}") from error
    return rates


def _networks(given: Any) -> tuple[Network, ...]:
    if not isinstance(given, list):
        raise ImproperlyConfigured(
            'RECSERVE["ACCESS"]["METRICS_NETWORKS"] must be a list of networks.'
        )
    try:
        return tuple(ipaddress.ip_network(each) for each in given)
    except ValueError as error:
        raise ImproperlyConfigured(f'RECSERVE["ACCESS"]["METRICS_NETWORKS"]: {error}') from error
