"""``manage.py segments``: who belongs to which segment, and decide it now."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.db.models import Count

from serving_app import wiring
from serving_app.core.segment_table import EVERYONE
from serving_app.reconciler import process_name
from serving_app.segment_evaluation import Evaluator
from serving_app.segment_models import Segment, SegmentMember


class Command(BaseCommand):
    """Shows segments, and evaluates their rules."""

    help = (
        "List the segments with their rules and members. With --evaluate, decide first who belongs "
        "to which; serving processes do that by themselves every few seconds."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--evaluate", action="store_true", help="evaluate the rules first")
        parser.add_argument("--json", action="store_true", help="write JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Show, after evaluating if that is wanted."""
        try:
            done = self._evaluate() if options["evaluate"] else None
            rows = _rows()
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {error}") from error
        if options["json"]:
            self.stdout.write(json.dumps({"evaluated": done, "segments": rows}, indent=2))
            return
        if done is not None:
            self.stdout.write(
                f"Looked at {done['evaluated']} users; {done['moved']} are in another segment now."
            )
        for row in rows:
            off = "" if row["enabled"] else " (off)"
            self.stdout.write(f"{row['name']}{off}: {row['members']} users; {row['rule']}")

    def _evaluate(self) -> dict[str, int]:
        evaluator = Evaluator(f"{process_name()} command")
        done = evaluator.evaluate()
        if done is None:
            raise CommandError("A serving process is evaluating; it goes on every few seconds.")
        evaluator.release()
        wiring.wake()
        return {"evaluated": done.evaluated, "moved": done.moved}


def _rows() -> list[dict[str, Any]]:
    segments = Segment.objects.annotate(n=Count("members")).prefetch_related("conditions")
    rows = [
        {"name": row.name, "enabled": row.enabled, "members": row.n, "rule": row.described}
        for row in segments
    ]
    rest = SegmentMember.objects.filter(segment__isnull=True).count()
    return [*rows, {"name": EVERYONE, "enabled": True, "members": rest, "rule": "everyone else"}]
