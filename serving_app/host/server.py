"""The model host: loads versions once for all its clients, and answers their rows in batches.

One event loop reads and writes; each version's batches run on its batcher's threads. What the
threads finish is written when the loop wakes, all of it in one go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from plugins.registry import PluginRegistry
from serving_app.core import collector
from serving_app.core.engine import LocalEngine, open_engine
from serving_app.host import sockets
from serving_app.host.client_connection import ClientConnection
from serving_app.host.hosted_version import HostedVersion, packed
from serving_app.host.protocol import Kind, Load, Loaded, encode_error, frame

__all__ = ["ModelHost"]

logger = logging.getLogger(__name__)

LINGER = 30.0
"""Seconds that a version which nobody needs any more stays, for a worker that comes back."""


class ModelHost:
    """Runs versions for the clients of a Unix socket. All but `stop` is for the loop's thread.

    Args:
        path: Where the socket is to be.
        store: The model store.
        registry: The plugins.
        linger: Seconds that a version stays that nobody needs.
        grace: Seconds that clients may take to go when the host is to end.
    """

    def __init__(
        self,
        path: Path,
        *,
        store: Path,
        registry: PluginRegistry,
        linger: float = LINGER,
        grace: float = 10.0,
    ) -> None:
        self._path = path
        self._store = store
        self._registry = registry
        self._linger = linger
        self._grace = grace
        self._versions: dict[bytes, HostedVersion] = {}
        self._clients: set[ClientConnection] = set()
        self._left = asyncio.Event()
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; then answer who is still there, and free the models.

        Args:
            started: Called once clients can connect.

        Raises:
            OSError: The socket cannot be made.
        """
        listener = sockets.bind(self._path)
        server = await self._loop.create_unix_server(lambda: ClientConnection(self), sock=listener)
        try:
            started()
            await self._stopping.wait()
        finally:
            server.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        await self._drain()

    def stop(self) -> None:
        """Let the host end. Any thread calls it."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _drain(self) -> None:
        """Wait until the workers have gone, who may need answers until then; close all."""
        deadline = self._loop.time() + self._grace
        await self._gone(lambda: not any(client.handles for client in self._clients), deadline)
        engines = [v.engine for v in self._versions.values() if v.engine is not None]
        closing = [asyncio.ensure_future(_in_thread(engine.close)) for engine in engines]
        if closing:
            _, late = await asyncio.wait(closing, timeout=max(1.0, deadline - self._loop.time()))
            for _ in late:
                logger.warning("A model did not finish in time; the host ends without it")
        for client in list(self._clients):
            client.close()
        await self._gone(lambda: not self._clients, self._loop.time() + 1.0)

    async def _gone(self, condition: Callable[[], bool], deadline: float) -> None:
        """Wait until a condition holds that a client's leaving may bring about."""
        while not condition() and self._loop.time() < deadline:
            self._left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), deadline - self._loop.time())

    # --- What clients ask for -----------------------------------------------------------------

    def joined(self, client: ClientConnection) -> None:
        """Hear of a new client."""
        self._clients.add(client)

    def left(self, client: ClientConnection) -> None:
        """Hear that a client has gone."""
        self._clients.discard(client)
        for handle in list(client.handles):
            self.unload(client, handle)
        self._left.set()

    def load(self, client: ClientConnection, handle: int, wanted: Load) -> None:
        """Load a version for a client, or give it the one that is loaded already."""
        key = msgspec.msgpack.encode(wanted, order="deterministic")
        version = self._versions.get(key)
        if version is None:
            version = self._versions[key] = HostedVersion(key, wanted.record.label)
            threading.Thread(
                target=self._load, args=(version, wanted), name=f"load-{version.label}", daemon=True
            ).start()
        if version.leaving is not None:
            version.leaving.cancel()
            version.leaving = None
        version.users.add((client, handle))
        client.handles[handle] = version
        if version.engine is not None:
            client.send(_loaded(handle, version.engine, version.seconds))

    def unload(self, client: ClientConnection, handle: int) -> None:
        """Take a version from a client; what it has asked is still answered."""
        version = client.handles.pop(handle, None)
        if version is None:
            return
        version.users.discard((client, handle))
        self._close_if_unused(version)

    def _load(self, version: HostedVersion, wanted: Load) -> None:
        """Load a version. Runs on a thread of its own."""
        started = time.monotonic()
        try:
            engine = open_engine(
                wanted.record,
                store=self._store,
                registry=self._registry,
                items=wanted.items,
                finish=packed,
            )
        except BaseException as error:  # noqa: BLE001  (told to every client that waits)
            logger.warning("%s cannot be loaded: %s", version.label, error)
            self._call(self._failed, version, error)
        else:
            seconds = time.monotonic() - started
            collector.settle()
            logger.info("%s is loaded after %.1f s", version.label, seconds)
            self._call(self._ready, version, engine, seconds)

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *args)

    def _ready(self, version: HostedVersion, engine: LocalEngine[bytes], seconds: float) -> None:
        version.engine, version.seconds = engine, seconds
        for client, handle in list(version.users):
            client.send(_loaded(handle, engine, seconds))
        self._close_if_unused(version)

    def _failed(self, version: HostedVersion, error: BaseException) -> None:
        self._versions.pop(version.key, None)
        for client, handle in list(version.users):
            client.handles.pop(handle, None)
            client.send(frame(Kind.FAILED, handle, encode_error(error)))

    def _close_if_unused(self, version: HostedVersion) -> None:
        if version.users or version.engine is None or version.leaving is not None:
            return
        version.leaving = self._loop.call_later(self._linger, self._close, version)

    def _close(self, version: HostedVersion) -> None:
        self._versions.pop(version.key, None)
        engine = version.engine
        assert engine is not None, "only what is loaded is closed"
        logger.info("%s is not needed any more", version.label)
        # Closing waits for the batches under way.
        threading.Thread(target=_close, args=(engine, version.label), daemon=True).start()


def _loaded(handle: int, engine: LocalEngine[bytes], seconds: float) -> bytes:
    return frame(Kind.LOADED, handle, msgspec.msgpack.encode(Loaded(engine.counted_by, seconds)))


def _close(engine: LocalEngine[bytes], label: str) -> None:
    try:
        engine.close()
    except Exception:  # a plugin's close may raise anything
        logger.exception("%s did not close cleanly", label)
    collector.settle()


async def _in_thread(function: Callable[[], None]) -> None:
    """Run a function on a daemon thread: a model that never ends must not keep the host."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            function()
        except Exception:  # a plugin's close may raise anything
            logger.exception("A model did not close cleanly")
        finally:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, daemon=True).start()
    await done.wait()
