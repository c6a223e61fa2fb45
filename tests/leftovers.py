"""What a test may leave behind in its process and in the database, and how it is taken away.

Order, and which process runs which test, then decide nothing.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.management.color import no_style
from django.db import connections, transaction

from cache_app import wiring as cache_wiring
from plugins import apps as plugin_apps
from serving_app import payload_log, request_log, wiring

__all__ = ["Database", "Process"]


class Process:
    """What a process has before a test, to which `restore` brings it back."""

    def __init__(self) -> None:
        self._registry = plugin_apps._registry
        self._signals = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore(self) -> None:
        """Stop and forget what the test began; what was there before stays."""
        wiring.stop()
        cache_wiring.reset()
        cache_wiring.detach()
        request_log.write_at_once()
        if plugin_apps._registry is not self._registry:
            plugin_apps.reset_registry()
        request_log.HTTP.__init__()
        payload_log._log._waiting.clear()
        for cache in caches.all(initialized_only=True):
            if isinstance(cache, LocMemCache):
                cache.clear()
        for name, forgotten in _FORGOTTEN.items():
            if module := sys.modules.get(name):
                vars(module).update(forgotten)
        for number, handler in self._signals.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FORGOTTEN = {
    "serving_app.request_log": {"_dropped": 0, "_observer": None},
    "recserve_project.dashboard": {"_state": {}, "_state_of": None},
    "recserve_project.streams": {"_stopping": False},
}


class Database:
    """What migrations leave in a database, to which `restore` brings it back.

    A test's transaction is rolled back; what a thread committed meanwhile is not. Where a test
    commits, Django empties every table afterwards, those that migrations filled included.
    """

    def __init__(self, alias: str = "default") -> None:
        self._alias = alias
        connection = connections[alias]
        self._name = connection.settings_dict["NAME"]
        names = connection.introspection.django_table_names(only_existing=True)
        self._tables = sorted({*names, "django_migrations"})
        quoted = [connection.ops.quote_name(name) for name in self._tables]
        counts = ", ".join(f"(SELECT count(*) FROM {name})" for name in quoted)
        self._count = f"SELECT {counts}"
        self._counts = self._ask(self._count)[1][0]
        self._rows = {
            table: self._ask(f"SELECT * FROM {quoted[n]}")
            for n, table in enumerate(self._tables)
            if self._counts[n]
        }

    def _ask(self, statement: str) -> tuple[list[str], Sequence[tuple[Any, ...]]]:
        with connections[self._alias].cursor() as cursor:
            cursor.execute(statement)
            return [column[0] for column in cursor.description], cursor.fetchall()

    def left(self) -> list[str]:
        """Return the tables that have other rows than migrations left."""
        now = self._ask(self._count)[1][0]
        return [name for n, name in enumerate(self._tables) if now[n] != self._counts[n]]

    def restore(self) -> list[str]:
        """Bring every table back, if one has other rows; return these."""
        connection = connections[self._alias]
        assert connection.settings_dict["NAME"] == self._name, "no other database is emptied"
        left = self.left()
        if left:
            flush = connection.ops.sql_flush(no_style(), self._tables)
            connection.ops.execute_sql_flush(flush)
            with transaction.atomic(using=self._alias), connection.cursor() as cursor:
                for table, (columns, rows) in self._rows.items():
                    names = ", ".join(map(connection.ops.quote_name, columns))
                    places = ", ".join(["%s"] * len(columns))
                    name = connection.ops.quote_name(table)
                    cursor.executemany(f"INSERT INTO {name} ({names}) VALUES ({places})", rows)
            ContentType.objects.clear_cache()
        return left
