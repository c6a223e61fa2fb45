"""``manage.py rotate_key``: sign JWTs with a new key from now on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from serving_app.signing import rotate


class Command(BaseCommand):
    """Rotates the key that signs JWTs."""

    help = (
        "Sign JWTs with a new key from now on, in every process, without a restart. Tokens given "
        "before stay valid until they expire."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--revoke",
            action="store_true",
            help="refuse every JWT given before, at once: the key may be known to others",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate."""
        key = rotate(keep=timedelta(0) if options["revoke"] else None)
        self.stdout.write(self.style.SUCCESS(f"Key {key.kid} signs from now on."))
