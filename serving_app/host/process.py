"""The model host's process, however it is started."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec

from plugins.loading import load_plugins
from serving_app.host.server import LINGER, ModelHost

__all__ = ["HostConfig", "run"]

logger = logging.getLogger("serving_app.host")


class HostConfig(msgspec.Struct, frozen=True):
    """What a model host must know."""

    socket: str
    """Path of its socket."""
    store: str
    """Path of the model store."""
    blocked: tuple[str, ...] = ()
    """Plugins that must not be imported."""
    grace: float = 10.0
    """Seconds that clients may take to go when it is to end."""
    linger: float = LINGER
    """Seconds that a version stays that nobody needs."""
    log_level: str = "INFO"
    ends_with_stdin: bool = False
    """Whether the end of standard input, which its starter holds, ends the host."""


def run(config: HostConfig) -> None:
    """Serve until SIGTERM, SIGINT or the end of the starter.

    Raises:
        OSError: The socket cannot be made.
    """
    faulthandler.enable()  # a crash in a model says where
    try:
        import uvloop  # noqa: PLC0415  (as fast, and optional)
    except ImportError:
        asyncio.run(_serve(config))
    else:
        uvloop.run(_serve(config))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of a model that does not end must not keep the process


async def _serve(config: HostConfig) -> None:
    host = ModelHost(
        Path(config.socket),
        store=Path(config.store),
        registry=load_plugins(blocked=config.blocked),
        linger=config.linger,
        grace=config.grace,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, host.stop)
    if config.ends_with_stdin:
        threading.Thread(target=_watch_stdin, args=(host,), daemon=True).start()
    await host.run(lambda: logger.info("The model host listens at %s", config.socket))
    logger.info("The model host ends")


def _watch_stdin(host: ModelHost) -> None:
    """End the host when its starter has gone, however that went. Runs on a thread of its own."""
    while os.read(0, 1024):
        pass
    host.stop()
