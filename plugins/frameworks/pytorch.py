"""PyTorch: ``torch.export`` programs, AOTInductor packages and TorchScript."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins.contracts import LoadedModel, ModelSpec, Signature, Tensors, TensorSpec
from plugins.datatypes import datatype_of
from plugins.errors import ArtifactRejected
from plugins.frameworks.runtime import first_line, import_framework
from plugins.frameworks.torch_archive import TorchFormat, format_of, refuse_pickles


class PyTorch:
    """PyTorch models: torch.export programs and AOTInductor packages (.pt2), TorchScript (.pt).

    Which of them a file is, its content says. Nothing in it is unpickled.

    Args:
        device: Where the model runs, such as ``cpu`` or ``cuda:0``. An AOTInductor package runs
            where it was compiled for.
        threads: Threads that one operator may use, for the whole process. With more than one,
            calls wait for each other at a barrier as soon as anything else runs.
    """

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        self._device = device
        self._threads = threads

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Return the model of a file, in whichever of the three formats it is."""
        kind = format_of(spec.path)
        torch = import_framework("torch", "torch")
        torch.set_num_threads(self._threads)
        load = {
            TorchFormat.TORCHSCRIPT: self._torchscript,
            TorchFormat.EXPORTED: self._exported,
            TorchFormat.COMPILED: self._compiled,
        }[kind]
        try:
            return load(spec, torch)
        except ArtifactRejected:
            raise
        except Exception as error:
            raise ArtifactRejected(
                f"PyTorch cannot load {spec.path.name} ({kind.value}): {first_line(error)}"
            ) from error

    def _torchscript(self, spec: ModelSpec, torch: Any) -> LoadedModel:
        module = torch.jit.load(spec.path, map_location=self._device).eval()
        # Argument 0 is the module itself. TorchScript knows their names, but no shapes.
        taken = [argument.name for argument in module.forward.schema.arguments[1:]]
        return _TorchModel(module, spec.signature, taken=taken, device=self._device)

    def _exported(self, spec: ModelSpec, torch: Any) -> LoadedModel:
        refuse_pickles(spec.path, torch)
        program = torch.export.load(spec.path)
        if self._device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, self._device)
        signature = _exported_signature(program)
        return _TorchModel(
            program.module(),
            signature,
            taken=[tensor.name for tensor in signature.inputs],
            by_name=_keywords(program.call_spec.in_spec, spec.path.name),
            device=self._device,
        )

    def _compiled(self, spec: ModelSpec, torch: Any) -> LoadedModel:
        # Without it, compiled code reads beyond an input that is too small.
        os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
        package = torch._inductor.aoti_load_package(str(spec.path))  # noqa: SLF001  (its only door)
        in_spec = torch.utils._pytree.treespec_loads(package.loader.get_call_spec()[0])  # noqa: SLF001
        return _TorchModel(
            package,
            spec.signature,
            taken=[tensor.name for tensor in spec.signature.inputs] if spec.signature else (),
            by_name=_keywords(in_spec, spec.path.name),
            device=package.get_metadata().get("AOTI_DEVICE_KEY", "cpu"),
            least=2,  # what the compiler takes every free size for; the checks hold to it
        )


def _keywords(in_spec: Any, name: str) -> Sequence[str]:
    """Return which inputs a program takes by name; the others it takes by position, before them.

    Raises:
        ArtifactRejected: One of its arguments is not a tensor, but a structure of them.
    """
    positional, by_name = in_spec.children()
    if any(not child.is_leaf() for child in (*positional.children(), *by_name.children())):
        raise ArtifactRejected(
            f"{name} takes lists or dicts of tensors; every input must be a tensor of its own."
        )
    return tuple(by_name.context or ())


def _exported_signature(program: Any) -> Signature:
    """Return the signature that a ``torch.export`` program carries."""
    values = {
        node.name: node.meta["val"]
        for node in program.graph.nodes
        if node.meta.get("val") is not None and hasattr(node.meta["val"], "dtype")
    }

    def spec(name: str, value: Any) -> TensorSpec:
        # A symbolic size is a free dimension.
        shape = tuple(n if type(n) is int else -1 for n in value.shape)
        return TensorSpec(name, datatype_of(str(value.dtype).removeprefix("torch.")), shape)

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
    """A PyTorch model in memory.

    Args:
        call: Takes and returns tensors.
        signature: What it takes and returns, if that is known.
        taken: The names of the inputs; where they come by others, they go in as they come.
        by_name: Those that ``call`` takes by name.
        device: Where the tensors must be.
        least: The fewest rows that ``call`` takes; a smaller batch repeats its last row.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        signature: Signature | None,
        *,
        taken: Sequence[str],
        by_name: Sequence[str] = (),
        device: str,
        least: int = 1,
    ) -> None:
        self._call: Callable[..., Any] | None = call
        self._taken = tuple(taken)
        self._by_name = frozenset(by_name)
        self._device = device
        self._least = least
        self.signature = signature

    def predict(self, inputs: Tensors) -> Tensors:
        """Return the outputs, named ``scores``, ``output_1``, … where the model names none."""
        import torch

        assert self._call is not None, "a closed model is not called"
        # A thread keeps to the limit of threads only once it asked for it, or ran a large operator.
        # Until then the small ones take all cores, and wait for each other at barriers.
        torch.get_num_threads()
        rows = len(next(iter(inputs.values())))
        if rows < self._least:
            more = self._least - rows
            filled = {n: np.concatenate([a, *[a[-1:]] * more]) for n, a in inputs.items()}
            return {name: array[:rows] for name, array in self.predict(filled).items()}
        names = self._taken if inputs.keys() == set(self._taken) else inputs
        with torch.inference_mode():
            tensors = {
                name: torch.from_numpy(_owned(inputs[name])).to(self._device) for name in names
            }
            named = {name: tensors.pop(name) for name in self._by_name if name in tensors}
            result = self._call(*tensors.values(), **named)
        if hasattr(result, "_asdict"):
            result = result._asdict()
        if isinstance(result, dict):
            return {name: value.cpu().numpy() for name, value in result.items()}
        results = result if isinstance(result, (tuple, list)) else (result,)
        return {_output_name(i): value.cpu().numpy() for i, value in enumerate(results)}

    def close(self) -> None:
        """Free the model."""
        self._call = None


def _owned(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that PyTorch can wrap: one that may be written, without negative strides."""
    return array if array.flags.writeable and array.flags.c_contiguous else np.array(array)
