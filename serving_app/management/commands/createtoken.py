"""``manage.py createtoken``: a service token for a program."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from serving_app.access import create_token
from serving_app.core.access import ROLES
from serving_app.models import ServedModel


class Command(BaseCommand):
    """Makes a service token."""

    help = "Make a service token and print it. It cannot be shown again; the admin revokes it."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("name", help="which program gets it")
        parser.add_argument("--role", choices=ROLES, default="predict")
        parser.add_argument(
            "--model", action="append", metavar="NAME", help="may ask only this model; repeatable"
        )
        parser.add_argument("--days", type=float, help="days until it expires; else it does not")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make it and print it.

        Raises:
            CommandError: A model does not exist, or the options do not go together.
        """
        models = None
        if options["model"]:
            if options["role"] != "predict":
                raise CommandError("Only a token of the role predict can be limited to models.")
            models = list(ServedModel.objects.filter(name__in=options["model"]))
            missing = set(options["model"]) - {model.name for model in models}
            if missing:
                raise CommandError(f"There is no model {', '.join(sorted(missing))}.")
        days = options["days"]
        if days is not None and days <= 0:
            raise CommandError("--days must be above 0.")
        row, text = create_token(
            options["name"],
            role=options["role"],
            models=models,
            expires=None if days is None else timezone.now() + timedelta(days=days),
        )
        if options["json"]:
            self.stdout.write(json.dumps({"prefix": row.prefix, "token": text}))
        else:
            self.stdout.write(text)
            self.stderr.write(f"{row.name} has it now; it is not shown again.")
