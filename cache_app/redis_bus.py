"""Epochs between hosts, over one Redis: each process hears of an invalidation as it happens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cache_app.redis_connections import ERRORS

__all__ = ["EpochBus"]

logger = logging.getLogger(__name__)

_TURN = 0.2
"""Seconds to wait for a message, and before a new attempt to connect."""
_SILENCE = 1.0
"""Seconds without a word after which the server is asked whether it is there; after twice as many
it is taken for lost."""


class EpochBus:
    """Publishes and hears epochs. It is a hint, as the epoch file is: the database has the truth.

    `start` begins to listen, on a thread of its own. Whoever is not `connected` cannot know what
    was said meanwhile, and must look into the database instead.

    Args:
        url: The Redis.
        namespace: Names the channel; deployments that share a Redis differ in it.
        heard: Called on the bus's thread with every epoch, and with 0 after each connection:
            something may have been missed before.
        timeout: Seconds to wait for the server when publishing.
        access: redis-py's options of user, password and TLS, besides what the URL says.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        heard: Callable[[int], None],
        timeout: float,
        access: Mapping[str, Any] | None = None,
    ) -> None:
        self._channel = f"rs:{namespace}:epochs"
        self._heard = heard
        self._client, self._listener = (
            redis.Redis.from_url(
                url,
                socket_timeout=patience,
                socket_connect_timeout=min(2 * patience, _SILENCE),
                retry=Retry(NoBackoff(), 0),
                **(access or {}),
            )
            for patience in (timeout, _SILENCE)
        )
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.connected = False
        """Whether every epoch is heard at the moment."""

    def start(self) -> None:
        """Begin to listen."""
        self._thread = threading.Thread(target=self._run, name="epoch-bus", daemon=True)
        self._thread.start()

    def publish(self, epoch: int) -> bool:
        """Tell the others of an epoch; return whether the server took it."""
        try:
            self._client.publish(self._channel, epoch)
        except ERRORS as error:
            logger.warning("Other hosts learn of epoch %s only from the database: %s", epoch, error)
            return False
        return True

    def close(self) -> None:
        """Stop listening, and disconnect."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._client.close()
        self._listener.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except ERRORS as error:
                if self.connected:
                    logger.warning("The epoch bus is lost: %s", error)
            self.connected = False
            self._stopping.wait(_TURN)

    def _listen(self) -> None:
        """Hear messages until the connection fails or the bus stops."""
        with self._listener.pubsub() as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(self._channel)
            last_word = asked = time.monotonic()
            while not self._stopping.is_set():
                message = channel.get_message(timeout=_TURN)
                now = time.monotonic()
                if message is not None:
                    last_word = now
                    self._take(message)
                elif now - last_word > 2 * _SILENCE:
                    raise redis.ConnectionError(f"it has been silent for {now - last_word:.1f} s")
                elif now - max(last_word, asked) > _SILENCE:
                    channel.ping()
                    asked = now

    def _take(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            # From here on nothing is missed; what was, is in the database.
            self.connected = True
            self._heard(0)
        elif message["type"] == "message":
            data = message["data"]
            if isinstance(data, bytes) and data.isdigit():
                self._heard(int(data))
