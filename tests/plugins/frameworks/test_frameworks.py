"""The built-in frameworks, on real files of PyTorch, TensorFlow and NumPy."""

import dataclasses

import numpy as np
import pytest

from plugins import ArtifactRejected, ModelSpec, Signature, TensorSpec
from plugins.conformance import check_framework
from plugins.frameworks.numpy_linear import NumpyLinear
from plugins.frameworks.pytorch import PyTorch
from plugins.frameworks.tensorflow import TensorFlow
from serving_app.demo import export

pytestmark = pytest.mark.contract("S2")

RNG = np.random.default_rng(3)
ITEM_FACTORS = RNG.standard_normal((50, 8)).astype(np.float32)
BIAS = RNG.standard_normal(50).astype(np.float32)
NAMES = tuple(f"f{i}" for i in range(8))


def numpy_file(folder):
    path = folder / "m.npz"
    export.export_numpy(path, ITEM_FACTORS, BIAS, NAMES)
    return path


def torchscript_file(folder):
    path = folder / "m.pt"
    export.export_torchscript(path, ITEM_FACTORS, BIAS)
    return path


def exported_program_file(folder):
    path = folder / "m.pt2"
    export.export_torch_export(path, ITEM_FACTORS, BIAS)
    return path


def saved_model(folder):
    path = folder / "m"
    export.export_saved_model(path, ITEM_FACTORS, BIAS)
    return path


CASES = [
    pytest.param(NumpyLinear, numpy_file, id="numpy_linear"),
    pytest.param(
        PyTorch, torchscript_file, id="torchscript", marks=pytest.mark.xdist_group("torch")
    ),
    pytest.param(
        PyTorch, exported_program_file, id="torch_export", marks=pytest.mark.xdist_group("torch")
    ),
    pytest.param(
        TensorFlow, saved_model, id="tensorflow", marks=pytest.mark.xdist_group("tensorflow")
    ),
]


@pytest.mark.parametrize(("framework", "make"), CASES)
def test_a_framework_keeps_the_contract(framework, make):
    check_framework(
        framework,
        make,
        make_inputs=lambda batch: {"features": RNG.standard_normal((batch, 8)).astype(np.float32)},
    )


@pytest.mark.parametrize(("framework", "make"), CASES)
def test_scores_are_those_of_the_weights_and_the_signature_says_what_is_taken(
    framework, make, tmp_path
):
    spec = ModelSpec("m", 1, "x", make(tmp_path))
    model = framework().load(spec)
    rows = RNG.standard_normal((5, 8)).astype(np.float32)
    name = model.signature.inputs[0].name if model.signature else "features"
    scores = next(iter(model.predict({name: rows}).values()))
    np.testing.assert_allclose(scores, rows @ ITEM_FACTORS.T + BIAS, rtol=1e-4, atol=1e-5)
    if model.signature is not None:
        assert [s.shape for s in model.signature.inputs] == [(-1, 8)]
        assert [s.shape for s in model.signature.outputs] == [(-1, 50)]
        assert model.signature.inputs[0].datatype == "FP32"
    model.close()


@pytest.mark.xdist_group("torch")
def test_torchscript_declares_no_signature_so_the_registered_one_is_kept(tmp_path):
    signature = Signature((TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("y", "FP32", (-1, 50)),))
    spec = ModelSpec("m", 1, "pytorch", torchscript_file(tmp_path), signature=signature)
    assert PyTorch().load(spec).signature == signature
    assert PyTorch().load(dataclasses.replace(spec, signature=None)).signature is None


@pytest.mark.xdist_group("torch")
def test_a_pickled_module_is_refused_and_never_unpickled(tmp_path):
    import torch

    path = tmp_path / "eager.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ArtifactRejected, match=r"torch\.save"):
        PyTorch().load(ModelSpec("m", 1, "pytorch", path))


@pytest.mark.xdist_group("tensorflow")
def test_an_unknown_serving_signature_is_named(tmp_path):
    with pytest.raises(ArtifactRejected, match="no signature 'other'; it has serving_default"):
        TensorFlow(signature="other").load(ModelSpec("m", 1, "tensorflow", saved_model(tmp_path)))
