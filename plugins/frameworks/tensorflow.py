"""TensorFlow: SavedModel directories and ``.keras`` files."""

from __future__ import annotations

import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from plugins.contracts import LoadedModel, ModelSpec, Signature, Tensors, TensorSpec
from plugins.datatypes import datatype_of
from plugins.errors import ArtifactRejected
from plugins.frameworks.runtime import first_line, import_framework

_KERAS_MEMBERS = frozenset({"metadata.json", "config.json"})


class TensorFlow:
    """TensorFlow SavedModel directories and Keras models (.keras).

    A ``.keras`` file is loaded in Keras's safe mode: layers with code of their own (``Lambda``) are
    refused. Save such a model as a SavedModel, by ``model.export``.

    Args:
        signature: Name of a SavedModel's serving signature to call.
        threads: Threads that one operator may use, for the whole process; it can be set only
            before TensorFlow runs for the first time.
    """

    def __init__(self, *, signature: str = "serving_default", threads: int = 1) -> None:
        self._signature = signature
        self._threads = threads

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Return the model of a SavedModel directory or a ``.keras`` file."""
        keras = _is_keras(spec.path)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up notes tell users nothing
        tf = import_framework("tensorflow", "tensorflow")
        with suppress(RuntimeError):  # TensorFlow has run already, with the threads it has
            tf.config.threading.set_intra_op_parallelism_threads(self._threads)
            tf.config.threading.set_inter_op_parallelism_threads(self._threads)
        try:
            return self._keras(spec, tf) if keras else self._saved_model(spec, tf)
        except ArtifactRejected:
            raise
        except Exception as error:
            raise ArtifactRejected(
                f"TensorFlow cannot load {spec.path.name}: {first_line(error)}"
            ) from error

    def _saved_model(self, spec: ModelSpec, tf: Any) -> LoadedModel:
        loaded = tf.saved_model.load(str(spec.path))
        if self._signature not in loaded.signatures:
            raise ArtifactRejected(
                f"{spec.path.name} has no signature {self._signature!r}; it has "
                f"{', '.join(sorted(loaded.signatures)) or 'none'}."
            )
        return _SavedModel(loaded, loaded.signatures[self._signature])

    def _keras(self, spec: ModelSpec, tf: Any) -> LoadedModel:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        keras = import_framework("keras", "keras")
        model = keras.saving.load_model(spec.path, compile=False, safe_mode=True)
        if not getattr(model, "inputs", None):
            raise ArtifactRejected(
                f"{spec.path.name} is a Keras model that declares no inputs. Build it with the "
                "functional API, or save it as a SavedModel by model.export."
            )
        return _KerasModel(model, tf, keras)


def _is_keras(path: Path) -> bool:
    """Return whether the artifact is a ``.keras`` file; False: a SavedModel.

    Raises:
        ArtifactRejected: It is neither.
    """
    if (path / "saved_model.pb").is_file():
        return False
    if path.is_file() and path.suffix == ".keras":
        try:
            with zipfile.ZipFile(path) as archive:
                if set(archive.namelist()) >= _KERAS_MEMBERS:
                    return True
        except (zipfile.BadZipFile, OSError) as error:
            raise ArtifactRejected(
                f"{path.name} is no Keras archive, or it is truncated: {error}. Save it with "
                "model.save('….keras')."
            ) from error
    if path.suffix in {".h5", ".hdf5"}:
        raise ArtifactRejected(
            f"{path.name} is of Keras's old format, which may hold code. Load it where you trust "
            "it, and save it with model.save('….keras')."
        )
    raise ArtifactRejected(
        f"{path.name} is no SavedModel: it is not a directory with a saved_model.pb; and it is no "
        ".keras file. Save it with tf.saved_model.save or model.save('….keras'). For a .pt or .pt2 "
        "file choose the framework pytorch, for an .onnx file the framework onnx."
    )


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
    shape = tuple(-1 if n is None else int(n) for n in tensor.shape)
    return TensorSpec(name, datatype_of(dtype), shape)


class _SavedModel:
    """One signature of a SavedModel in memory; inputs go in by name."""

    def __init__(self, loaded: Any, function: Any) -> None:
        self._loaded = loaded  # the function's variables live only as long as this object
        self._function = function
        taken = function.structured_input_signature[1]
        self.signature = Signature(
            inputs=tuple(_spec(name, tensor) for name, tensor in taken.items()),
            outputs=tuple(
                _spec(name, tensor) for name, tensor in function.structured_outputs.items()
            ),
        )

    def predict(self, inputs: Tensors) -> Tensors:
        """Return the signature's outputs by name."""
        import tensorflow as tf

        outputs = self._function(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    def close(self) -> None:
        """Free the model."""
        self._loaded = self._function = None


class _KerasModel:
    """A Keras model in memory, compiled into one TensorFlow function."""

    def __init__(self, model: Any, tf: Any, keras: Any) -> None:
        self._pack = keras.tree.pack_sequence_as
        self._structure = model.input
        names = [tensor.name for tensor in model.inputs]
        inputs = tuple(map(_spec, names, model.inputs))
        returned = model.output
        if isinstance(returned, dict):
            outputs = tuple(_spec(name, tensor) for name, tensor in returned.items())
        else:
            outputs = tuple(map(_spec, model.output_names, model.outputs))
        self.signature = Signature(inputs, outputs)

        def call(*tensors: Any) -> dict[str, Any]:
            result = model(self._pack(self._structure, list(tensors)), training=False)
            if isinstance(result, dict):
                return result
            results = result if isinstance(result, (list, tuple)) else [result]
            return {spec.name: value for spec, value in zip(outputs, results, strict=True)}

        # One trace for every batch size: a free dimension is None to TensorFlow.
        self._function: Any = tf.function(
            call,
            input_signature=[
                tf.TensorSpec([None if n == -1 else n for n in spec.shape], tensor.dtype, spec.name)
                for spec, tensor in zip(inputs, model.inputs, strict=True)
            ],
        )
        self._function.get_concrete_function()

    def predict(self, inputs: Tensors) -> Tensors:
        """Return the model's outputs by name."""
        import tensorflow as tf

        tensors = [tf.constant(inputs[spec.name]) for spec in self.signature.inputs]
        return {name: value.numpy() for name, value in self._function(*tensors).items()}

    def close(self) -> None:
        """Free the model."""
        self._function = self._structure = None
