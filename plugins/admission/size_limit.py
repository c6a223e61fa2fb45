"""A limit of size."""

from __future__ import annotations

from typing import ClassVar

from plugins.admission.base import BaseAdmissionFilter
from plugins.contracts import Candidate

__all__ = ["SizeLimit"]


class SizeLimit(BaseAdmissionFilter):
    """Refuses values that take more bytes than a limit, encoded.

    One large value displaces many small ones. Squid's ``maximum_object_size_in_memory`` is such a
    limit; Berger, Sitaraman, Harchol-Balter: AdaptSize, NSDI 2017, shows what it gains. Deviation
    from AdaptSize: the limit is fixed and sharp, neither tuned nor random.

    Args:
        max_bytes: The largest value that is admitted.
    """

    needs_size: ClassVar[bool] = True

    def __init__(self, *, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}.")
        self._max_bytes = max_bytes

    def admit(self, candidate: Candidate, now: float) -> bool:
        """Return whether the value is small enough."""
        return candidate.size is None or candidate.size <= self._max_bytes
