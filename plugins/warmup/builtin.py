"""Registers the built-in warm-up strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.hookspecs import hookimpl
from plugins.warmup.expiring import Expiring
from plugins.warmup.from_file import FromFile
from plugins.warmup.listed import FromList
from plugins.warmup.peak_hours import PeakHours
from plugins.warmup.popular import Popular
from plugins.warmup.recent import Recent
from plugins.warmup.sequence import ComesNext
from plugins.warmup_contracts import WarmupStrategy


@hookimpl
def recserve_warmup_strategies() -> Mapping[str, Callable[..., WarmupStrategy]]:
    """Return the built-in warm-up strategies."""
    return {
        "popular": Popular,
        "recent": Recent,
        "peak_hours": PeakHours,
        "expiring": Expiring,
        "sequence": ComesNext,
        "from_list": FromList,
        "from_file": FromFile,
    }
