"""The app's configuration: its system checks, and the first epoch."""

from __future__ import annotations

import time
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate


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
        post_migrate.connect(begin_anew, sender=self)


def begin_anew(using: str, apps: Any = None, **_: Any) -> None:
    """Begin a database that was emptied as migrating begins a new one: all in caches is past.

    The tables are as the migrations that were applied left them, and so are the models of ``apps``;
    None, as ``flush`` says: today's.
    """
    from django.apps import apps as today  # noqa: PLC0415

    apps = apps or today
    try:
        epoch = apps.get_model("cache_app", "Epoch")
    except LookupError:  # migrated to a time before it
        return
    now = time.time_ns() // 1_000_000
    _, emptied = epoch.objects.using(using).get_or_create(pk=1, defaults={"latest": now})
    if emptied:
        invalidations = apps.get_model("cache_app", "Invalidation").objects.using(using)
        invalidations.create(epoch=now, scope="all")
