"""``manage.py invalidate``: forget cached answers, in every process."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cache_app.invalidation import invalidate


class Command(BaseCommand):
    """Forgets cached answers."""

    help = (
        "Forget the cached answers of a user, of a model or one of its versions, of a user by a "
        "model, or all of them. Serving processes follow at once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--user", metavar="ID", help="this user's")
        parser.add_argument("--model", metavar="NAME", help="this model's")
        parser.add_argument("--model-version", type=int, metavar="N", help="this version's")
        parser.add_argument("--all", action="store_true", help="everybody's, of every model")

    def handle(self, *args: Any, **options: Any) -> None:
        """Invalidate, and say what.

        Raises:
            CommandError: Nothing, or too much, is named.
        """
        user, model, version = options["user"], options["model"], options["model_version"]
        named = user is not None or model is not None or version is not None
        if named == options["all"]:
            raise CommandError("Name what to forget: --user, --model, --model-version, or --all.")
        try:
            epoch = invalidate(user_id=user, model_name=model, version=version)
        except ValueError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(self.style.SUCCESS(f"Invalidated (epoch {epoch})."))
