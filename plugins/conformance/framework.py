"""What every framework must do, as a test that its author can call."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins.contracts import Framework, ModelSpec, Signature, Tensors, TensorSpec
from plugins.datatypes import DTYPES, datatype_of
from plugins.errors import ArtifactRejected

__all__ = ["check_framework"]

_BATCHES = (1, 7)
_FREE = 3  # what a free dimension other than the batch becomes


def check_framework(
    factory: Callable[[], Framework],
    make_artifact: Callable[[Path], Path],
    *,
    make_inputs: Callable[[int], Tensors] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Check that a framework loads, predicts, rejects and closes as its contract says.

    Args:
        factory: Builds the framework; wrap it in a lambda to give options.
        make_artifact: Writes a sound artifact into an empty directory, and returns its path.
        make_inputs: Returns inputs of so many rows; needed if the artifact declares no signature.
        tolerance: How far a row's result may depend on the rows beside it.

    Raises:
        AssertionError: The framework breaks its contract; the message says where.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = make_artifact(Path(folder))
        spec = ModelSpec(model_name="conformance", version=1, framework="tested", path=path)
        framework = factory()
        model = framework.load(spec)
        signature = model.signature
        if signature is not None:
            _check_signature(signature)
            make_inputs = make_inputs or _inputs_of(signature)
        assert make_inputs is not None, (
            "The artifact declares no signature: give make_inputs to check_framework."
        )
        for batch in _BATCHES:
            _check_batch(model.predict, make_inputs(batch), signature, batch, tolerance)
        if signature is not None:
            _check_order(model.predict, make_inputs(_BATCHES[-1]), tolerance)
        other = framework.load(spec)
        model.close()
        _check_batch(other.predict, make_inputs(1), signature, 1, tolerance)
        other.close()
        _check_rejections(framework, spec)


def _check_signature(signature: Signature) -> None:
    assert isinstance(signature, Signature), f"signature is {signature!r}, not a Signature"
    assert signature.inputs, "The signature declares no input."
    assert signature.outputs, "The signature declares no output."
    for tensors in (signature.inputs, signature.outputs):
        names = [tensor.name for tensor in tensors]
        assert len(set(names)) == len(names), f"The signature names a tensor twice: {names}"
        for tensor in tensors:
            assert isinstance(tensor, TensorSpec), f"{tensor!r} is not a TensorSpec"
            assert tensor.datatype in DTYPES, (
                f"The datatype {tensor.datatype!r} of {tensor.name} is none of {', '.join(DTYPES)}."
            )
            assert tensor.shape, f"{tensor.name} has no dimension; the first is the batch."
            assert all(type(size) is int and size >= -1 for size in tensor.shape), (
                f"The shape {tensor.shape} of {tensor.name} is not made of sizes and -1."
            )


def _inputs_of(signature: Signature) -> Callable[[int], Tensors]:
    """Return a maker of random inputs; the same number of rows gives the same inputs."""

    def make_inputs(batch: int) -> Tensors:
        rng = np.random.default_rng(batch)
        return {tensor.name: _random(rng, tensor, batch) for tensor in signature.inputs}

    return make_inputs


def _random(rng: np.random.Generator, tensor: TensorSpec, batch: int) -> NDArray[Any]:
    shape = (batch, *(_FREE if size == -1 else size for size in tensor.shape[1:]))
    if tensor.datatype.startswith("FP"):
        return rng.standard_normal(shape).astype(DTYPES[tensor.datatype])
    if tensor.datatype == "BYTES":
        return np.full(shape, b"a", dtype=object)
    # 0 and 1 are true and false, and in every table of embeddings.
    return rng.integers(0, 2, shape).astype(DTYPES[tensor.datatype])


def _check_batch(
    predict: Callable[[Tensors], Tensors],
    inputs: Tensors,
    signature: Signature | None,
    batch: int,
    tolerance: float,
) -> None:
    before = {name: array.copy() for name, array in inputs.items()}
    outputs = predict(inputs)
    for name, array in before.items():
        assert np.array_equal(array, inputs[name]), f"predict changed its input {name}."
    assert outputs, "predict returned no output."
    for name, array in outputs.items():
        assert isinstance(array, np.ndarray), f"The output {name} is {type(array)}, not an array."
        assert array.ndim >= 1, f"The output {name} has no batch dimension."
        assert array.shape[0] == batch, f"{name} has {array.shape[0]} rows for {batch} inputs."
    if signature is not None:
        _check_outputs(outputs, signature)
    for row in range(batch):
        alone = predict({name: array[row : row + 1] for name, array in inputs.items()})
        for name, array in outputs.items():
            assert _near(alone[name][0], array[row], tolerance), (
                f"Row {row} of {name} depends on the rows beside it: alone it is "
                f"{alone[name][0]!r}, in the batch {array[row]!r}."
            )


def _check_order(predict: Callable[[Tensors], Tensors], inputs: Tensors, tolerance: float) -> None:
    """Check that inputs are told apart by their names, not by the order in which they come."""
    wanted = predict(inputs)
    for name, array in predict(dict(reversed(list(inputs.items())))).items():
        assert _near(array, wanted[name], tolerance), (
            f"{name} depends on the order in which the inputs come; the signature names them."
        )


def _check_outputs(outputs: Tensors, signature: Signature) -> None:
    declared = {tensor.name: tensor for tensor in signature.outputs}
    assert outputs.keys() == declared.keys(), (
        f"predict returned {sorted(outputs)}; the signature declares {sorted(declared)}."
    )
    for name, array in outputs.items():
        wanted = declared[name].shape
        fits = array.ndim == len(wanted) and all(
            size in {-1, actual} for size, actual in zip(wanted[1:], array.shape[1:], strict=True)
        )
        assert fits, f"{name} has shape {array.shape}; the signature declares {wanted}."
        datatype = declared[name].datatype
        assert datatype_of(array.dtype) == datatype, (
            f"{name} is {datatype_of(array.dtype)}; the signature declares {datatype}."
        )


def _near(a: NDArray[Any], b: NDArray[Any], tolerance: float) -> bool:
    if np.issubdtype(a.dtype, np.number):
        return np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    return np.array_equal(a, b)


def _check_rejections(framework: Framework, spec: ModelSpec) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for what, path in _corrupted(spec.path, Path(folder)):
            broken = ModelSpec(spec.model_name, spec.version, spec.framework, path)
            try:
                framework.load(broken)
            except ArtifactRejected as error:
                if not str(error).strip():
                    raise AssertionError(f"ArtifactRejected for {what} gives no reason.") from error
            except Exception as error:
                raise AssertionError(
                    f"load must raise ArtifactRejected for {what}, not {type(error).__name__}: "
                    f"{error}"
                ) from error
            else:
                raise AssertionError(f"load accepted {what}.")


def _corrupted(sound: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield damaged copies of an artifact, each with a name for it."""
    noise = np.random.default_rng(0).bytes(512)
    if sound.is_dir():
        empty = folder / "empty" / sound.name
        empty.mkdir(parents=True)
        yield "an empty directory", empty
        scrambled = folder / "scrambled" / sound.name
        shutil.copytree(sound, scrambled)
        for file in scrambled.rglob("*"):
            if file.is_file():
                file.write_bytes(noise)
        yield "a directory of scrambled files", scrambled
        halved = folder / "halved" / sound.name
        shutil.copytree(sound, halved)
        for file in halved.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        yield "a directory of files cut in half", halved
        return
    content = sound.read_bytes()
    for what, damaged in {
        "an empty file": b"",
        "random bytes": noise,
        "the first half of a file": content[: math.ceil(len(content) / 2)],
        "a text": b"This is no model.\n",
    }.items():
        path = folder / what.replace(" ", "-") / sound.name
        path.parent.mkdir()
        path.write_bytes(damaged)
        yield what, path
