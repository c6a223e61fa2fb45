"""The admin site: Django's, with recserve's own pages, and a navigation of what one may see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, URLPattern, URLResolver, path, resolve
from unfold.sites import UnfoldAdminSite

from recserve_project.analysis_page import analysis_page
from recserve_project.cache_page import cache_page
from recserve_project.dashboard import dashboard_data, dashboard_page, dashboard_stream
from recserve_project.dashboard_past import dashboard_past
from recserve_project.entries_page import entries_page
from recserve_project.first_steps import first_steps
from recserve_project.history_page import history_page
from recserve_project.plugins_page import plugins_page
from recserve_project.settings_page import settings_page

OPERATE = "serving_app.operate"
"""The permission that recserve's own pages need."""


class RecserveAdminSite(UnfoldAdminSite):  # type: ignore[misc]  # unfold has no types
    """recserve's admin site."""

    index_template = "admin/overview.html"

    def get_urls(self) -> list[URLPattern | URLResolver]:
        """Return the admin's URLs, and those of recserve's own pages."""
        return [
            self._page("analysis", analysis_page),
            self._page("cache", cache_page),
            self._page("cache/entries", entries_page),
            self._page("dashboard", dashboard_page),
            path("dashboard/data/", dashboard_data, name="dashboard_data"),
            path("dashboard/past/", dashboard_past, name="dashboard_past"),
            path("dashboard/stream/", dashboard_stream, name="dashboard_stream"),
            self._page("plugins", plugins_page),
            self._page("settings", settings_page),
            self._page("history", history_page),
            *super().get_urls(),
        ]

    def _page(
        self, where: str, page: Callable[[HttpRequest, RecserveAdminSite], HttpResponse]
    ) -> URLPattern:
        """Return the URL of a page of recserve's own."""

        def view(request: HttpRequest) -> HttpResponse:
            return page(request, self)

        url: URLPattern = path(f"{where}/", self.admin_view(view), name=where.replace("/", "_"))
        return url

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Return the first page, with what to do first."""
        steps = {"steps": first_steps(request, self)}
        response: HttpResponse = super().index(request, {**(extra_context or {}), **steps})
        return response

    def get_sidebar_list(self, request: HttpRequest) -> list[dict[str, Any]]:
        """Return the navigation without links that would be refused."""
        groups: list[dict[str, Any]] = super().get_sidebar_list(request)
        for group in groups:
            group["items"] = [item for item in group["items"] if self._may_open(request, item)]
        return [group for group in groups if group["items"]]

    def _may_open(self, request: HttpRequest, item: dict[str, Any]) -> bool:
        try:
            match = resolve(str(item.get("link", "")))
        except Resolver404:
            return True  # of somewhere else
        model_admin = getattr(match.func, "model_admin", None)
        if model_admin is not None:
            return bool(model_admin.has_view_or_change_permission(request))
        return self.name not in match.namespaces or request.user.has_perm(OPERATE)
