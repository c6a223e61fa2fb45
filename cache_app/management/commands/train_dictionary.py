"""``manage.py train_dictionary``: make cached answers smaller by what they have in common."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from cache_app import wiring
from cache_app.dictionaries import FEWEST, SAMPLES, newest, store, train
from plugins.errors import LevelUnavailable


class Command(BaseCommand):
    """Trains a compression dictionary."""

    help = (
        "Train a compression dictionary on this namespace's cached answers in L2 (or L3), and keep "
        "it if it saves 5 % or more, and a tenth of what the one in use leaves, if there is one. "
        "Serving processes write with it about a minute later."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--samples", type=int, default=SAMPLES, metavar="N", help="answers to look at, at most"
        )
        parser.add_argument("--dry-run", action="store_true", help="measure, and keep nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        """Train, and say what it is worth.

        Raises:
            CommandError: There are too few answers, or they cannot be read.
        """
        most = options["samples"]
        if most < FEWEST:
            raise CommandError(f"--samples must be {FEWEST} or more, not {most}.")
        try:
            self.stdout.write(f"Reading up to {most} cached answers …")
            samples = wiring.sample_payloads(most)
            self.stdout.write(f"Training on {len(samples)} …")
            current = newest()
            trained = train(samples, None if current is None else bytes(current.data))
        except (ImproperlyConfigured, LevelUnavailable, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"Of answers that it has not seen, {trained.ratio:.0%} of the bytes are left with the "
            f"dictionary, {trained.plain_ratio:.0%} without."
        )
        if trained.current_ratio is not None:
            self.stdout.write(f"The one in use leaves {trained.current_ratio:.0%}.")
        if not trained.worthwhile:
            self.stdout.write("Not kept: it saves less than 5 %.")
        elif not trained.better:
            self.stdout.write("Not kept: the one in use does nearly as well, or better.")
        elif options["dry_run"]:
            self.stdout.write("Not kept: this was a dry run.")
        else:
            row = store(trained)
            self.stdout.write(self.style.SUCCESS(f"Kept as dictionary {row.id}."))
