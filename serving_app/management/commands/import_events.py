"""``manage.py import_events``: what users did, out of a file."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serving_app.activity_conf import activity_settings
from serving_app.activity_models import EventImport
from serving_app.core.activity import EVENT_KINDS
from serving_app.event_file import EventFile, ImportedElsewhere, import_events, look_at
from serving_app.models import ServedModel

_DAY = 86_400.0


class Command(BaseCommand):
    """Imports events."""

    help = (
        "Record the events of a CSV file with the columns user, item, rating (or pieces) and "
        "timestamp (Unix seconds), plain, .xz or .gz. An import that was stopped goes on where it "
        "was when it is started again; one that is done does nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--model", default="default", metavar="NAME", help="whose activity they count for"
        )
        parser.add_argument("--kind", choices=EVENT_KINDS, default="purchase")
        parser.add_argument(
            "--until",
            metavar="TIME",
            help="move all times so that the last is this one: now, or ISO 8601 with its zone",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Import, and say what was recorded.

        Raises:
            CommandError: The file is not sound, the model unknown, every event too old, or the
                import was interrupted.
        """
        if not ServedModel.objects.filter(name=options["model"]).exists():
            raise CommandError(
                f"There is no model {options['model']!r}; --model says whose activity it is."
            )
        until = _until(options["until"])
        try:
            file = look_at(options["file"])
        except (OSError, ValueError) as error:
            raise CommandError(str(error)) from error
        row = self._row(file, until, options)
        before = row.done
        if row.finished is None:
            try:
                self._import(file, row)
            except ImportedElsewhere as error:
                raise CommandError(str(error)) from error
            except KeyboardInterrupt as error:
                row.refresh_from_db()
                raise CommandError(
                    f"Stopped after {row.done} of {row.rows} rows. The same command goes on there.",
                    returncode=130,
                ) from error
        found = {
            "file": row.name,
            "model": row.model,
            "kind": row.kind,
            "rows": row.rows,
            "imported": row.done - before,
            "skipped": row.skipped,
        }
        if options["json"]:
            self.stdout.write(json.dumps(found))
        elif row.done == before:
            self.stdout.write(f"{row.name} was imported before: nothing to do.")
        else:
            self.stdout.write(
                self.style.SUCCESS(
                    f"Read {row.done - before} of {row.rows} rows of {row.name}; "
                    f"{row.skipped} in all were older than events are kept."
                )
            )

    def _row(self, file: EventFile, until: float | None, options: Any) -> EventImport:
        """Return how far the file was imported, or the row of a new import."""
        known = {"sha256": file.sha256, "model": options["model"], "kind": options["kind"]}
        row = EventImport.objects.filter(**known).first()
        if row is not None:
            return row
        shift = 0.0 if until is None else until - file.last
        days, now = activity_settings().event_days, timezone.now().timestamp()
        if file.last + shift < now - days * _DAY:
            raise CommandError(
                f"Every event in {file.path} is older than the {days:g} days that events are kept. "
                "--until now moves their times; RECSERVE['ACTIVITY']['EVENT_DAYS'] keeps them "
                "longer."
            )
        if file.last + shift > now + 300:
            raise CommandError(
                f"The last event in {file.path} would be in the future; --until moves the times."
            )
        name = file.path.name[-255:]
        return EventImport.objects.create(**known, name=name, shift=shift, rows=file.rows)

    def _import(self, file: EventFile, row: EventImport) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task("Importing", total=row.rows)
            import_events(
                file,
                row,
                days=activity_settings().event_days,
                progress=lambda done: bar.update(task, completed=done),
            )


def _until(text: str | None) -> float | None:
    if text is None:
        return None
    if text == "now":
        return timezone.now().timestamp()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CommandError(
            f"--until must be now, or a time with its zone such as 2026-11-24T09:30:00Z, "
            f"not {text!r}."
        )
    return moment.timestamp()
