"""``manage.py demo``: train recommenders on purchases, register them, make them live."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from plugins import RecserveError
from serving_app import registration
from serving_app.access import create_token
from serving_app.conf import serving_settings
from serving_app.demo.build import FEATURE_NAMES, POPULARITY_FEATURE_NAMES, Built, build
from serving_app.demo.generate import generate
from serving_app.demo.interactions import Interactions, find_data, read_interactions, read_items

TOKEN_DAYS = 365


class Command(BaseCommand):
    """Builds the demo."""

    help = (
        "Train recommenders on purchases (generated ones unless told otherwise), register them, "
        "make them live, and print where to go. Run again, it changes nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--data", type=Path, metavar="DIR", help="folder with both CSV files")
        parser.add_argument(
            "--interactions", type=Path, metavar="CSV", help="user,item,rating,timestamp; .xz too"
        )
        parser.add_argument("--items", type=Path, metavar="CSV", help="item,title,…; .xz too")
        parser.add_argument("--seed", type=int, default=7)
        parser.add_argument("--host", default="127.0.0.1", help="host in the printed address")
        parser.add_argument("--port", type=int, default=8000, help="port in the printed address")

    def handle(self, *args: Any, **options: Any) -> None:
        """Build what is missing, and print where to go.

        Raises:
            CommandError: The database is not migrated, the data cannot be read, or a model failed
                its validation.
        """
        migrations = MigrationExecutor(connection)
        if migrations.migration_plan(migrations.loader.graph.leaf_nodes()):
            raise CommandError("The database is not migrated: run manage.py migrate first.")
        url = f"http://{options['host']}:{options['port']}"
        paths = self._paths(options)
        source = ", ".join(str(path.resolve()) for path in paths) if paths else "generated"
        kept = DemoFile(settings.VAR / "demo.json")
        known = kept.read()
        if known and not User.objects.filter(username=known["username"]).exists():
            known = None  # the database is a new one
        if known is not None and (paths is None or known["source"] == source):
            kept.write({**known, "url": url})
            self.stdout.write(
                f"The demo is set up already ({known['source']}).\n"
                f"  Admin      {url}/admin/\n"
                f"  API        {url}/api/v1/docs\n"
                f"  Sign in with the credentials in {kept.path}."
            )
            return
        models = self._build_models(paths, options["seed"])
        accounts = known or self._accounts()
        kept.write({**accounts, "url": url, "models": models, "source": source})
        self.stdout.write(
            self.style.SUCCESS("The demo is ready.") + "\n"
            f"  Admin      {url}/admin/\n"
            f"  API        {url}/api/v1/docs"
        )
        if known is not None:
            self.stdout.write(f"  Sign in with the credentials in {kept.path}.")
            return
        self.stdout.write(
            f"  Username   {accounts['username']}\n"
            f"  Password   {accounts['password']}\n"
            f"  Token      {accounts['token']}\n"
            f"They are kept in {kept.path}, and not printed again."
        )

    def _paths(self, options: dict[str, Any]) -> tuple[Path, Path] | None:
        """Return the two files to learn from, or None for generated purchases."""
        interactions, items = options["interactions"], options["items"]
        try:
            if options["data"] is not None:
                if interactions or items:
                    raise CommandError("Give --data, or --interactions and --items, not both.")
                return find_data(options["data"])
        except ValueError as error:
            raise CommandError(str(error)) from error
        if (interactions is None) != (items is None):
            raise CommandError("Give both --interactions and --items.")
        return (interactions, items) if interactions else None

    def _build_models(self, paths: tuple[Path, Path] | None, seed: int) -> list[str]:
        """Train, export, validate and register; return the models' names.

        Nothing is left behind if it fails or is interrupted.
        """
        store = serving_settings().model_store
        store.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="demo-", dir=store))
        folder.chmod(0o755)
        try:
            with _Steps(self) as steps:
                interactions, titles = self._read(paths, seed, steps)
                built = build(folder, interactions, titles, seed=seed, progress=steps.show)
                drafts = _drafts(built, store)
                validated = []
                for i, (name, draft, _) in enumerate(drafts):
                    steps.show(f"Validating {name} ({draft.framework})", i / len(drafts))
                    validated.append(registration.validate(name, draft))
            with transaction.atomic():
                for (name, draft, live), found in zip(drafts, validated, strict=True):
                    version = registration.add(name, draft, found)
                    if live:
                        registration.promote(version)
        except (ValueError, OSError, RecserveError) as error:
            shutil.rmtree(folder)
            raise CommandError(f"The demo could not be built. {error}") from error
        except BaseException:
            shutil.rmtree(folder)
            raise
        self.stdout.write(f"Matrix factorisation: {built.notes}.")
        return sorted({name for name, _, live in drafts if live})

    def _read(
        self, paths: tuple[Path, Path] | None, seed: int, steps: _Steps
    ) -> tuple[Interactions, dict[str, str]]:
        if paths is None:
            steps.show("Generating purchases", 0.0)
            return generate(seed=seed)
        steps.show(f"Reading {paths[0].name}", 0.0)
        return read_interactions(paths[0]), read_items(paths[1])

    def _accounts(self) -> dict[str, str]:
        """Create an administrator and a service token, and return the credentials."""
        taken = set(User.objects.values_list("username", flat=True))
        username = next(n for n in ("admin", *_numbered("demo-admin")) if n not in taken)
        password = secrets.token_urlsafe(16)
        with transaction.atomic():
            admin = User.objects.create_superuser(username, password=password)
            _, token = create_token(
                "demo",
                role="operate",
                expires=timezone.now() + timedelta(days=TOKEN_DAYS),
                by=admin,
            )
        return {"username": username, "password": password, "token": token}


def _numbered(name: str) -> list[str]:
    return [f"{name}-{i}" for i in range(1, 100)]


def _drafts(built: Built, store: Path) -> list[tuple[str, registration.Draft, bool]]:
    """Return model name, version, and whether it goes live, in the order to register them."""

    def inside(path: Path) -> str:
        return path.relative_to(store).as_posix()

    factorisation = registration.Draft(
        artifact=inside(built.artifacts["torchscript"]),
        framework="pytorch",
        catalogue=inside(built.catalogue),
        feature_names=FEATURE_NAMES,
        feature_source="file",
        feature_source_options={"path": inside(built.factorisation_features)},
        notes=f"Matrix factorisation. {built.notes}",
        metrics=built.metrics,
    )
    popularity = dataclasses.replace(
        factorisation,
        artifact=inside(built.popularity),
        framework="numpy_linear",
        feature_names=POPULARITY_FEATURE_NAMES,
        feature_source_options={"path": inside(built.popularity_features)},
        notes=f"Popularity. {built.popularity_notes}",
    )
    tensorflow = dataclasses.replace(
        factorisation, artifact=inside(built.artifacts["saved_model"]), framework="tensorflow"
    )
    numpy = dataclasses.replace(
        factorisation, artifact=inside(built.artifacts["numpy"]), framework="numpy_linear"
    )
    return [
        ("default", popularity, False),
        ("default", factorisation, True),
        ("default", tensorflow, False),
        ("default", numpy, False),
        ("popular", popularity, True),
    ]


class DemoFile:
    """``var/demo.json``: where the demo is, and its credentials. Only its owner reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any] | None:
        """Return what is kept, or None if there is nothing.

        Raises:
            CommandError: The file is damaged.
        """
        try:
            kept = json.loads(self.path.read_text("utf-8"))
            return kept if kept["source"] else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(
                f"{self.path} is damaged ({error}). Move it away, and run again."
            ) from error

    def write(self, values: dict[str, Any]) -> None:
        """Replace the file in one step."""
        draft = self.path.with_suffix(f".{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=2)
        draft.replace(self.path)


class _Steps:
    """Progress: a bar on a terminal, a line per step elsewhere."""

    def __init__(self, command: BaseCommand) -> None:
        self._command = command
        self._last = ""
        console = Console(stderr=True)
        self._bar = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            if console.is_terminal
            else None
        )
        self._task = self._bar.add_task("", total=1.0) if self._bar else None

    def __enter__(self) -> _Steps:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, text: str, fraction: float) -> None:
        """Say what is being done, and how much of it is."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=text, completed=fraction)
        elif text != self._last:
            self._command.stderr.write(f"{text} …")
        self._last = text
