"""``manage.py serve``: the server that ``make run`` starts."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    """Serves recserve with uvicorn."""

    help = "Serve the API and the admin with uvicorn. Ctrl-C finishes what is under way and ends."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument(
            "--workers",
            type=int,
            default=1,
            help="processes; each loads its own copy of every live model",
        )
        parser.add_argument(
            "--grace", type=int, default=10, help="seconds that requests may take at shutdown"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until interrupted."""
        import uvicorn  # noqa: PLC0415  (only this command needs it)

        uvicorn.run(
            "recserve_project.asgi:application",
            host=options["host"],
            port=options["port"],
            workers=options["workers"],
            lifespan="on",
            timeout_graceful_shutdown=options["grace"],
            log_config=None,  # Django's logging is set up already
            access_log=False,
            server_header=False,
        )
