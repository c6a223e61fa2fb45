"""``manage.py model_host``: a model host for servers that ``manage.py serve`` does not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from plugins.conf import plugin_settings
from serving_app.conf import AUTO, OFF, serving_settings
from serving_app.host.process import HostConfig, run
from serving_app.host.sockets import PathTooLong, check_path


class Command(BaseCommand):
    """Runs a model host in the foreground."""

    help = (
        "Run models for the web processes of this host, which a WSGI server started, for example: "
        'they find it when RECSERVE["SERVING"]["MODEL_HOST"] is the path of its socket. '
        "manage.py serve starts one by itself. Let a supervisor such as systemd start it again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--socket", help="path of the socket; as a rule, MODEL_HOST's")
        parser.add_argument(
            "--grace", type=float, default=10, help="seconds that workers may take to go at the end"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until SIGTERM or Ctrl-C.

        Raises:
            CommandError: The socket cannot be made.
        """
        serving = serving_settings()
        path = options["socket"] or serving.model_host
        if path in {AUTO, OFF}:
            raise CommandError(
                'Give --socket PATH, or set RECSERVE["SERVING"]["MODEL_HOST"] to a path, which the '
                "web processes need, too."
            )
        try:
            check_path(Path(path))
            run(
                HostConfig(
                    socket=path,
                    store=str(serving.model_store.resolve()),
                    blocked=tuple(plugin_settings().blocked),
                    grace=options["grace"],
                )
            )
        except (OSError, PathTooLong) as error:
            raise CommandError(f"The model host cannot use {path}: {error}") from error
