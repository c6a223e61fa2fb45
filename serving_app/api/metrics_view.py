"""``GET /metrics``: for Prometheus."""

from __future__ import annotations

import ipaddress
from typing import Any

from django.db import DatabaseError
from django.http import HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.views import APIView

from plugins import Unavailable
from serving_app import metrics, wiring
from serving_app.access_conf import access_settings
from serving_app.api.authentication import access_of
from serving_app.api.permissions import CanOperate

__all__ = ["MetricsView"]


class MayScrape(CanOperate):
    """Operators, and whoever asks from one of the networks of ``METRICS_NETWORKS``."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Return whether the caller may read metrics."""
        networks = access_settings().metrics_networks
        if networks:
            try:
                address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
            except ValueError:
                address = None
            if address is not None and any(address in network for network in networks):
                return True
        if not super().has_permission(request, view):
            return False
        access_of(request).check_every_model("operate")
        return True


class _OneFormat(BaseContentNegotiation):
    """Whatever is accepted, there is one format."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """Return the first parser."""
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> Any:
        """Return the first renderer: that of problems."""
        return renderers[0], renderers[0].media_type


class MetricsView(APIView):
    """Metrics of all processes in Prometheus's text format."""

    permission_classes = (MayScrape,)
    throttle_classes = ()
    content_negotiation_class = _OneFormat
    schema = None

    def get(self, request: Request) -> HttpResponse:
        """Return the metrics of all serving processes, this one's up to now.

        Raises:
            Unavailable: The database, by which processes tell each other, does not answer.
        """
        try:
            wiring.tell_metrics()
            samples = metrics.of_all()
        except DatabaseError as error:
            raise Unavailable("The database, which holds the metrics, does not answer.") from error
        return HttpResponse(metrics.render(samples), content_type=CONTENT_TYPE_LATEST)
