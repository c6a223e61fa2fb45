"""Registers the built-in executors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.contracts import Executor
from plugins.executors.in_process import InProcess
from plugins.hookspecs import hookimpl


@hookimpl
def recserve_executors() -> Mapping[str, Callable[..., Executor]]:
    """Return the built-in executors."""
    return {"in_process": InProcess}
