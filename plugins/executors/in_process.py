"""Runs models in this process, on a fixed pool of instances."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import ExitStack

from plugins.contracts import HostedModel, LoadedModel, ModelSpec, Tensors
from plugins.errors import InferenceError


class InProcess:
    """Runs models in the web process itself.

    Args:
        instances: Copies of the model, and so batches that can run at once.
        checkout_timeout: Seconds that a batch waits for a free instance.
    """

    def __init__(self, *, instances: int = 1, checkout_timeout: float = 10.0) -> None:
        if instances < 1:
            raise ValueError("instances must be at least 1")
        self._instances = instances
        self._checkout_timeout = checkout_timeout

    def host(self, spec: ModelSpec, load: Callable[[], LoadedModel]) -> HostedModel:
        """Return the model with all its instances loaded."""
        with ExitStack() as undo:
            models = []
            for _ in range(self._instances):
                model = load()
                undo.callback(model.close)
                models.append(model)
            undo.pop_all()
        return _Pool(f"{spec.model_name}@{spec.version}", models, self._checkout_timeout)


class _Pool:
    """Instances of one model; each is used by one thread at a time."""

    def __init__(self, label: str, models: list[LoadedModel], checkout_timeout: float) -> None:
        self._label = label
        self._checkout_timeout = checkout_timeout
        self.instances = len(models)
        self._free: queue.LifoQueue[LoadedModel] = queue.LifoQueue()
        for model in models:
            self._free.put(model)

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs of a batch, from whichever instance is free."""
        model = self._check_out()
        try:
            return model.predict(inputs)
        except Exception as error:  # a model may raise anything
            raise InferenceError(
                f"{self._label} failed: {type(error).__name__}: {error}"
            ) from error
        finally:
            self._free.put(model)

    def close(self) -> None:
        """Wait for each instance to come back, then free it."""
        for _ in range(self.instances):
            self._check_out().close()

    def _check_out(self) -> LoadedModel:
        try:
            return self._free.get(timeout=self._checkout_timeout)
        except queue.Empty as error:
            raise InferenceError(
                f"No instance of {self._label} came free within {self._checkout_timeout} s."
            ) from error
