"""What every executor must do, as a test that its author can call."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from plugins.contracts import Executor, HostedModel, LoadedModel, ModelSpec, Tensors
from plugins.errors import ArtifactRejected, InferenceError
from plugins.frameworks.numpy_linear import NumpyLinear

__all__ = ["check_executor"]

_WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def check_executor(factory: Callable[[], Executor]) -> None:
    """Check that an executor hosts, runs, reports and closes as its contract says.

    The model is a real ``numpy_linear`` artifact: an executor may load it where it likes. For one
    that loads it here, the instances are watched too: each is called by one thread at a time, and
    closed once, when no batch is running.

    Args:
        factory: Builds the executor; wrap it in a lambda to give options.

    Raises:
        AssertionError: The executor breaks its contract; the message says where.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        np.savez(path, weights=_WEIGHTS)
        spec = ModelSpec(model_name="conformance", version=1, framework="numpy_linear", path=path)
        loaded: list[_Watched] = []

        def load() -> LoadedModel:
            loaded.append(_Watched(NumpyLinear().load(spec)))
            return loaded[-1]

        hosted = factory().host(spec, load)
        instances = hosted.instances
        assert isinstance(instances, int), f"instances is {instances!r}, not a number."
        assert instances >= 1, f"instances is {instances}; at least one batch must be able to run."
        for batch in (1, 7):
            _check_run(hosted, batch)
        _check_failure(hosted)
        _check_run(hosted, 2)
        with ThreadPoolExecutor(instances) as threads:
            for run in [threads.submit(_check_run, hosted, batch) for batch in range(1, 33)]:
                run.result()
        _check_close(hosted, loaded)
        _check_rejection(factory(), spec)


class _Watched:
    """A model that notices when it is called as it must not be."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._busy = threading.Lock()
        self.signature = model.signature
        self.running = threading.Event()
        self.delay = 0.0
        self.wrong: list[str] = []
        self.closed = 0

    def predict(self, inputs: Tensors) -> Tensors:
        if not self._busy.acquire(blocking=False):
            self.wrong.append("An instance was called by two threads at once.")
            return self._model.predict(inputs)
        try:
            if self.closed:
                self.wrong.append("An instance was called after it was closed.")
            self.running.set()
            time.sleep(self.delay)
            return self._model.predict(inputs)
        finally:
            self._busy.release()

    def close(self) -> None:
        if self._busy.locked():
            self.wrong.append("An instance was closed while a batch was running.")
        self.closed += 1
        self._model.close()


def _check_run(hosted: HostedModel, batch: int) -> None:
    rows = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
    outputs = hosted.run({"features": rows})
    assert list(outputs) == ["scores"], f"run returned {sorted(outputs)}, not the model's scores."
    assert np.allclose(outputs["scores"], rows @ _WEIGHTS, atol=1e-5), (
        "run returned other scores than the model's."
    )


def _check_failure(hosted: HostedModel) -> None:
    try:
        hosted.run({"features": np.zeros((1, 5), dtype=np.float32)})
    except InferenceError as error:
        if error.__cause__ is None:
            raise AssertionError("InferenceError must have the model's error as cause.") from error
    except Exception as error:
        raise AssertionError(
            f"When the model raises, run must raise InferenceError, not {type(error).__name__}."
        ) from error
    else:
        raise AssertionError("run returned scores for inputs that the model refuses.")


def _check_close(hosted: HostedModel, loaded: list[_Watched]) -> None:
    for model in loaded:
        model.delay = 0.1
        model.running.clear()
    with ThreadPoolExecutor(1) as threads:
        last = threads.submit(_check_run, hosted, 3)
        _wait_until_running(loaded)
        hosted.close()
        last.result()
    for model in loaded:
        assert not model.wrong, " ".join(model.wrong)
        assert model.closed == 1, f"close closed an instance {model.closed} times, not once."


def _wait_until_running(loaded: list[_Watched]) -> None:
    """Wait until one instance runs; a model loaded elsewhere cannot be watched."""
    deadline = time.monotonic() + 5.0
    while loaded and not any(model.running.is_set() for model in loaded):
        assert time.monotonic() < deadline, "run has not called the model within 5 s."
        time.sleep(0.001)
    if not loaded:
        time.sleep(0.1)


def _check_rejection(executor: Executor, spec: ModelSpec) -> None:
    spec.path.write_bytes(b"This is no model.\n")
    try:
        executor.host(spec, lambda: NumpyLinear().load(spec))
    except ArtifactRejected:
        return
    except Exception as error:
        raise AssertionError(
            f"host must raise ArtifactRejected for a damaged artifact, not {type(error).__name__}."
        ) from error
    raise AssertionError("host accepted a damaged artifact.")
