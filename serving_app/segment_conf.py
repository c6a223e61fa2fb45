"""The settings of segments: ``RECSERVE["SEGMENTS"]``, read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from cache_app.conf_values import part

__all__ = ["SegmentSettings", "segment_settings"]


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """Settings of segments. Each field is a key of ``RECSERVE["SEGMENTS"]`` in upper case."""

    evaluate: bool = True
    """Whether serving processes evaluate the rules; one of all does at a time."""
    evaluate_seconds: float = 5.0
    """How often it looks for users whose segment may have changed."""
    users: int = 1_000_000
    """How many users are remembered; those who have been away longest make room."""


def segment_settings() -> SegmentSettings:
    """Return the settings.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is of the wrong form.
    """
    return part("SEGMENTS", SegmentSettings)
