"""``manage.py serve``: the server that ``make run`` starts."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from plugins.conf import plugin_settings
from serving_app.conf import AUTO, HOST_VARIABLE, OFF, PROTOCOL, serving_settings
from serving_app.host.process import HostConfig
from serving_app.host.supervisor import HostSupervisor, host_command, socket_path

_LANE = "recserve_project.protocol:LaneProtocol"
_PATIENT = "serving_app.api.patience:PatientProtocol"


class Command(BaseCommand):
    """Serves recserve with uvicorn, and the models with a model host."""

    help = "Serve the API and the admin with uvicorn. Ctrl-C finishes what is under way and ends."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument(
            "--workers",
            type=int,
            default=1,
            help="web processes; they share the models of one model host",
        )
        parser.add_argument(
            "--grace", type=int, default=10, help="seconds that requests may take at shutdown"
        )
        parser.add_argument(
            "--no-model-host",
            action="store_true",
            help="let each web process load its own copy of every live model",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until interrupted."""
        import uvicorn  # noqa: PLC0415  (only this command needs it)

        with ExitStack() as stack:
            if options["no_model_host"]:
                os.environ[HOST_VARIABLE] = OFF
            elif serving_settings().model_host == AUTO:
                stack.enter_context(_model_host(options["grace"]))
            # uvicorn finishes what is under way, and then lets the signal have its usual effect.
            # That must wait for the host.
            stack.enter_context(suppress(_Terminated))
            signal.signal(signal.SIGTERM, _terminate)
            uvicorn.run(
                "recserve_project.asgi:application",
                http=_http(),
                host=options["host"],
                port=options["port"],
                workers=options["workers"],
                lifespan="on",
                timeout_graceful_shutdown=options["grace"],
                log_config=None,  # Django's logging is set up already
                access_log=False,
                server_header=False,
            )
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


def _http() -> str:
    """Return what uvicorn takes for HTTP: the lane's class, if it can be had, or its own.

    Either is one whose patience with slow clients ends.
    """
    wanted = serving_settings().lane_entrance == PROTOCOL
    return _LANE if wanted and find_spec("httptools") is not None else _PATIENT


class _Terminated(BaseException):
    """SIGTERM has come."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


@contextmanager
def _model_host(grace: float) -> Iterator[None]:
    """Keep a model host for the workers that this process starts."""
    serving = serving_settings()
    folder = getattr(settings, "VAR", None)
    path = socket_path(None if folder is None else Path(folder))
    command = host_command(
        HostConfig(
            socket=str(path),
            store=str(serving.model_store.resolve()),
            blocked=tuple(plugin_settings().blocked),
            grace=grace,
            log_level=logging.getLevelName(logging.getLogger().getEffectiveLevel()),
            ends_with_stdin=True,
        )
    )
    supervisor = HostSupervisor(command, path, grace=grace)
    os.environ[HOST_VARIABLE] = str(path)
    supervisor.start()
    try:
        yield
    finally:
        supervisor.stop()
