"""``manage.py startplugin``: a new plugin that installs, works and passes its own tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from plugins.apps import get_registry
from plugins.errors import PluginError
from plugins.registry import KINDS, PluginRegistry, check_name
from plugins.skeleton import hooks, kinds, render, write

LONGEST = 50
"""Characters of a plugin's name: it becomes part of names of files and packages."""


class Command(BaseCommand):
    """Writes the project of a new plugin."""

    help = "Write a new plugin: a project to install, with an implementation and its tests."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("name", help="lower-case letters, digits and underscores")
        parser.add_argument("--kind", choices=kinds(), default="eviction_policy")
        parser.add_argument(
            "--directory",
            type=Path,
            default=Path(),
            metavar="DIR",
            help="where the project's folder is made; the current directory by default",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the project, and say what to do next."""
        name, kind = options["name"], options["kind"]
        try:
            check_name(name)
            _check_free(get_registry(), name, hooks()[kind])
        except (PluginError, ImproperlyConfigured) as error:
            raise CommandError(_sentence(str(error))) from error
        if len(name) > LONGEST:
            raise CommandError(f"The name must have at most {LONGEST} characters.")
        directory: Path = options["directory"]
        if not directory.is_dir():
            raise CommandError(f"There is no directory {directory}.")
        folder = directory / f"recserve-{name.replace('_', '-')}"
        try:
            write(render(kind, name), folder)
        except OSError as error:
            raise CommandError(f"Nothing was written: {error}") from error
        root = settings.BASE_DIR
        self.stdout.write(
            f"{folder} is the plugin {name!r}, of kind {kind}.\n"
            f"Next:\n"
            f"  python -m pip install -e {folder}\n"
            f"  PYTHONPATH={root} python -m pytest {folder}\n"
            f"  python {Path(root) / 'manage.py'} plugins {name}\n"
            f"Its README says more."
        )


def _check_free(registry: PluginRegistry, name: str, hook: str) -> None:
    """Raise PluginError if a plugin, or what one provides, has the name already."""
    if any(record.name == name for record in registry.records):
        raise PluginError(f"there is a plugin {name!r} already; choose another name")
    for kind in KINDS:
        if kind.hook == hook and name in registry.of_kind(kind.plural):
            owner = registry.of_kind(kind.plural).get(name).plugin
            raise PluginError(
                f"plugin {owner!r} provides the {kind.name} {name!r} already; choose another name"
            )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
