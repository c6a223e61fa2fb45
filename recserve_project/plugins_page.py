"""The admin's page of plugins: what each provides, why one failed, and what it did wrong since."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cache_app.plugin_switches import switch_on
from plugins import UnknownPlugin
from plugins.apps import failures_everywhere, get_registry
from plugins.failures import PartFailures
from plugins.registry import PluginRecord, PluginRegistry
from serving_app import wiring

PERMISSION = "serving_app.operate"
"""Who may see the page: staff with this permission; a superuser has every one."""

KINDS = {
    "eviction_policies": gettext_lazy("Eviction policies"),
    "admission_filters": gettext_lazy("Admission filters"),
    "frameworks": gettext_lazy("Frameworks"),
    "executors": gettext_lazy("Executors"),
    "feature_sources": gettext_lazy("Feature sources"),
    "warmup_strategies": gettext_lazy("Warm-up strategies"),
    "alert_channels": gettext_lazy("Alert channels"),
    "drift_rules": gettext_lazy("Drift rules"),
}
STATES = {
    "loaded": gettext_lazy("loaded"),
    "blocked": gettext_lazy("blocked"),
    "failed": gettext_lazy("failed"),
}


def plugins_page(request: HttpRequest, admin_site: AdminSite) -> HttpResponse:
    """Return the page; a posted name is that of a plugin to switch on again.

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
        if request.method == "POST":
            _switch_on(request)
            return HttpResponseRedirect(reverse("admin:plugins"))
        failures = failures_everywhere()
        plugins = [
            _shown(registry, record, failures.get(record.name, {})) for record in registry.records
        ]
    context = {
        **admin_site.each_context(request),
        "title": _("Plugins"),
        "plugins": plugins,
        "problem": problem,
    }
    return render(request, "admin/plugins.html", context)


def _switch_on(request: HttpRequest) -> None:
    """Switch a plugin on again, and keep in the admin's history who did."""
    name = request.POST.get("switch_on", "")
    try:
        switch_on(name)
    except UnknownPlugin as error:
        messages.error(request, str(error))
        return
    wiring.wake()
    assert request.user.pk is not None, "admin_view lets nobody else in"
    LogEntry.objects.create(
        user_id=request.user.pk,
        object_repr=name[:200],
        action_flag=CHANGE,
        change_message="Switched the plugin on again",
    )
    messages.success(
        request,
        _("%(name)s is on again in every process, within a few seconds.") % {"name": name},
    )


def _shown(
    registry: PluginRegistry, record: PluginRecord, failures: Mapping[str, PartFailures]
) -> dict[str, Any]:
    """Return what the template shows of a plugin."""
    return {
        "record": record,
        "failing": [
            {"part": part, "at": datetime.fromtimestamp(one.at, UTC), "counted": one}
            for part, one in failures.items()
        ],
        "is_off": any(one.off for one in failures.values()),
        "state": STATES[record.state],
        "provides": [
            {
                "kind": KINDS.get(plural, plural),
                "entries": [registry.of_kind(plural).get(name) for name in names],
            }
            for plural, names in record.provides.items()
        ],
    }
