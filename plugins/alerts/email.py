"""Alerts by e-mail."""

from __future__ import annotations

import re

from plugins.contracts import AlertNotice

__all__ = ["EmailChannel"]


class EmailChannel:
    """Sends notices by e-mail, through Django's e-mail settings.

    Args:
        to: Addresses, with commas.
        sender: From whom; empty: ``DEFAULT_FROM_EMAIL``.
    """

    def __init__(self, *, to: str, sender: str = "") -> None:
        self._to = [address.strip() for address in to.split(",") if address.strip()]
        for address in [*self._to, *([sender] if sender else [])]:
            if not re.fullmatch(r"[^@\s]+@[^@\s]+", address):
                raise ValueError(f"{address!r} is no e-mail address")
        if not self._to:
            raise ValueError("it names nobody")
        self._sender = sender or None

    def send(self, notice: AlertNotice) -> None:
        """Send one mail; raises what the mail server says."""
        # A plugin may be imported before Django has its settings.
        from django.core.mail import EmailMessage  # noqa: PLC0415

        subject = " ".join(f"[{notice.severity}] {notice.state}: {notice.rule}".split())
        lines = [notice.summary, notice.description]
        lines += [f"{name}: {value}" for name, value in notice.labels.items()]
        EmailMessage(
            subject,
            "\n\n".join(line for line in lines if line),
            self._sender,
            self._to,
            headers={"X-Recserve-Alert": notice.id},
        ).send()
