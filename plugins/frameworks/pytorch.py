"""PyTorch: TorchScript and ``torch.export`` programs."""

from __future__ import annotations

import zipfile
from typing import Any

from plugins.contracts import LoadedModel, ModelSpec, Signature, Tensors, TensorSpec
from plugins.errors import ArtifactRejected

_DATATYPES = {
    "torch.float32": "FP32",
    "torch.float64": "FP64",
    "torch.float16": "FP16",
    "torch.int64": "INT64",
    "torch.int32": "INT32",
    "torch.bool": "BOOL",
}


class PyTorch:
    """PyTorch models: TorchScript files and torch.export programs (.pt2).

    Args:
        device: Where the model runs, such as ``cpu`` or ``cuda:0``.
        threads: Threads that one operator may use, for the whole process. With more than one,
            calls wait for each other at a barrier as soon as anything else runs.
    """

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        self._device = device
        self._threads = threads

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Return the model of a TorchScript or ``torch.export`` file."""
        exported = _is_exported_program(spec)
        import torch

        torch.set_num_threads(self._threads)
        try:
            if exported:
                program = torch.export.load(spec.path)
                return _TorchModel(program.module(), _exported_signature(program), "cpu")
            module = torch.jit.load(spec.path, map_location=self._device).eval()
        except Exception as error:
            raise ArtifactRejected(
                f"PyTorch cannot load {spec.path.name}: {_first_line(error)}"
            ) from error
        return _TorchModel(module, spec.signature, self._device)


def _is_exported_program(spec: ModelSpec) -> bool:
    """Return whether the file is a ``torch.export`` archive; False: TorchScript.

    Raises:
        ArtifactRejected: It is neither.
    """
    if spec.path.is_dir():
        raise ArtifactRejected(
            f"{spec.path.name} is a directory; a PyTorch model is one file. "
            "For a TensorFlow SavedModel choose the framework tensorflow."
        )
    try:
        with zipfile.ZipFile(spec.path) as archive:
            members = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise ArtifactRejected(
            f"{spec.path.name} is no PyTorch archive, or it is truncated: {error}. Save it with "
            "torch.jit.save or torch.export.save."
        ) from error
    if any(name.startswith("code/") for name in members):
        return False
    if "archive_format" in members or any(name.startswith("models/") for name in members):
        return True
    raise ArtifactRejected(
        f"{spec.path.name} holds neither TorchScript nor a torch.export program; a file of "
        "torch.save(model) or a state_dict cannot be served. Use torch.jit.save or "
        "torch.export.save."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _exported_signature(program: Any) -> Signature | None:
    """Return the signature that a ``torch.export`` program carries."""
    values = {
        node.name: node.meta["val"]
        for node in program.graph.nodes
        if node.meta.get("val") is not None and hasattr(node.meta["val"], "dtype")
    }

    def spec(name: str, value: Any) -> TensorSpec:
        # A symbolic size is a free dimension.
        shape = tuple(n if type(n) is int else -1 for n in value.shape)
        return TensorSpec(name, _DATATYPES.get(str(value.dtype), str(value.dtype)), shape)

    declared = program.graph_signature
    returned = program.call_spec.out_spec
    keys = returned.context if returned.type is dict else None
    return Signature(
        inputs=tuple(spec(name, values[name]) for name in declared.user_inputs if name in values),
        outputs=tuple(
            spec(keys[i] if keys else _output_name(i), values[name])
            for i, name in enumerate(declared.user_outputs)
            if name in values
        ),
    )


def _output_name(position: int) -> str:
    """Return how an output is called to which the model gives no name."""
    return f"output_{position}" if position else "scores"


class _TorchModel:
    """A TorchScript module or an exported program in memory; inputs go in by position."""

    def __init__(self, module: Any, signature: Signature | None, device: str) -> None:
        self._module = module
        self._device = device
        self.signature = signature

    def predict(self, inputs: Tensors) -> Tensors:
        """Return the outputs, named ``scores``, ``output_1``, … where the model names none."""
        import torch

        with torch.inference_mode():
            tensors = [torch.from_numpy(array).to(self._device) for array in inputs.values()]
            result = self._module(*tensors)
        if isinstance(result, dict):
            return {name: value.cpu().numpy() for name, value in result.items()}
        results = result if isinstance(result, (tuple, list)) else (result,)
        return {_output_name(i): value.cpu().numpy() for i, value in enumerate(results)}

    def close(self) -> None:
        """Free the module."""
        self._module = None
