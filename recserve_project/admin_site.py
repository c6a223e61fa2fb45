"""The admin site: Django's, with recserve's own pages."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, path
from unfold.sites import UnfoldAdminSite

from recserve_project.analysis_page import analysis_page
from recserve_project.cache_page import cache_page
from recserve_project.dashboard import dashboard_data, dashboard_page, dashboard_stream
from recserve_project.dashboard_past import dashboard_past
from recserve_project.entries_page import entries_page
from recserve_project.plugins_page import plugins_page


class RecserveAdminSite(UnfoldAdminSite):  # type: ignore[misc]  # unfold has no types
    """recserve's admin site."""

    def get_urls(self) -> list[URLPattern | URLResolver]:
        """Return the admin's URLs, and those of recserve's own pages."""
        return [
            path("analysis/", self.admin_view(self._analysis), name="analysis"),
            path("cache/", self.admin_view(self._cache), name="cache"),
            path("cache/entries/", self.admin_view(self._entries), name="cache_entries"),
            path("dashboard/", self.admin_view(self._dashboard), name="dashboard"),
            path("dashboard/data/", dashboard_data, name="dashboard_data"),
            path("dashboard/past/", dashboard_past, name="dashboard_past"),
            path("dashboard/stream/", dashboard_stream, name="dashboard_stream"),
            path("plugins/", self.admin_view(self._plugins), name="plugins"),
            *super().get_urls(),
        ]

    def _analysis(self, request: HttpRequest) -> HttpResponse:
        return analysis_page(request, self)

    def _cache(self, request: HttpRequest) -> HttpResponse:
        return cache_page(request, self)

    def _entries(self, request: HttpRequest) -> HttpResponse:
        return entries_page(request, self)

    def _dashboard(self, request: HttpRequest) -> HttpResponse:
        return dashboard_page(request, self)

    def _plugins(self, request: HttpRequest) -> HttpResponse:
        return plugins_page(request, self)
