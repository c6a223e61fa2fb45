"""An inference on its way: queued at its model, to be waited for by a thread or an event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from typing import Any

import numpy as np

from cache_app.core.light_future import LightFuture
from plugins import DeadlineExceeded, Priority, Tensors
from serving_app.api.open_inference.answers import Answer
from serving_app.core.live_models import Lease

__all__ = ["Inference"]

_SMALL = 16_384
"""Bytes of outputs of which an event loop makes the answer itself."""
_OBJECT = 64
"""Bytes that an element counts which is an object."""


class Inference:
    """Tensors that a model was given, in batches of no more rows than it takes.

    Whoever has one calls `end`, whatever became of it.

    Args:
        lease: On the version that answers; released at the end.
        inputs: What it is given, in the order of its signature.
        seconds: How long the outputs are of use.
        priority: What goes first when not everything can.
        answer: Makes the answer of the outputs.

    Raises:
        QueueFull: Too much is queued.
        ModelNotReady: The engine is closed, or cannot be reached.
    """

    def __init__(
        self,
        lease: Lease,
        inputs: Tensors,
        *,
        seconds: float,
        priority: Priority,
        answer: Callable[[Tensors], Answer],
    ) -> None:
        self._record = record = lease.version.record
        self._seconds = seconds
        self._answer = answer
        self.deadline = time.monotonic() + seconds
        """Monotonic instant after which nobody waits for it."""
        self._parts: list[Future[Tensors]] = []
        rows = len(next(iter(inputs.values())))
        with ExitStack() as undo:
            undo.callback(self._cancel)
            for at in range(0, rows, record.max_batch):
                part = {name: array[at : at + record.max_batch] for name, array in inputs.items()}
                self._parts.append(lease.version.infer(part, seconds=seconds, priority=priority))
            undo.pop_all()
        self._lease = lease
        self.ended: Future[Any] = self._parts[0] if len(self._parts) == 1 else _Whole(self._parts)
        """Done when all parts are, or one has failed."""

    def answer(self) -> Answer:
        """Return the answer; wait for it, if need be, at most until the deadline.

        Raises:
            DeadlineExceeded: The deadline came first.
            RecserveError: What the model, or its queue, raised.
        """
        try:
            self.ended.result(max(0.0, self.deadline - time.monotonic()))
        except FutureTimeoutError as error:
            raise DeadlineExceeded(
                f"{self._record.label} did not answer within {self._seconds:.3g} s."
            ) from error
        parts = [part.result() for part in self._parts]
        if len(parts) == 1:
            return self._answer(parts[0])
        return self._answer(
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )

    def is_small(self) -> bool:
        """Return whether its answer is made quickly: an event loop may, if it has ended."""
        if not self.ended.done() or self.ended.exception() is not None:
            return True
        arrays = [array for part in self._parts for array in part.result().values()]
        sizes = (a.size * (_OBJECT if a.dtype.hasobject else a.itemsize) for a in arrays)
        return sum(sizes) <= _SMALL

    def end(self) -> None:
        """Take out of the queue what nobody waits for any more, and let go of the version."""
        self._cancel()
        self._lease.release()

    def _cancel(self) -> None:
        for part in self._parts:
            part.cancel()


class _Whole(LightFuture[None]):
    """Done when all parts are, or one has failed, which it fails with.

    Args:
        parts: What it waits for; nobody waits for it when they are cancelled.
    """

    def __init__(self, parts: Sequence[Future[Tensors]]) -> None:
        super().__init__()
        self._missing = len(parts)
        self._counting = threading.Lock()
        for part in parts:
            part.add_done_callback(self._one_ended)

    def _one_ended(self, part: Future[Tensors]) -> None:
        error = None if part.cancelled() else part.exception()
        with self._counting:
            self._missing -= 1
            failed = error is not None and self._missing >= 0
            if failed:
                self._missing = -1  # the first failure is the outcome
        if failed:
            self.set_exception(error)
        elif error is None and not self._missing:
            self.set_result(None)
