"""Registers the built-in admission filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.admission.doorkeeper import Doorkeeper
from plugins.admission.size_limit import SizeLimit
from plugins.admission.tinylfu import TinyLFU
from plugins.contracts import AdmissionFilter
from plugins.hookspecs import hookimpl


@hookimpl
def recserve_admission_filters() -> Mapping[str, Callable[..., AdmissionFilter]]:
    """Return the built-in admission filters."""
    return {"size_limit": SizeLimit, "doorkeeper": Doorkeeper, "tinylfu": TinyLFU}
