"""System checks of plugins."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from plugins.apps import get_registry
from plugins.conf import plugin_settings
from plugins.options import did_you_mean


def check_plugins(**_: Any) -> list[checks.CheckMessage]:
    """Return what is wrong with ``RECSERVE["PLUGINS"]``, and each plugin that failed."""
    try:
        blocked = plugin_settings().blocked
        records = get_registry().records
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="plugins.E001")]
    messages: list[checks.CheckMessage] = [
        checks.Warning(
            f"Plugin {record.name} is left out: {record.reason}",
            hint=f"Mend or uninstall {record.distribution or record.module}, or name "
            f'{record.name!r} in RECSERVE["PLUGINS"]["BLOCKED"].',
            id="plugins.W001",
        )
        for record in records
        if record.state == "failed"
    ]
    names = {record.name for record in records}
    messages += [
        checks.Warning(
            f'RECSERVE["PLUGINS"]["BLOCKED"] names {name!r}, but there is no such plugin.'
            f"{did_you_mean(name, names)}",
            hint="Take the name out, or correct it. manage.py plugins lists the plugins.",
            id="plugins.W002",
        )
        for name in blocked
        if name not in names
    ]
    return messages
