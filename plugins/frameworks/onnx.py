"""ONNX Runtime: ``.onnx`` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins.contracts import LoadedModel, ModelSpec, Signature, Tensors, TensorSpec
from plugins.datatypes import datatype_of
from plugins.errors import ArtifactRejected
from plugins.frameworks.runtime import first_line, import_framework

_ELEMENTS = {"float": "FP32", "double": "FP64", "float16": "FP16"}
_NOTHING_BUT_FATAL = 4


class Onnx:
    """ONNX models, run by ONNX Runtime (an extra: pip install -r requirements/extras.txt).

    An artifact is an ``.onnx`` file, or a directory with one and the files of its external data.

    Args:
        provider: ONNX Runtime's execution provider, such as ``CUDAExecutionProvider``.
        threads: Threads that one operator may use.
    """

    def __init__(self, *, provider: str = "CPUExecutionProvider", threads: int = 1) -> None:
        if threads < 1:
            raise ValueError("threads must be at least 1")
        self._provider = provider
        self._threads = threads

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Return the model of an ``.onnx`` file."""
        path = _model_file(spec.path)
        runtime = import_framework("onnxruntime", "onnxruntime==1.32.0")
        if self._provider not in runtime.get_available_providers():
            raise ArtifactRejected(
                f"ONNX Runtime has no {self._provider} here; it has "
                f"{', '.join(runtime.get_available_providers())}."
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _NOTHING_BUT_FATAL  # errors are raised, too
        try:
            session = runtime.InferenceSession(
                str(path), sess_options=options, providers=[self._provider]
            )
        except Exception as error:
            raise ArtifactRejected(
                f"ONNX Runtime cannot load {spec.path.name}: {first_line(error)} It takes an .onnx "
                "file, as torch.onnx.export, tf2onnx or skl2onnx write it."
            ) from error
        return _OnnxModel(session)


def _model_file(path: Path) -> Path:
    """Return the ``.onnx`` file of an artifact.

    Raises:
        ArtifactRejected: The artifact is a directory without one, or with several.
    """
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.onnx"))
    if len(files) != 1:
        raise ArtifactRejected(
            f"{path.name} is a directory with {len(files)} .onnx files; it must hold one, and the "
            "files of its external data."
        )
    return files[0]


def _spec(value: Any) -> TensorSpec:
    """Return what an input or output of a session is.

    Raises:
        ArtifactRejected: It is no tensor.
    """
    element = value.type.removeprefix("tensor(").removesuffix(")")
    if value.type != f"tensor({element})":
        raise ArtifactRejected(
            f"{value.name} of the ONNX model is {value.type}, not a tensor. A classifier of "
            "skl2onnx returns tensors with the option zipmap=False."
        )
    # A free dimension has a name, or none; a scalar has no batch.
    shape = tuple(n if isinstance(n, int) and n >= 0 else -1 for n in value.shape)
    return TensorSpec(value.name, _ELEMENTS.get(element) or datatype_of(element), shape)


def _as_text(array: NDArray[Any]) -> NDArray[Any]:
    """Return strings as ONNX Runtime takes them: of ``bytes`` it makes the text ``b'…'``."""
    if array.dtype.kind != "O":
        return array
    texts = np.empty(array.shape, dtype=object)
    texts.ravel()[:] = [v.decode() if isinstance(v, bytes) else v for v in array.ravel()]
    return texts


class _OnnxModel:
    """A session of ONNX Runtime; inputs go in by name."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.signature = Signature(
            inputs=tuple(map(_spec, session.get_inputs())),
            outputs=tuple(map(_spec, session.get_outputs())),
        )
        self._outputs = [tensor.name for tensor in self.signature.outputs]

    def predict(self, inputs: Tensors) -> Tensors:
        """Return the outputs by name."""
        results = self._session.run(
            self._outputs, {name: _as_text(array) for name, array in inputs.items()}
        )
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None
