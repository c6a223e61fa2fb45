"""``manage.py switch_on_plugin``: let a plugin that was switched off work again."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from cache_app.plugin_switches import switch_on
from plugins import UnknownPlugin
from serving_app import wiring


class Command(BaseCommand):
    """Switches a plugin on."""

    help = (
        "Let every part of a plugin that was switched off, because it failed again and again, "
        "work again in every process. manage.py plugins shows which are off."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("name", help="the plugin's name")

    def handle(self, *args: Any, **options: Any) -> None:
        """Switch it on."""
        try:
            switch_on(options["name"])
        except UnknownPlugin as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {error}") from error
        wiring.wake()
        self.stdout.write(f"Plugin {options['name']} is on again in every process.")
