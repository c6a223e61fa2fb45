"""Real artifacts of two models, in the format of every framework.

The *linear* model takes ``features (batch, 8)`` and returns ``scores (batch, 50)``. The *towers*
model takes ``dense (batch, 3) float32``, ``city (batch,) int64`` and ``history (batch, length)
int64`` with zeros as padding, and returns ``scores (batch, 5)`` and ``vector (batch, 4)``.
"""

import subprocess
import sys

import numpy as np
import pytest

from serving_app.demo import export

RNG = np.random.default_rng(3)
ITEM_FACTORS = RNG.standard_normal((50, 8)).astype(np.float32)
BIAS = RNG.standard_normal(50).astype(np.float32)
NAMES = tuple(f"f{i}" for i in range(8))

CITIES, ITEMS = 10, 20
DENSE = RNG.standard_normal((3, 4)).astype(np.float32)
CITY = RNG.standard_normal((CITIES, 4)).astype(np.float32)
HISTORY = RNG.standard_normal((ITEMS, 4)).astype(np.float32)
HISTORY[0] = 0  # the padding
OUT = RNG.standard_normal((4, 5)).astype(np.float32)


def towers(inputs):
    """Return what the towers model returns, worked out by NumPy."""
    vector = inputs["dense"] @ DENSE + CITY[inputs["city"]] + HISTORY[inputs["history"]].sum(1)
    return {"scores": vector @ OUT, "vector": vector}


def towers_inputs(batch, length=6, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dense": rng.standard_normal((batch, 3)).astype(np.float32),
        "city": rng.integers(0, CITIES, batch),
        "history": rng.integers(0, ITEMS, (batch, length)),
    }


def linear_numpy(folder):
    path = folder / "m.npz"
    export.export_numpy(path, ITEM_FACTORS, BIAS, NAMES)
    return path


def linear_torchscript(folder):
    path = folder / "m.pt"
    export.export_torchscript(path, ITEM_FACTORS, BIAS)
    return path


def linear_exported(folder):
    path = folder / "m.pt2"
    export.export_torch_export(path, ITEM_FACTORS, BIAS)
    return path


def linear_saved_model(folder):
    path = folder / "m"
    export.export_saved_model(path, ITEM_FACTORS, BIAS)
    return path


def linear_keras(folder):
    import keras

    inputs = keras.Input((8,), name="features")
    layer = keras.layers.Dense(50, name="scores")
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([ITEM_FACTORS.T, BIAS])
    model.save(folder / "m.keras")
    return folder / "m.keras"


def _onnx(path, nodes, inputs, outputs, constants):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    kinds = {np.float32: onnx.TensorProto.FLOAT, np.int64: onnx.TensorProto.INT64}

    def described(tensors):
        return [
            helper.make_tensor_value_info(name, kinds[kind], shape)
            for name, (kind, shape) in tensors.items()
        ]

    graph = helper.make_graph(
        [helper.make_node(kind, takes, gives, **more) for kind, takes, gives, more in nodes],
        "g",
        described(inputs),
        described(outputs),
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def linear_onnx(folder):
    return _onnx(
        folder / "m.onnx",
        [
            ("MatMul", ["features", "w"], ["product"], {}),
            ("Add", ["product", "b"], ["scores"], {}),
        ],
        {"features": (np.float32, ["batch", 8])},
        {"scores": (np.float32, ["batch", 50])},
        {"w": np.ascontiguousarray(ITEM_FACTORS.T), "b": BIAS},
    )


def _towers_module():
    import torch

    class Towers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, array in (("d", DENSE), ("c", CITY), ("h", HISTORY), ("o", OUT)):
                self.register_buffer(name, torch.from_numpy(array))

        def forward(self, dense: torch.Tensor, city: torch.Tensor, history: torch.Tensor):
            vector = dense @ self.d + self.c[city] + self.h[history].sum(1)
            return {"scores": vector @ self.o, "vector": vector}

    return Towers().eval()


def towers_torchscript(folder):
    import torch

    torch.jit.script(_towers_module()).save(str(folder / "m.pt"))
    return folder / "m.pt"


def towers_program():
    """Return the towers model as an exported program; ``history`` is taken by name."""
    import torch

    batch = torch.export.Dim("batch", min=1)
    length = torch.export.Dim("length", min=1)
    example = {name: torch.from_numpy(array) for name, array in towers_inputs(2).items()}
    return torch.export.export(
        _towers_module(),
        (example["dense"], example["city"]),
        {"history": example["history"]},
        dynamic_shapes={"dense": {0: batch}, "city": {0: batch}, "history": {0: batch, 1: length}},
    )


def towers_exported(folder):
    import torch

    torch.export.save(towers_program(), folder / "m.pt2")
    return folder / "m.pt2"


def towers_compiled(path):
    """Compile the towers model, in a process of its own: the compiler warns of its own code."""
    code = (
        "import sys, torch\n"
        "from tests.plugins.frameworks.artifacts import towers_program\n"
        "torch._inductor.aoti_compile_and_package(towers_program(), package_path=sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=300)


def towers_saved_model(folder):
    import tensorflow as tf

    module = tf.Module()
    module.tables = [tf.Variable(a, trainable=False) for a in (DENSE, CITY, HISTORY, OUT)]

    def score(dense, city, history):
        d, c, h, o = module.tables
        summed = tf.reduce_sum(tf.gather(h, history), axis=1)
        vector = dense @ d + tf.gather(c, city) + summed
        return {"scores": vector @ o, "vector": vector}

    taken = [
        tf.TensorSpec([None, 3], tf.float32, "dense"),
        tf.TensorSpec([None], tf.int64, "city"),
        tf.TensorSpec([None, None], tf.int64, "history"),
    ]
    function = tf.function(score, input_signature=taken, autograph=False)
    tf.saved_model.save(module, str(folder / "m"), signatures={"serving_default": function})
    return folder / "m"


def towers_keras(folder):
    import keras

    dense = keras.Input((3,), name="dense")
    city = keras.Input((), dtype="int64", name="city")
    history = keras.Input((None,), dtype="int64", name="history")
    tables = {
        "d": keras.layers.Dense(4, use_bias=False, name="d"),
        "c": keras.layers.Embedding(CITIES, 4, name="c"),
        "h": keras.layers.Embedding(ITEMS, 4, name="h"),
        "o": keras.layers.Dense(5, use_bias=False, name="o"),
    }
    summed = keras.ops.sum(tables["h"](history), axis=1)
    vector = keras.layers.Add()([tables["d"](dense), tables["c"](city), summed])
    model = keras.Model(
        {"dense": dense, "city": city, "history": history},
        {"scores": tables["o"](vector), "vector": vector},
    )
    for name, array in (("d", DENSE), ("c", CITY), ("h", HISTORY), ("o", OUT)):
        tables[name].set_weights([array])
    model.save(folder / "m.keras")
    return folder / "m.keras"


def towers_onnx(folder):
    return _onnx(
        folder / "m.onnx",
        [
            ("MatMul", ["dense", "d"], ["a"], {}),
            ("Gather", ["c", "city"], ["b"], {"axis": 0}),
            ("Gather", ["h", "history"], ["looked_up"], {"axis": 0}),
            ("ReduceSum", ["looked_up", "axes"], ["e"], {"keepdims": 0}),
            ("Add", ["a", "b"], ["ab"], {}),
            ("Add", ["ab", "e"], ["vector"], {}),
            ("MatMul", ["vector", "o"], ["scores"], {}),
        ],
        {
            "dense": (np.float32, ["batch", 3]),
            "city": (np.int64, ["batch"]),
            "history": (np.int64, ["batch", "length"]),
        },
        {"scores": (np.float32, ["batch", 5]), "vector": (np.float32, ["batch", 4])},
        {"d": DENSE, "c": CITY, "h": HISTORY, "o": OUT, "axes": np.array([1])},
    )
