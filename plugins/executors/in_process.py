"""Runs models in this process, on a pool of instances that follows the load."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from plugins.contracts import HostedModel, LoadedModel, ModelSpec, PoolCounts, Tensors
from plugins.errors import InferenceError, ModelNotReady

logger = logging.getLogger(__name__)

_GROW_AFTER = 3
"""Batches in a row whose works waited too long, before an instance is added."""
_REPLACE_EVERY = 10.0
"""Seconds between two replacements of failing instances: a row that fails is no broken instance."""


class InProcess:
    """Runs models in the web process itself.

    Args:
        min_instances: Copies of the model that are always loaded, and so batches that can run at
            once.
        max_instances: The most copies under load; None: ``min_instances``.
        grow_wait: Seconds of waiting in the queue, three batches in a row, that add an instance.
        idle_seconds: Seconds without use after which an added instance is freed.
        checkout_timeout: Seconds that a batch waits for a free instance.
        max_failures: Batches that an instance may fail in a row before it is replaced.
        batch_seconds: Seconds after which a running batch is given up and its instance replaced.
    """

    def __init__(
        self,
        *,
        min_instances: int = 1,
        max_instances: int | None = None,
        grow_wait: float = 0.05,
        idle_seconds: float = 60.0,
        checkout_timeout: float = 10.0,
        max_failures: int = 5,
        batch_seconds: float = 30.0,
    ) -> None:
        if min_instances < 1:
            raise ValueError("min_instances must be at least 1")
        if max_instances is not None and max_instances < min_instances:
            raise ValueError(f"max_instances must be at least min_instances ({min_instances})")
        if max_failures < 1:
            raise ValueError("max_failures must be at least 1")
        for name, value in (
            ("grow_wait", grow_wait),
            ("idle_seconds", idle_seconds),
            ("checkout_timeout", checkout_timeout),
            ("batch_seconds", batch_seconds),
        ):
            if value <= 0:
                raise ValueError(f"{name} must be above 0")
        self._limits = _Limits(
            least=min_instances,
            most=min_instances if max_instances is None else max_instances,
            grow_wait=grow_wait,
            idle_seconds=idle_seconds,
            checkout_timeout=checkout_timeout,
            max_failures=max_failures,
            batch_seconds=batch_seconds,
        )

    def host(self, spec: ModelSpec, load: Callable[[], LoadedModel]) -> HostedModel:
        """Return the model with its least instances loaded."""
        return Pool(f"{spec.model_name}@{spec.version}", load, self._limits)


@dataclass(frozen=True, slots=True)
class _Limits:
    """The executor's options."""

    least: int
    most: int
    grow_wait: float
    idle_seconds: float
    checkout_timeout: float
    max_failures: int
    batch_seconds: float


@dataclass(eq=False, slots=True)
class _Instance:
    """One copy of the model, and how it fares."""

    model: LoadedModel
    used: float
    """When it was last given back."""
    failures: int = 0
    """Batches that failed in a row."""
    retired: bool = False
    """Whether another has taken its place, so that it is freed when it comes back."""


@dataclass(slots=True)
class _Counts:
    grown: int = 0
    shrunk: int = 0
    replaced: int = 0
    load_seconds: float = 0.0


class Pool:
    """Instances of one model; each is used by one thread at a time.

    Args:
        label: The model, for messages.
        load: Loads one instance.
        limits: The executor's options.
        clock: Monotonic seconds.
        spawn: Runs what takes long, a load, on a thread of its own.
    """

    def __init__(
        self,
        label: str,
        load: Callable[[], LoadedModel],
        limits: _Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._label = label
        self._load = load
        self._limits = limits
        self._clock = clock
        self._spawn = spawn or _on_a_thread
        self._changed = threading.Condition()
        self._free: list[_Instance] = []
        """The one that was used last is used next, so that the others can become idle."""
        self._busy: dict[int, _Instance] = {}
        """By the thread that uses it."""
        self._stuck: set[int] = set()
        self._slow = 0
        self._loading = self._replaces = False
        self._closed = False
        self._replaced_at = float("-inf")
        self._counts = _Counts()
        with ExitStack() as undo:
            for _ in range(limits.least):
                instance = self._loaded()
                undo.callback(instance.model.close)
                self._free.append(instance)
            undo.pop_all()
        self.instances = limits.least
        """How many batches can run at once, at the moment."""

    # --- Batches -------------------------------------------------------------------------------

    @property
    def max_instances(self) -> int:
        """The most that `instances` will ever be."""
        return self._limits.most

    @property
    def batch_seconds(self) -> float:
        """Seconds after which a running batch is to be given up."""
        return self._limits.batch_seconds

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs of a batch, from whichever instance is free.

        Raises:
            InferenceError: The model raised.
            ModelNotReady: No instance came free in time, or the pool is closed.
        """
        thread = threading.get_ident()
        instance = self._check_out(thread)
        failed = True
        try:
            outputs = instance.model.predict(inputs)
            failed = False
        except Exception as error:  # a model may raise anything
            raise InferenceError(
                f"{self._label} failed: {type(error).__name__}: {error}"
            ) from error
        finally:
            self._check_in(thread, instance, failed=failed)
        return outputs

    def _check_out(self, thread: int) -> _Instance:
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._free or self._closed, self._limits.checkout_timeout
            ):
                raise ModelNotReady(
                    f"No instance of {self._label} came free within "
                    f"{self._limits.checkout_timeout:g} s."
                )
            if self._closed:
                raise ModelNotReady(f"{self._label} is closed.")
            instance = self._busy[thread] = self._free.pop()
            return instance

    def _check_in(self, thread: int, instance: _Instance, *, failed: bool) -> None:
        now = self._clock()
        with self._changed:
            if self._busy.get(thread) is not instance:  # it was given up
                self._stuck.discard(thread)
                instance.retired = True
            else:
                del self._busy[thread]
                instance.used = now
                instance.failures = instance.failures + 1 if failed else 0
                if instance.retired:
                    self.instances -= 1
                else:
                    self._free.append(instance)
                self._changed.notify_all()
            broken = (
                not instance.retired
                and instance.failures >= self._limits.max_failures
                and now - self._replaced_at >= _REPLACE_EVERY
                and self._begin_loading()
            )
            if broken:
                self._replaced_at = now
        if instance.retired:
            instance.model.close()
        elif broken:
            logger.warning("%s failed %d batches in a row", self._label, instance.failures)
            self._spawn(lambda: self._add("replaced", instead=instance))

    # --- Growth, and what is replaced -----------------------------------------------------------

    def queued(self, seconds: float) -> None:
        """Hear how long the oldest work of a batch had waited. A batch's thread calls it."""
        if seconds < self._limits.grow_wait:
            self._slow = 0
            return
        self._slow += 1
        if self._slow < _GROW_AFTER:
            return
        with self._changed:
            if self.instances >= self._limits.most or not self._begin_loading():
                return
            self._slow = 0
        self._spawn(lambda: self._add("grown"))

    def abandon(self, thread: int) -> None:
        """Leave a thread that hangs, with its instance, behind, and load another."""
        with self._changed:
            if self._busy.pop(thread, None) is None:
                return
            self._stuck.add(thread)
            self.instances -= 1
            self._changed.notify_all()
        self.tend()

    def tend(self) -> None:
        """Free instances that are idle, and load those that are missing. Called now and then."""
        idle: list[_Instance] = []
        with self._changed:
            before = self._clock() - self._limits.idle_seconds
            while (
                self.instances > self._limits.least
                and self._free
                and (self._free[0].used <= before)
            ):
                idle.append(self._free.pop(0))
                self.instances -= 1
                self._counts.shrunk += 1
            missing = self.instances < self._limits.least and self._begin_loading()
        for instance in idle:
            instance.model.close()
        if missing:
            self._spawn(lambda: self._add("replaced"))

    def _begin_loading(self) -> bool:
        """Return whether an instance may be loaded: one at a time. Called with the lock held."""
        if self._loading or self._closed:
            return False
        self._loading = True
        return True

    def _add(self, why: str, instead: _Instance | None = None) -> None:
        """Load an instance, and put it to use, in place of another if there is one."""
        instance: _Instance | None = None
        try:
            instance = self._loaded()
        except Exception:  # a model may raise anything
            logger.exception("Another instance of %s cannot be loaded", self._label)
        surplus: list[_Instance] = []
        with self._changed:
            self._loading = False
            if instance is None or self._closed:
                surplus += [] if instance is None else [instance]
            else:
                self._free.append(instance)
                self.instances += 1
                if instead is not None and instead in self._free:
                    self._free.remove(instead)
                    self.instances -= 1
                    surplus.append(instead)
                elif instead is not None:
                    instead.retired = True
                setattr(self._counts, why, getattr(self._counts, why) + 1)
            self._changed.notify_all()
        for each in surplus:
            each.model.close()

    def _loaded(self) -> _Instance:
        started = self._clock()
        model = self._load()
        now = self._clock()
        self._counts.load_seconds = now - started
        return _Instance(model, used=now)

    # --- The rest ------------------------------------------------------------------------------

    def counts(self) -> PoolCounts:
        """Return what was counted so far."""
        with self._changed:
            return PoolCounts(
                instances=self.instances,
                busy=len(self._busy),
                least=self._limits.least,
                most=self._limits.most,
                grown=self._counts.grown,
                shrunk=self._counts.shrunk,
                replaced=self._counts.replaced,
                stuck=len(self._stuck),
                load_seconds=self._counts.load_seconds,
            )

    def close(self) -> None:
        """Wait for running batches and loads, then free all instances but those that hang."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy and not self._loading)
            instances, self._free = self._free, []
        with ExitStack() as closing:
            for instance in instances:
                closing.callback(instance.model.close)


def _on_a_thread(task: Callable[[], None]) -> None:
    threading.Thread(target=task, name="instance-loader", daemon=True).start()
