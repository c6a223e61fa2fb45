"""TensorFlow: SavedModel directories."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from plugins.contracts import LoadedModel, ModelSpec, Signature, Tensors, TensorSpec
from plugins.errors import ArtifactRejected

_DATATYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "float16": "FP16",
    "int64": "INT64",
    "int32": "INT32",
    "bool": "BOOL",
    "string": "BYTES",
}


class TensorFlow:
    """TensorFlow SavedModel directories.

    Args:
        signature: Name of the serving signature to call.
        threads: Threads that one operator may use, for the whole process; it can be set only
            before TensorFlow runs for the first time.
    """

    def __init__(self, *, signature: str = "serving_default", threads: int = 1) -> None:
        self._signature = signature
        self._threads = threads

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Return the model of a SavedModel directory."""
        if not (spec.path / "saved_model.pb").is_file():
            raise ArtifactRejected(
                f"{spec.path.name} is no SavedModel: it is not a directory with a saved_model.pb. "
                "Save it with tf.saved_model.save. For a .pt file choose the framework pytorch."
            )
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up notes tell users nothing
        import tensorflow as tf

        with suppress(RuntimeError):  # TensorFlow has run already, with the threads it has
            tf.config.threading.set_intra_op_parallelism_threads(self._threads)
            tf.config.threading.set_inter_op_parallelism_threads(self._threads)
        try:
            loaded = tf.saved_model.load(str(spec.path))
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ArtifactRejected(f"TensorFlow cannot load {spec.path.name}: {reason}") from error
        signatures = loaded.signatures
        if self._signature not in signatures:
            raise ArtifactRejected(
                f"{spec.path.name} has no signature {self._signature!r}; it has "
                f"{', '.join(sorted(signatures)) or 'none'}."
            )
        return _SavedModel(loaded, signatures[self._signature])


def _specs(structure: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=name,
            datatype=_DATATYPES.get(spec.dtype.name, spec.dtype.name),
            shape=tuple(-1 if n is None else int(n) for n in spec.shape),
        )
        for name, spec in structure.items()
    )


class _SavedModel:
    """One signature of a SavedModel in memory; inputs go in by name."""

    def __init__(self, loaded: Any, function: Any) -> None:
        self._loaded = loaded  # the function's variables live only as long as this object
        self._function = function
        self.signature = Signature(
            inputs=_specs(function.structured_input_signature[1]),
            outputs=_specs(function.structured_outputs),
        )

    def predict(self, inputs: Tensors) -> Tensors:
        """Return the signature's outputs by name."""
        import tensorflow as tf

        outputs = self._function(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    def close(self) -> None:
        """Free the model."""
        self._loaded = self._function = None
