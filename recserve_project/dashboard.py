"""The dashboard: what all serving processes do now, and did in the last quarter of an hour.

One async view streams it (server-sent events); where there is no event loop, under WSGI, it
answers 406, and the page asks for the same as JSON instead.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError, close_old_connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from recserve_project import dashboard_notes
from recserve_project.streams import TooManyStreams, stream
from serving_app import wiring
from serving_app.core.live_points import SILENT, Told, engines, figures
from serving_app.live_history import HISTORY_SECONDS, LiveHistory
from serving_app.models import Activation, ServedModel
from serving_app.reconciler import process_name

__all__ = ["PERMISSION", "dashboard_data", "dashboard_page", "dashboard_stream", "refused"]

PERMISSION = "serving_app.operate"
"""Who may see it: staff with this permission; a superuser has every one."""
TICK = 2.0
"""Seconds between two events."""
LATELY = 60.0
"""Seconds that the figures of the present are taken over."""

_reading = threading.Lock()
_state: dict[str, Any] = {}
_state_of: float | None = None
"""The look that it is of."""


def dashboard_page(request: HttpRequest, admin_site: AdminSite) -> HttpResponse:
    """Return the page, without any figure: it fetches them.

    Raises:
        PermissionDenied: The user is no staff, or may not operate.
    """
    if not (admin_site.has_permission(request) and request.user.has_perm(PERMISSION)):
        raise PermissionDenied
    context = {
        **admin_site.each_context(request),
        "title": _("Dashboard"),
        "models": ServedModel.objects.values_list("name", flat=True),
    }
    return render(request, "admin/dashboard.html", context)


def dashboard_data(request: HttpRequest) -> HttpResponse:
    """Return figures once, as JSON: for a page without a stream, and to begin with."""
    if not (admin.site.has_permission(request) and request.user.has_perm(PERMISSION)):
        return refused()
    try:
        _look(wiring.get_serving().history)
    except DatabaseError:
        return JsonResponse({"detail": _("The database does not answer.")}, status=503)
    response = HttpResponse(_Selection(request).next(), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


async def dashboard_stream(request: HttpRequest) -> HttpResponseBase:
    """Stream figures as server-sent events, each as `dashboard_data` returns them."""
    user = await request.auser()
    if not (user.is_active and user.is_staff and await user.ahas_perm(PERMISSION)):
        return refused()
    if not isinstance(request, ASGIRequest):
        return JsonResponse({"detail": _("There is no stream here; ask for data.")}, status=406)
    selection = _Selection(request)
    history = wiring.get_serving().history

    async def event() -> str:
        if history.due() or _state_of != history.looked:  # for all who watch in this process
            try:
                await asyncio.to_thread(_look, history)
            except DatabaseError:
                return ""
        return selection.next()

    try:
        return stream(event, every=TICK)
    except TooManyStreams:
        return JsonResponse({"detail": _("Too many streams are open.")}, status=503)


def refused() -> JsonResponse:
    """Return what everybody gets who may not see the figures."""
    return JsonResponse({"detail": _("You may not see this; sign in again.")}, status=403)


class _Selection:
    """What one page shows: a model, a segment, and what it has not seen yet."""

    def __init__(self, request: HttpRequest) -> None:
        self._model = request.GET.get("model") or None
        self._segment = request.GET.get("segment") or None
        try:
            self._seen = float(request.GET.get("since", ""))
        except ValueError:
            self._seen = 0.0

    def next(self) -> str:
        """Return what is new, as JSON in one line."""
        points = wiring.get_serving().history.since(self._seen)
        if points:
            self._seen = points[-1].at
        lately = wiring.get_serving().history.since(time.time() - LATELY)
        chosen = {"model": self._model, "segment": self._segment}
        return json.dumps(
            {
                "points": [figures([point], **chosen) for point in points],
                "lately": figures(lately, **chosen) if lately else None,
                "state": {
                    **_state,
                    "pools": [
                        pool
                        for pool in _state.get("pools", ())
                        if self._model in {None, pool["model"]}
                    ],
                },
                "now": round(time.time(), 3),
                "keeps": HISTORY_SECONDS,
            },
            separators=(",", ":"),
        )


def _look(history: LiveHistory) -> None:
    """Read what was told since, and what the page shows beside it; once for all who watch."""
    global _state, _state_of  # noqa: PLW0603  (one of a process)
    try:
        with _reading:
            history.look()
            if _state_of != history.looked:
                _state = _present(history.last)
                _state_of = history.looked
    finally:
        close_old_connections()


def _present(last: Mapping[str, Told]) -> dict[str, Any]:
    """Return what there is now: processes, pools, levels, model host, alerts, warm-ups."""
    host = wiring.get_serving().host
    return {
        "process": process_name(),
        "silent_after": SILENT,
        "host": None if host is None else host.state(),
        "processes": _processes(last),
        "pools": _pools(last),
        "levels": _levels(last),
        "alerts": dashboard_notes.alerts(),
        "warm_ups": dashboard_notes.warm_ups(),
        "segments": sorted(
            {
                segment
                for each in last.values()
                for stats in each.statistics.models.values()
                for segment in stats.lookups
            }
        ),
    }


def _processes(last: Mapping[str, Told]) -> list[dict[str, Any]]:
    """Return what each process is at: what it told, and what it reported of its versions."""
    found: dict[str, dict[str, Any]] = {
        name: {"name": name, "seen": each.seen, "versions": []} for name, each in last.items()
    }
    rows = Activation.objects.select_related("version__model")
    for row in rows:
        process = found.setdefault(
            row.process, {"name": row.process, "seen": row.seen.timestamp(), "versions": []}
        )
        process["versions"].append(
            {"version": str(row.version), "state": row.state, "label": row.get_state_display()}
        )
    return [found[name] for name in sorted(found)]


def _pools(last: Mapping[str, Told]) -> list[dict[str, Any]]:
    """Return the instances of each version, in every engine that runs it."""
    return [
        {
            "model": model,
            "version": number,
            "engine": name,
            "instances": stats.pool.instances,
            "busy": stats.pool.busy,
            "least": stats.pool.least,
            "most": stats.pool.most,
            "stuck": stats.pool.stuck,
            "queued": stats.queued,
            "running": stats.running,
        }
        for name, ((model, number), stats) in sorted(
            engines(last).items(), key=lambda each: (each[1][0], each[0])
        )
    ]


_BREAKERS = ("open", "half_open", "closed")


def _levels(last: Mapping[str, Told]) -> list[dict[str, Any]]:
    """Return the levels of the cache: what is in them, and whether they answer everyone."""
    names = sorted({name for each in last.values() for name in each.levels})
    shown = []
    for name in names:
        told = [each.levels[name] for each in last.values() if name in each.levels]
        total = sum if name == "l1" else max  # the others are shared
        states = {str(counts.get("state", "closed")) for counts in told}
        shown.append(
            {
                "name": name,
                "entries": total(counts["entries"] for counts in told),
                "weight": total(counts["weight"] for counts in told),
                "capacity": total(counts["capacity"] for counts in told),
                "away": sum(bool(counts.get("away")) for counts in told),
                "nodes": max(counts.get("nodes", 0) for counts in told),
                "nodes_away": max(counts.get("nodes_away", 0) for counts in told),
                "breaker": next(state for state in _BREAKERS if state in states),
                "guarded": any("state" in counts for counts in told),
                "processes": len(told),
            }
        )
    return shown
