"""``manage.py register_model``: validate a version and add it to the registry."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from plugins import RecserveError
from serving_app import registration
from serving_app.core.outputs import OUTPUTS


class Command(BaseCommand):
    """Validates a model version and registers it."""

    help = (
        "Validate a model version and register it. Paths are relative to the model store "
        '(RECSERVE["SERVING"]["MODEL_STORE"]).'
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("name", help="the model's name; a new model is created")
        parser.add_argument("artifact", help="the file or SavedModel directory")
        parser.add_argument("--framework", required=True, help="pytorch, tensorflow, …")
        parser.add_argument("--catalogue", default="", help="CSV with the columns item,title")
        parser.add_argument(
            "--feature-names",
            default="",
            help="names separated by commas, or @FILE with a JSON list (a path on this machine)",
        )
        parser.add_argument(
            "--feature-schema",
            type=_list,
            default=[],
            metavar="JSON",
            help="for several inputs, strings, whole numbers, sequences; or @FILE",
        )
        parser.add_argument(
            "--output", default="", choices=OUTPUTS, help="default: what the model returns says it"
        )
        parser.add_argument("--output-options", type=_object, default={}, metavar="JSON")
        parser.add_argument(
            "--item-vectors", default="", help=".npy with the items' vectors, for an embedding"
        )
        parser.add_argument("--sha256", default="", help="digest that the artifact must have")
        parser.add_argument("--framework-options", type=_object, default={}, metavar="JSON")
        parser.add_argument("--feature-source", default="", help="plugin that knows the features")
        parser.add_argument("--feature-source-options", type=_object, default={}, metavar="JSON")
        parser.add_argument("--notes", default="")
        parser.add_argument("--live", action="store_true", help="make the version live, too")

    def handle(self, *args: Any, **options: Any) -> None:
        """Register the version, and print its name.

        Raises:
            CommandError: It is not valid; nothing was registered.
        """
        draft = registration.Draft(
            artifact=options["artifact"],
            framework=options["framework"],
            catalogue=options["catalogue"],
            feature_names=_names(options["feature_names"]),
            feature_schema=options["feature_schema"],
            output=options["output"],
            output_options=options["output_options"],
            item_vectors=options["item_vectors"],
            sha256=options["sha256"],
            framework_options=options["framework_options"],
            feature_source=options["feature_source"],
            feature_source_options=options["feature_source_options"],
            notes=options["notes"],
        )
        self.stderr.write(f"Validating {draft.artifact} in a separate process …")
        try:
            version = registration.register(options["name"], draft)
            if options["live"]:
                registration.promote(version)
        except RecserveError as error:
            raise CommandError(f"Not registered. {error}") from error
        except ValidationError as error:
            raise CommandError(f"Not registered. {' '.join(error.messages)}") from error
        state = "registered and live" if options["live"] else "registered"
        self.stdout.write(self.style.SUCCESS(f"{version} is {state}."))


def _object(text: str) -> dict[str, Any]:
    """Return the JSON object that an option gives.

    Raises:
        ArgumentTypeError: It gives none.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def _list(text: str) -> list[Any]:
    """Return the JSON list that an option gives, or names a file of.

    Raises:
        ArgumentTypeError: It gives none.
    """
    try:
        value = json.loads(Path(text[1:]).read_text("utf-8") if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(value, list):
        raise ArgumentTypeError(f"{text!r} is not a JSON list")
    return value


def _names(text: str) -> tuple[str, ...]:
    """Return the feature names that an option gives.

    Raises:
        CommandError: The file it names cannot be read.
    """
    if not text:
        return ()
    if not text.startswith("@"):
        return tuple(name.strip() for name in text.split(","))
    try:
        names = json.loads(Path(text[1:]).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"Cannot read feature names from {text[1:]}: {error}") from error
    if not isinstance(names, list):
        raise CommandError(f"{text[1:]} must hold a JSON list of feature names.")
    return tuple(names)
