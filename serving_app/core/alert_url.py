"""What may be called from here: http and https, and of these what an allow-list names."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

__all__ = ["check_url"]


def check_url(url: object, hosts: Collection[str] = ()) -> None:
    """Return if a URL may be called.

    Args:
        url: The URL.
        hosts: The hosts that may be; none: every one.

    Raises:
        ValueError: It may not, or is none.
    """
    parts = urlsplit(str(url))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{str(url)[:200]!r} is no http or https URL.")
    if hosts and parts.hostname.lower() not in hosts:
        raise ValueError(f"{parts.hostname} is not among WEBHOOK_HOSTS.")
