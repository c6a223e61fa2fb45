"""``manage.py invalidate``: forget cached answers, in every process."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cache_app.invalidation import invalidate


class Command(BaseCommand):
    """Forgets cached answers."""

    help = (
        "Forget the cached answers of a user, of a model or one of its versions, of a user by a "
        "model, with a tag, of a segment, of one key, or all of them. Serving processes follow at "
        "once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--user", metavar="ID", help="this user's")
        parser.add_argument("--model", metavar="NAME", help="this model's")
        parser.add_argument("--model-version", type=int, metavar="N", help="this version's")
        parser.add_argument("--tag", metavar="TEXT", help="those asked for with it; alone")
        parser.add_argument("--segment", metavar="NAME", help="this segment's; alone")
        parser.add_argument("--key", metavar="KEY", help="one entry's; alone")
        parser.add_argument("--all", action="store_true", help="everybody's, of every model")

    def handle(self, *args: Any, **options: Any) -> None:
        """Invalidate, and say what.

        Raises:
            CommandError: Nothing, or too much, is named.
        """
        named = {
            "user_id": options["user"],
            "model_name": options["model"],
            "version": options["model_version"],
            "tag": options["tag"],
            "segment": options["segment"],
            "key": options["key"],
        }
        if any(value is not None for value in named.values()) == options["all"]:
            raise CommandError(
                "Name what to forget: --user, --model, --model-version, --tag, --segment, --key, "
                "or --all."
            )
        try:
            epoch = invalidate(**named)
        except ValueError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(self.style.SUCCESS(f"Invalidated (epoch {epoch})."))
