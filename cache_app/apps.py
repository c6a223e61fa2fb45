"""The app's configuration: its system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class CacheConfig(AppConfig):
    """The cache."""

    name = "cache_app"
    verbose_name = "Cache"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks. Nothing is built here: servers fork later."""
        from cache_app.checks import (  # noqa: PLC0415  (needs the settings)
            check_caches,
            check_settings,
        )

        checks.register(check_settings)
        checks.register(check_caches, checks.Tags.caches)
