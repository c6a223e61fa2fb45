"""Alerts in the log."""

from __future__ import annotations

import logging

from plugins.contracts import AlertNotice

__all__ = ["LogChannel"]


class LogChannel:
    """Writes notices into the log: critical ones as errors, warnings as warnings.

    Args:
        logger: The logger's name.
    """

    def __init__(self, *, logger: str = "recserve.alerts") -> None:
        self._logger = logging.getLogger(logger)

    def send(self, notice: AlertNotice) -> None:
        """Write one line."""
        levels = {"critical": logging.ERROR, "warning": logging.WARNING}
        level = levels.get(notice.severity, logging.INFO)
        if notice.state == "resolved":
            level = logging.INFO
        self._logger.log(level, "%s: %s", notice.state, notice.summary)
