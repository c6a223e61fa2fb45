"""``manage.py replay``: run logged requests against a version, and compare."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import timedelta
from itertools import islice
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.progress import Progress

from plugins import RecserveError
from plugins.apps import get_registry
from serving_app.conf import serving_settings
from serving_app.core.live_version import LiveVersion, open_version
from serving_app.models import ModelVersion
from serving_app.payload_models import LoggedRequest
from serving_app.replay import Summary, answers

_CHUNK = 256


class Command(BaseCommand):
    """Replays logged requests."""

    help = (
        "Run logged predict requests against a version of their model, and compare its answers "
        "with those given then, or with another version's. Nothing is cached or changed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--model", default="default", metavar="NAME")
        parser.add_argument(
            "--model-version", type=int, required=True, metavar="N", help="the version to run"
        )
        parser.add_argument(
            "--against", type=int, metavar="N", help="compare with this version, not with the log"
        )
        parser.add_argument("--hours", type=float, help="only requests of the last so many hours")
        parser.add_argument("--limit", type=int, default=10_000, help="the latest so many at most")
        parser.add_argument("--request-id", help="only the request of this id")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Replay, and print how the answers compare.

        Raises:
            CommandError: There is nothing to replay, or no such version, or it does not load.
        """
        rows = LoggedRequest.objects.filter(model=options["model"])
        if options["hours"] is not None:
            rows = rows.filter(at__gte=timezone.now() - timedelta(hours=options["hours"]))
        if options["request_id"]:
            rows = rows.filter(request_id=options["request_id"])
        chosen = list(rows[: max(0, options["limit"])])
        if not chosen:
            raise CommandError(
                "No such request was logged. RECSERVE['LOGGING']['PAYLOADS'] says which part is."
            )
        with ExitStack() as closing:
            version = self._open(options["model"], options["model_version"], closing)
            against = None
            if options["against"] is not None:
                against = self._open(options["model"], options["against"], closing)
            summary = self._compare(chosen, version, against)
        found = {
            "model": options["model"],
            "version": options["model_version"],
            "against": "log" if against is None else options["against"],
            "requests": len(chosen),
            **summary.as_json(),
        }
        if options["json"]:
            self.stdout.write(json.dumps(found))
            return
        for name, value in found.items():
            shown = f"{value:.4f}" if isinstance(value, float) else value
            self.stdout.write(f"{name.replace('_', ' '):<26}{shown}")

    def _open(self, name: str, number: int, closing: ExitStack) -> LiveVersion:
        row = (
            ModelVersion.objects.filter(model__name=name, number=number)
            .select_related("model")
            .first()
        )
        if row is None:
            raise CommandError(f"There is no version {number} of a model {name!r}.")
        try:
            version = open_version(
                row.record(), store=serving_settings().model_store, registry=get_registry()
            )
        except RecserveError as error:
            raise CommandError(f"{row} does not load: {error}") from error
        closing.callback(version.close)
        return version

    def _compare(
        self, rows: list[LoggedRequest], version: LiveVersion, against: LiveVersion | None
    ) -> Summary:
        summary = Summary()
        chunk = min(_CHUNK, version.record.max_queue)
        if against is not None:
            chunk = min(chunk, against.record.max_queue)
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("Replaying", total=len(rows))
            rest = iter(rows)
            while part := list(islice(rest, chunk)):
                logged = [(row.items, row.scores) for row in part]
                before = logged if against is None else answers(part, against)
                for one, two in zip(before, answers(part, version), strict=True):
                    if isinstance(one, RecserveError):
                        summary.errors[f"against: {type(one).__name__}"] += 1
                    else:
                        summary.add(one, two)
                bar.advance(task, len(part))
        return summary
