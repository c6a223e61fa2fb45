"""The admin's page of plugins: which there are, what they provide, and why one failed."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from plugins.apps import get_registry
from plugins.registry import PluginRecord, PluginRegistry

PERMISSION = "serving_app.operate"
"""Who may see the page: staff with this permission; a superuser has every one."""

KINDS = {
    "eviction_policies": gettext_lazy("Eviction policies"),
    "admission_filters": gettext_lazy("Admission filters"),
    "frameworks": gettext_lazy("Frameworks"),
    "executors": gettext_lazy("Executors"),
    "feature_sources": gettext_lazy("Feature sources"),
    "warmup_strategies": gettext_lazy("Warm-up strategies"),
}
STATES = {
    "loaded": gettext_lazy("loaded"),
    "blocked": gettext_lazy("blocked"),
    "failed": gettext_lazy("failed"),
}


def plugins_page(request: HttpRequest, admin_site: AdminSite) -> HttpResponse:
    """Return the page.

    Raises:
        PermissionDenied: The user is no staff, or may not operate.
    """
    if not (admin_site.has_permission(request) and request.user.has_perm(PERMISSION)):
        raise PermissionDenied
    plugins: list[dict[str, Any]] = []
    problem = ""
    try:
        registry = get_registry()
    except ImproperlyConfigured as error:
        problem = str(error)
    else:
        plugins = [_shown(registry, record) for record in registry.records]
    context = {
        **admin_site.each_context(request),
        "title": _("Plugins"),
        "plugins": plugins,
        "problem": problem,
    }
    return render(request, "admin/plugins.html", context)


def _shown(registry: PluginRegistry, record: PluginRecord) -> dict[str, Any]:
    """Return what the template shows of a plugin."""
    return {
        "record": record,
        "state": STATES[record.state],
        "provides": [
            {
                "kind": KINDS.get(plural, plural),
                "entries": [registry.of_kind(plural).get(name) for name in names],
            }
            for plural, names in record.provides.items()
        ],
    }
