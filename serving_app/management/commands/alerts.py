"""``manage.py alerts``: look at the rules now, from outside of the server."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from serving_app import alerts
from serving_app.alert_channels import deliver
from serving_app.alert_models import Alert
from serving_app.alert_work import DELIVER, EVALUATE

_WAIT = 5.0
_LEASE = 60.0


class Command(BaseCommand):
    """Evaluates rules."""

    help = (
        "Evaluate every alert rule once, send the notices that are due, and list what fires. Run "
        "it by cron or a timer: it is what can see that no server runs. Exits with 3 if a "
        "critical alert fires."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--list", action="store_true", help="only list what fires")

    def handle(self, *args: Any, **options: Any) -> None:
        """Evaluate, send, list.

        Raises:
            CommandError: The database does not answer; or, with status 3, a critical alert fires.
        """
        try:
            if not options["list"]:
                self._work()
            rows = list(Alert.objects.filter(state=Alert.State.FIRING).select_related("rule"))
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {error}") from error
        for row in rows:
            said = alerts.say(row.rule, row.state, row.value)
            self.stdout.write(f"{row.severity:8} since {row.fired:%Y-%m-%d %H:%M:%S} {said}")
        if not rows:
            self.stdout.write("Nothing fires.")
        if any(row.severity == "critical" for row in rows):
            raise CommandError("A critical alert fires.", returncode=3)

    def _work(self) -> None:
        """Do what no server does at the moment; one that does needs no help."""
        holder, now = f"{socket.gethostname()}:{os.getpid()} manage.py", time.time()
        if alerts.take_lease(EVALUATE, holder, now, _WAIT):
            alerts.evaluate(now)
            alerts.give_lease(EVALUATE, holder, now)
        if alerts.take_lease(DELIVER, holder, now, _LEASE):
            deliver(now)
            alerts.give_lease(DELIVER, holder, now)
