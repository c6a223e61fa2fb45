"""The built-in frameworks, on real files of PyTorch, TensorFlow, Keras, ONNX and NumPy."""

import ctypes
import dataclasses
import shutil
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from plugins import ArtifactRejected, ModelSpec, Signature, TensorSpec
from plugins.conformance import check_framework
from plugins.frameworks.numpy_linear import NumpyLinear
from plugins.frameworks.onnx import Onnx
from plugins.frameworks.pytorch import PyTorch
from plugins.frameworks.tensorflow import TensorFlow
from tests.plugins.frameworks import artifacts
from tests.plugins.frameworks.artifacts import BIAS, ITEM_FACTORS, RNG, towers_inputs

pytestmark = pytest.mark.contract("S2")


def case(framework, make, group=None):
    marks = [pytest.mark.xdist_group(group)] if group else []
    return pytest.param(framework, make, id=make.__name__, marks=marks)


LINEAR = [
    case(NumpyLinear, artifacts.linear_numpy),
    case(PyTorch, artifacts.linear_torchscript, "torch"),
    case(PyTorch, artifacts.linear_exported, "torch"),
    case(TensorFlow, artifacts.linear_saved_model, "tensorflow"),
    case(TensorFlow, artifacts.linear_keras, "tensorflow"),
    case(Onnx, artifacts.linear_onnx),
]
TOWERS = [
    case(PyTorch, artifacts.towers_torchscript, "torch"),
    case(PyTorch, artifacts.towers_exported, "torch"),
    case(TensorFlow, artifacts.towers_saved_model, "tensorflow"),
    case(TensorFlow, artifacts.towers_keras, "tensorflow"),
    case(Onnx, artifacts.towers_onnx),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """An AOTInductor package of the towers model."""
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor compiles with g++, which is not here.")
    path = tmp_path_factory.mktemp("compiled") / "m.pt2"
    artifacts.towers_compiled(path)
    return path


@pytest.mark.contract("S4")
@pytest.mark.parametrize(("framework", "make"), LINEAR)
def test_a_framework_keeps_the_contract(framework, make):
    check_framework(
        framework,
        make,
        make_inputs=lambda batch: {"features": RNG.standard_normal((batch, 8)).astype(np.float32)},
    )


@pytest.mark.contract("S4")
@pytest.mark.parametrize(("framework", "make"), TOWERS)
def test_a_framework_keeps_the_contract_with_several_inputs(framework, make):
    check_framework(framework, make, make_inputs=towers_inputs)


@pytest.mark.contract("S4")
@pytest.mark.xdist_group("torch")
def test_a_compiled_package_keeps_the_contract(compiled):
    check_framework(
        PyTorch,
        lambda folder: shutil.copy(compiled, folder / "m.pt2"),
        make_inputs=towers_inputs,
    )


@pytest.mark.parametrize(("framework", "make"), LINEAR)
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


TOWERS_SIGNATURE = Signature(
    inputs=(
        TensorSpec("dense", "FP32", (-1, 3)),
        TensorSpec("city", "INT64", (-1,)),
        TensorSpec("history", "INT64", (-1, -1)),
    ),
    outputs=(TensorSpec("scores", "FP32", (-1, 5)), TensorSpec("vector", "FP32", (-1, 4))),
)


def agrees_with_numpy(model):
    for batch, length in ((1, 1), (1, 6), (4, 6), (5, 2)):
        inputs = towers_inputs(batch, length, seed=batch)
        wanted = artifacts.towers(inputs)
        for order in (inputs, dict(reversed(inputs.items()))):
            got = model.predict(order)
            assert got.keys() == wanted.keys()
            for name, array in got.items():
                np.testing.assert_allclose(array, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.contract("S7")
@pytest.mark.parametrize(("framework", "make"), TOWERS)
def test_several_inputs_of_several_kinds_are_told_apart_by_their_names(framework, make, tmp_path):
    model = framework().load(ModelSpec("m", 1, "x", make(tmp_path)))
    agrees_with_numpy(model)
    if model.signature is not None:
        assert set(model.signature.inputs) == set(TOWERS_SIGNATURE.inputs)
        assert set(model.signature.outputs) == set(TOWERS_SIGNATURE.outputs)
    model.close()


@pytest.mark.contract("S7")
@pytest.mark.xdist_group("torch")
def test_a_compiled_package_takes_the_registered_signature_and_checks_what_comes(compiled):
    spec = ModelSpec("m", 1, "pytorch", compiled, signature=TOWERS_SIGNATURE)
    model = PyTorch().load(spec)
    assert model.signature == TOWERS_SIGNATURE
    inputs = towers_inputs(3)
    for name, array in model.predict(inputs).items():
        np.testing.assert_allclose(array, artifacts.towers(inputs)[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError):  # and not a read beyond the end of the row
        model.predict({**inputs, "dense": np.zeros((3, 2), np.float32)})
    model.close()


@pytest.mark.xdist_group("torch")
def test_torchscript_declares_no_signature_so_the_registered_one_is_kept(tmp_path):
    signature = Signature((TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("y", "FP32", (-1, 50)),))
    path = artifacts.linear_torchscript(tmp_path)
    spec = ModelSpec("m", 1, "pytorch", path, signature=signature)
    assert PyTorch().load(spec).signature == signature
    assert PyTorch().load(dataclasses.replace(spec, signature=None)).signature is None


@pytest.mark.contract("S3")
@pytest.mark.xdist_group("torch")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Only Linux says what is loaded.")
def test_a_small_operator_on_a_new_thread_keeps_to_the_limit_of_threads(tmp_path):
    model = PyTorch().load(ModelSpec("m", 1, "pytorch", artifacts.linear_torchscript(tmp_path)))
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    openmp = [path for path in loaded if "/torch/" in path and "libgomp" in path]
    if not openmp:
        pytest.skip("This PyTorch brings no OpenMP of GNU's.")
    library = ctypes.CDLL(openmp[0])
    limits = []

    def run():
        library.omp_set_num_threads(3)  # what it would take: as many as there are cores
        model.predict({"features": np.zeros((1, 8), np.float32)})
        limits.append(library.omp_get_max_threads())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert limits == [1]


@pytest.mark.xdist_group("torch")
def test_a_pickled_module_is_refused_and_never_unpickled(tmp_path):
    import torch

    path = tmp_path / "eager.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ArtifactRejected, match=r"torch\.save"):
        PyTorch().load(ModelSpec("m", 1, "pytorch", path))


class Bomb:
    """Pickled, it writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.xdist_group("torch")
@pytest.mark.parametrize("member", ["data/sample_inputs/model.pt", "data/weights/model.pt"])
def test_an_exported_program_with_a_pickle_in_it_is_refused_and_never_unpickled(tmp_path, member):
    import torch

    sound = artifacts.linear_exported(tmp_path)
    pickled = tmp_path / "bomb"
    torch.save((Bomb(tmp_path / "boom"),), pickled)
    bad = tmp_path / "bad.pt2"
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            if not name.endswith(member):
                new.writestr(name, old.read(name))
        new.writestr(f"m/{member}", pickled.read_bytes())
    with pytest.raises(ArtifactRejected, match="without running a pickle"):
        PyTorch().load(ModelSpec("m", 1, "pytorch", bad))
    assert not (tmp_path / "boom").exists()


@pytest.mark.xdist_group("torch")
def test_weights_that_are_stored_as_a_pickle_are_refused(tmp_path):
    sound = artifacts.linear_exported(tmp_path)
    bad = tmp_path / "bad.pt2"
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            content = old.read(name).replace(b'"use_pickle": false', b'"use_pickle": true')
            new.writestr(name, content)
    with pytest.raises(ArtifactRejected, match="stored as a pickle"):
        PyTorch().load(ModelSpec("m", 1, "pytorch", bad))


@pytest.mark.xdist_group("torch")
def test_the_old_layout_of_exported_programs_is_refused(tmp_path):
    path = tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("serialized_exported_program.json", "serialized_state_dict.pt", "version"):
            archive.writestr(name, b"{}")
    with pytest.raises(ArtifactRejected, match="of this release"):
        PyTorch().load(ModelSpec("m", 1, "pytorch", path))


@pytest.mark.xdist_group("tensorflow")
def test_an_unknown_serving_signature_is_named(tmp_path):
    path = artifacts.linear_saved_model(tmp_path)
    with pytest.raises(ArtifactRejected, match="no signature 'other'; it has serving_default"):
        TensorFlow(signature="other").load(ModelSpec("m", 1, "tensorflow", path))


@pytest.mark.xdist_group("tensorflow")
def test_a_keras_model_with_code_in_it_is_refused(tmp_path):
    import keras

    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs))
    model.save(tmp_path / "m.keras")
    with pytest.raises(ArtifactRejected, match="Lambda"):
        TensorFlow().load(ModelSpec("m", 1, "tensorflow", tmp_path / "m.keras"))


def test_the_old_format_of_keras_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ArtifactRejected, match="old format"):
        TensorFlow().load(ModelSpec("m", 1, "tensorflow", tmp_path / "m.h5"))


@pytest.mark.parametrize(
    ("framework", "make"),
    [
        (PyTorch, artifacts.linear_numpy),
        (PyTorch, artifacts.linear_onnx),
        (TensorFlow, artifacts.linear_numpy),
        (TensorFlow, artifacts.linear_onnx),
        (Onnx, artifacts.linear_numpy),
        (NumpyLinear, artifacts.linear_onnx),
    ],
)
def test_a_file_of_another_format_is_refused_with_a_reason(framework, make, tmp_path):
    path = make(tmp_path)
    with pytest.raises(ArtifactRejected, match=path.name):
        framework().load(ModelSpec("m", 1, "x", path))


@pytest.mark.parametrize(
    ("framework", "module", "make"),
    [
        (Onnx, "onnxruntime", artifacts.linear_onnx),
        (PyTorch, "torch", artifacts.linear_torchscript),
        (TensorFlow, "tensorflow", artifacts.linear_saved_model),
    ],
)
def test_a_framework_that_is_not_installed_says_how_to_install_it(
    framework, module, make, tmp_path, monkeypatch
):
    path = make(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ArtifactRejected, match=f"pip install {module}"):
        framework().load(ModelSpec("m", 1, "x", path))


def test_an_onnx_model_may_be_a_directory_with_its_external_data(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = artifacts.linear_onnx(folder)
    assert Onnx().load(ModelSpec("m", 1, "onnx", folder)).signature is not None
    shutil.copy(path, folder / "second.onnx")
    with pytest.raises(ArtifactRejected, match=r"2 \.onnx files"):
        Onnx().load(ModelSpec("m", 1, "onnx", folder))


def test_an_execution_provider_that_is_not_here_is_named(tmp_path):
    path = artifacts.linear_onnx(tmp_path)
    with pytest.raises(ArtifactRejected, match="has no NoSuchProvider here; it has"):
        Onnx(provider="NoSuchProvider").load(ModelSpec("m", 1, "onnx", path))


@pytest.mark.contract("A6")
def test_strings_go_through_onnx_runtime_as_they_are(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import helper

    def described(name):
        return [helper.make_tensor_value_info(name, onnx.TensorProto.STRING, ["n", 2])]

    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", described("x"), described("y"))
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m.onnx")
    loaded = Onnx().load(ModelSpec("m", 1, "onnx", tmp_path / "m.onnx"))
    given = np.array([[b"", b"a"], ["é\0".encode(), "💥".encode()]], dtype=object)
    assert loaded.predict({"x": given})["y"].tolist() == [["", "a"], ["é\0", "💥"]]
    assert loaded.predict({"x": given[:0]})["y"].shape == (0, 2)
    loaded.close()
