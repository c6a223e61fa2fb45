"""A web worker's access to the model host: one connection for all its versions.

A thread keeps the connection: it connects, again and again while the host is away, and lets the
host load this worker's versions, one after the other, so that one which ends the host is known.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from plugins import InferenceError, ModelNotReady, QueueFull
from plugins.registry import PluginRegistry
from serving_app.core.engine import Finish
from serving_app.core.version_record import VersionRecord
from serving_app.host import sockets
from serving_app.host.channel import Backlog, Channel, Lost
from serving_app.host.hosted_engine import Answer, HostedEngine, State
from serving_app.host.protocol import Frame, Kind, ProtocolError, decode_error, frame

__all__ = ["HostClient"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_REACH = 60.0
"""Seconds that the host may be away before a version that waits for it is given up."""
_RETRY = 30.0
"""Seconds after which a version is tried again that the host could not load."""
_LOSSES = 3
"""How often in a row a version may end the host while it is loaded."""
_RESTART = 2.0
"""Seconds in which a host that ended is back, without its models."""
_PAUSE = 0.05
"""Seconds between two attempts to connect."""


class HostClient:
    """The connection of this process to its model host. Any thread calls it.

    Args:
        path: The host's socket.
        silence: Seconds without a word of the host after which it is taken to be gone.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        silence: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = sockets.check_path(path)
        self._silence = silence
        self._clock = clock
        self._ids = itertools.count(1)
        self._answers: dict[int, Answer] = {}
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._lost_at = clock()
        self._lock = threading.RLock()
        self._engines: list[HostedEngine[Any]] = []
        self._loading: HostedEngine[Any] | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    # --- For the wiring -----------------------------------------------------------------------

    def start(self) -> None:
        """Connect, on a thread of its own; again does nothing."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(
                    target=self._keep, name="model-host-client", daemon=True
                )
                self._thread.start()

    def open_engine(
        self,
        record: VersionRecord,
        *,
        store: Path,
        registry: PluginRegistry,
        items: int,
        finish: Finish[Result],
    ) -> HostedEngine[Result]:
        """Let the host load a registered version, and return its engine: see `OpenEngine`.

        ``store`` and ``registry`` are the host's own. A host that is away is waited for.

        Raises:
            ArtifactRejected: The artifact is not what was registered, or cannot be loaded.
            PluginError: A plugin it names does not exist, or refuses its options.
            InferenceError: The probe batch failed, or the host ends whenever it loads the version.
            ModelNotReady: The host cannot be reached, or this process ends.
        """
        engine = HostedEngine(self, record, items=items, finish=finish)
        with self._lock:
            self._engines.append(engine)
            self._load_next()
        self.start()
        asked = self._clock()
        while not engine.wait_loaded(0.5):
            away = self._clock() - max(self._lost_at, asked)
            if self._closing.is_set() or (self._channel is None and away > _REACH):
                engine.close()
                raise self.away()
        if engine.state is State.READY:
            return engine
        engine.close()
        raise engine.problem or self.away()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read the host's answers in this event loop from now on. The loop's thread calls it.

        What waits for an answer is then told on the loop's thread, and must not block it.
        """
        with self._lock:
            self._loop, self._loop_thread = loop, threading.get_ident()
            if self._channel is not None:
                self._channel.attach(loop)

    def detach(self) -> None:
        """Read on a thread again. The loop's thread calls it, before the loop ends."""
        with self._lock:
            self._loop = None
            if self._channel is not None:
                self._channel.detach()

    def state(self) -> str:
        """Return ``ok``, ``loading`` (versions that were live before), or ``away``."""
        with self._lock:
            if self._channel is None:
                return "away"
            ready = all(engine.state is State.READY for engine in self._engines)
            return "ok" if ready else "loading"

    def refuse(self) -> None:
        """Let nothing be loaded any more: whoever waits for that is told that the process ends."""
        self._closing.set()

    def close(self) -> None:
        """End the connection. What is still under way fails."""
        self._closing.set()
        with self._lock:
            channel = self._channel
        if channel is not None:
            channel.end("this process ends")
        if self._thread is not None:
            self._thread.join()

    # --- For the engines ----------------------------------------------------------------------

    def ask(self, kind: Kind, payload: bytes, answer: Answer) -> Answer:
        """Ask the host: see `Host.ask`."""
        channel = self._channel
        if channel is None:
            raise self.away()
        id_ = next(self._ids)
        answer.id = id_
        self._answers[id_] = answer
        answer.withdraw = lambda: self._withdraw(id_)
        try:
            channel.send(frame(kind, id_, payload))
        except Lost as error:
            self._answers.pop(id_, None)
            raise self.away() from error
        except Backlog as error:
            self._answers.pop(id_, None)
            raise QueueFull("The model host does not keep up.", retry_after=1.0) from error
        except ProtocolError as error:
            self._answers.pop(id_, None)
            raise InferenceError(f"The row cannot be sent to the model host: {error}") from error
        return answer

    def tell(self, kind: Kind, id_: int, payload: bytes) -> None:
        """Tell the host what needs no answer: see `Host.tell`."""
        self._tell(frame(kind, id_, payload))

    def away(self) -> ModelNotReady:
        """Return the error that says that the host cannot be reached: see `Host.away`."""
        if self._closing.is_set():
            return ModelNotReady("This process is shutting down.")
        expected = _RESTART + sum(engine.load_seconds for engine in list(self._engines))
        left = expected - (self._clock() - self._lost_at)
        return ModelNotReady(
            "The model host is away; it is being started again.", retry_after=max(1.0, left)
        )

    def reads_here(self) -> bool:
        """Return whether this thread reads the host's answers: see `Host.reads_here`."""
        if self._loop is not None:
            return threading.get_ident() == self._loop_thread
        return threading.current_thread() is self._thread

    def forget(self, engine: HostedEngine[Any]) -> list[Answer]:
        """Let the host unload an engine's version: see `Host.forget`."""
        with self._lock:
            if engine in self._engines:
                self._engines.remove(engine)
            if engine is self._loading:
                self._loading = None
            waiting = [each for each in list(self._answers.values()) if each.owner is engine]
            if engine.handle:
                self._tell(frame(Kind.UNLOAD, engine.handle))
            self._load_next()
        return waiting

    def _withdraw(self, id_: int) -> None:
        if self._answers.pop(id_, None) is not None:
            self._tell(frame(Kind.CANCEL, id_))

    def _tell(self, data: bytes) -> None:
        """Send what needs no answer; a host that is away need not know it."""
        channel = self._channel
        if channel is not None:
            try:
                channel.send(data)
            except (Lost, Backlog):
                return

    # --- Keeping the connection ---------------------------------------------------------------

    def _keep(self) -> None:
        """Connect and reconnect, until `close`. Runs on a thread of its own."""
        while not self._closing.is_set():
            try:
                channel = Channel(
                    sockets.connect(self.path, 5.0),
                    self._receive,
                    silence=self._silence,
                    clock=self._clock,
                )
            except (FileNotFoundError, ConnectionRefusedError):  # it is being started
                self._closing.wait(_PAUSE)
            except (OSError, ProtocolError) as error:
                logger.warning("The model host at %s cannot be used: %s", self.path, error)
                self._closing.wait(_PAUSE * 20)
            else:
                self._connected(channel)
                self._lost(channel, channel.converse())

    def _connected(self, channel: Channel) -> None:
        with self._lock:
            self._channel = channel
            if self._loop is not None:
                # The loop's thread calls `attach`, and has done so for the one before.
                channel.adopt(self._loop, self._loop_thread)
            self._load_next()
        if self._closing.is_set():
            channel.end("this process ends")

    def _lost(self, channel: Channel, reason: str) -> None:
        """Fail all that is under way; every version is to be loaded again."""
        with self._lock:
            self._channel = None
            self._lost_at = self._clock()
            loading, self._loading = self._loading, None
            for engine in self._engines:
                engine.handle = 0
                if engine.state is State.READY:
                    engine.become(State.LOADING)
            if loading is not None:
                self._blame(loading)
        # Whoever asks from now on is refused by the channel, and takes the answer out itself.
        answers = [self._answers.pop(id_, None) for id_ in list(self._answers)]
        if not self._closing.is_set():
            logger.error(
                "The connection to the model host is lost (%s); %d requests were under way",
                reason,
                len(answers),
            )
        for answer in answers:
            if answer is not None and answer.set_running_or_notify_cancel():
                answer.set_exception(self.away())
        channel.close()

    def _blame(self, engine: HostedEngine[Any]) -> None:
        """Take note that the host ended while it loaded a version."""
        engine.losses += 1
        if engine.losses >= _LOSSES:
            error = InferenceError(
                f"The model host ended {engine.losses} times while it loaded "
                f"{engine.record.label}; see its log."
            )
            engine.losses = 0
            engine.failed(error, self._clock() + _RETRY)

    def _load_next(self) -> None:
        """Let the host load a version that is to be, if it loads none. Under the lock."""
        if self._channel is None or self._loading is not None:
            return
        now = self._clock()
        for engine in self._engines:
            if engine.state is State.FAILED and now >= engine.retry_at:
                engine.become(State.LOADING)
        waiting = [engine for engine in self._engines if engine.state is State.LOADING]
        if waiting:
            engine = self._loading = min(waiting, key=lambda each: each.losses)
            engine.handle = next(self._ids)
            self._tell(frame(Kind.LOAD, engine.handle, engine.load))

    # --- What the host says -------------------------------------------------------------------

    def _receive(self, each: Frame) -> None:
        """Take one frame in. Called where the connection is read."""
        answer = self._answers.pop(each.id, None)
        if answer is None:
            self._receive_other(each)
            return
        if not answer.set_running_or_notify_cancel():
            return
        try:
            if each.kind == Kind.FAILED:
                answer.set_exception(decode_error(each.payload))
                return
            result = answer.take(each.payload)
        except Exception as error:  # noqa: BLE001  (told to the one who waits)
            answer.set_exception(InferenceError(f"The model host's answer is none: {error}"))
            return
        answer.set_result(result)

    def _receive_other(self, each: Frame) -> None:
        """Take in what a version became, and what nobody waits for any more."""
        with self._lock:
            engine = self._loading
            if engine is None or each.id != engine.handle or each.kind == Kind.DONE:
                self._load_next()  # a sign of life: failed ones may be due
                return
            self._loading = None
            if each.kind == Kind.LOADED:
                engine.loaded(each.payload)
            else:
                engine.failed(decode_error(each.payload), self._clock() + _RETRY)
            self._load_next()
