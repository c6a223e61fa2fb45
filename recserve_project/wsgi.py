"""WSGI entry point. Models load at the first request, after the server has forked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recserve_project.settings")

_django = get_wsgi_application()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer one request; start this process's reconciler before the first."""
    from serving_app import wiring  # noqa: PLC0415  (needs the apps to be loaded)

    wiring.start()
    return _django(environ, start_response)
