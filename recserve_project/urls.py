"""URLs of the deployment."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views import defaults
from django.views.generic import RedirectView

from serving_app.api.metrics_view import MetricsView
from serving_app.api.open_inference.views import open_inference
from serving_app.api.problems import django_error

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("admin/", admin.site.urls),
    path("metrics", MetricsView.as_view(), name="metrics"),
    path("api/v1/", include("serving_app.api.urls")),
    path("v2", open_inference, name="open-inference"),
    path("v2/", open_inference),
    path("v2/<path:rest>", open_inference),
]


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a request that Django refuses to read, such as one for an unknown host."""
    answer = django_error(request, 400, "bad-request", "The request is malformed.")
    return answer or defaults.bad_request(request, exception)


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a path that does not exist."""
    answer = django_error(request, 404, "not-found", "There is no such path.")
    return answer or defaults.page_not_found(request, exception)


def handler500(request: HttpRequest) -> HttpResponse:
    """Answer when something outside of any API view failed; it was logged."""
    detail = "Something went wrong on our side; it has been logged."
    return django_error(request, 500, "internal", detail) or defaults.server_error(request)
