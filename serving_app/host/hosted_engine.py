"""An engine whose model runs in the model host."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from cache_app.core.light_future import LightFuture
from plugins import BatchTimes, InferenceError, ModelNotReady, Priority, RecserveError, Tensors
from serving_app.core.batcher import BatcherStats
from serving_app.core.engine import Finish
from serving_app.core.features import Row
from serving_app.core.version_record import VersionRecord
from serving_app.host.protocol import (
    HANDLE,
    SUBMISSION,
    TIMES,
    URGENCY,
    Kind,
    Load,
    Loaded,
    ProtocolError,
    decode_named,
    decode_tensors,
    encode_named,
    encode_tensors,
)

__all__ = ["Answer", "Host", "HostedEngine", "State"]

Result = TypeVar("Result")

_PROBE = 60.0
"""Seconds that a probe batch may take."""
_STATS = 2.0
"""Seconds to wait for the host's counts; then the last known are given."""
_LONGEST_KEY = 1000
"""Bytes of what recognises a request that comes back; the host is sent no more."""
_CLOSE = 10.0
"""Seconds that answers under way may take when an engine is closed."""


class Answer(LightFuture[Any]):
    """What the host is to answer. Cancelling it takes the question back."""

    def __init__(self, decode: Callable[[bytes], Any], owner: object = None) -> None:
        super().__init__()
        self.decode = decode
        """Makes the result of the answer's payload."""
        self.owner = owner
        """The engine that asked."""
        self.id = 0
        """The question's; 0: it has not been asked yet."""
        self.withdraw: Callable[[], None] | None = None
        """Takes the question back."""

    def take(self, payload: bytes) -> Any:
        """Return the result that a payload holds."""
        return self.decode(payload)

    def cancel(self) -> bool:
        """Cancel it, unless it is answered."""
        cancelled = super().cancel()
        if cancelled and self.withdraw is not None:
            self.withdraw()
        return cancelled


class RowAnswer(Answer):
    """The answer to a row."""

    batch: BatchTimes | None = None
    """Where it was computed, once it is there."""

    def take(self, payload: bytes) -> Any:
        """Return the ranking, and keep what the host says of the batch."""
        self.batch = BatchTimes(*TIMES.unpack_from(payload))
        return self.decode(payload[TIMES.size :])


class Host(Protocol):
    """What an engine needs of the connection to its host."""

    def ask(self, kind: Kind, payload: bytes, answer: Answer) -> Answer:
        """Ask the host, and return the answer to be.

        Raises:
            ModelNotReady: It cannot be reached.
            QueueFull: It does not read.
        """

    def tell(self, kind: Kind, id_: int, payload: bytes) -> None:
        """Tell the host what needs no answer; one that is away need not know it."""

    def away(self) -> ModelNotReady:
        """Return the error that says that the host cannot be reached."""

    def reads_here(self) -> bool:
        """Return whether it is this thread that reads the host's answers, so cannot wait."""

    def forget(self, engine: HostedEngine[Any]) -> list[Answer]:
        """Let the host unload an engine's version; return the answers it still waits for."""


class State(enum.Enum):
    """Where an engine is."""

    LOADING = "loading"
    """The host is to load the version, or is about it."""
    READY = "ready"
    """It answers."""
    FAILED = "failed"
    """The host could not load it; it will be tried again."""
    CLOSED = "closed"


class HostedEngine(Generic[Result]):
    """An engine in the model host, for this process. Built by `HostClient.open_engine`.

    When the host is back after an end, the version is loaded there anew.

    Args:
        host: The connection.
        record: The version.
        items: How many items the catalogue has.
        finish: Makes the results; called where the host's answers are read.
    """

    def __init__(
        self, host: Host, record: VersionRecord, *, items: int, finish: Finish[Result]
    ) -> None:
        self.record = record
        self.load = msgspec.msgpack.encode(Load(record, items))
        """What asks the host for it."""
        self.handle = 0
        """By which the host knows it; another one after each reconnection."""
        self.losses = 0
        """How often in a row the host ended while it loaded this version."""
        self.load_seconds = 0.0
        self.counted_by = ""
        self.problem: RecserveError | None = None
        """Why it failed."""
        self.retry_at = 0.0
        """When a failed load is tried again, by the monotonic clock."""
        self._state = State.LOADING
        self._changed = threading.Condition()
        self._host = host
        self._finish = finish
        self._stats = BatcherStats.merged([])

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state

    def submit(
        self,
        row: Row,
        depth: int,
        *,
        seconds: float,
        priority: Priority,
        key: str | None = None,
    ) -> Future[Result]:
        """Queue one row in the host: see `Engine.submit`."""
        if self._state is not State.READY:
            raise self._not_ready()
        known_by = b"" if key is None else key.encode()[:_LONGEST_KEY]
        head = SUBMISSION.pack(
            self.handle, depth, seconds, time.monotonic(), priority, len(known_by)
        )
        payload = b"".join((head, known_by, encode_tensors(*row)))
        return self._host.ask(Kind.SUBMIT, payload, RowAnswer(self._decode, self))

    def raise_priority(
        self, future: Future[Result], priority: Priority, *, seconds: float = 0.0
    ) -> None:
        """Let a queued row go earlier in the host: see `Engine.raise_priority`."""
        if isinstance(future, Answer) and future.id:
            self._host.tell(Kind.RAISE, future.id, URGENCY.pack(priority, seconds))

    def infer(self, inputs: Tensors, *, seconds: float, priority: Priority) -> Future[Tensors]:
        """Queue tensors in the host: see `Engine.infer`.

        Raises:
            InferenceError: They are of a datatype that cannot be sent.
        """
        if self._state is not State.READY:
            raise self._not_ready()
        try:
            head = SUBMISSION.pack(self.handle, 0, seconds, time.monotonic(), priority, 0)
            payload = head + encode_named(inputs)
        except ProtocolError as error:
            raise InferenceError(
                f"The tensors cannot be sent to the model host: {error}"
            ) from error
        return self._host.ask(Kind.INFER, payload, Answer(decode_named, self))

    def probe(self) -> None:
        """Run one batch through the model: see `Engine.probe`."""
        if self._state is not State.READY:
            raise self._not_ready()
        self._host.ask(Kind.PROBE, HANDLE.pack(self.handle), Answer(lambda _: None)).result(_PROBE)

    def stats(self) -> BatcherStats:
        """Return what the host's engine counted for all its clients; if it is away, last did."""
        if self._state is State.READY and not self._host.reads_here():
            try:
                asked = self._host.ask(Kind.STATS, HANDLE.pack(self.handle), Answer(_counts))
                self._stats = asked.result(_STATS)
            except (RecserveError, TimeoutError):
                pass  # what was known before is told
        return self._stats

    def close(self) -> None:
        """Wait for what is under way, and let the host unload the version."""
        self.become(State.CLOSED)
        wait(self._host.forget(self), _CLOSE)

    # --- For the client -----------------------------------------------------------------------

    def loaded(self, payload: bytes) -> None:
        """Hear that the host has loaded it."""
        answer = msgspec.msgpack.decode(payload, type=Loaded)
        self.counted_by, self.load_seconds = answer.counted_by, answer.seconds
        self.losses, self.problem = 0, None
        self.become(State.READY)

    def failed(self, error: RecserveError, retry_at: float) -> None:
        """Hear that the host cannot load it."""
        self.problem, self.retry_at = error, retry_at
        self.become(State.FAILED)

    def become(self, state: State) -> None:
        """Change the state; a closed one remains closed."""
        with self._changed:
            if self._state is not State.CLOSED:
                self._state = state
            self._changed.notify_all()

    def wait_loaded(self, timeout: float) -> bool:
        """Return whether it left the state LOADING within the seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state is not State.LOADING, timeout)

    def _decode(self, payload: bytes) -> Result:
        positions, scores = decode_tensors(payload)
        return self._finish(positions, scores)

    def _not_ready(self) -> ModelNotReady:
        if self._state is State.CLOSED:
            return ModelNotReady(f"{self.record.label} is shutting down.")
        if self._state is State.FAILED:
            return ModelNotReady(
                f"The model host could not load {self.record.label}: {self.problem}",
                retry_after=30.0,
            )
        return self._host.away()


def _counts(payload: bytes) -> BatcherStats:
    return msgspec.msgpack.decode(payload, type=BatcherStats)
