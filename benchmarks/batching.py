"""Rows a second by batch size: one call a row, one call a batch, and the batcher at saturation.

The bare loop calls the same framework plugin's model with the same batches in the same process. All
sides cut the best 100 items of each row, as the engine does; with --no-top-k none does. Allocator
and garbage collector are set as in any process that runs models. Rounds of the three are
interleaved, and medians given. The machine may not be alone, so the efficiency is also given by the
time of all processors that the process used, which others change less.

Run: python -m benchmarks.batching [--quick] [--json] [--plot FILE] [--no-top-k] [--items N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plugins import ModelSpec
from plugins.contracts import LoadedModel
from plugins.frameworks.onnx import Onnx
from plugins.frameworks.pytorch import PyTorch
from plugins.frameworks.tensorflow import TensorFlow
from serving_app.core import collector
from serving_app.core.allocator import keep_freed_memory
from serving_app.core.batcher import Batcher
from serving_app.core.top_k import top_k

FEATURES, HIDDEN, DEPTH = 64, 64, 100
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def torchscript(folder: Path, items: int) -> LoadedModel:
    """Return a TorchScript model of an MLP and a dot product with all items."""
    import torch

    path = folder / "model.pt"
    layers = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, items)
    )
    torch.jit.save(torch.jit.script(layers.eval()), path)
    return PyTorch().load(ModelSpec("bench", 1, "pytorch", path))


def savedmodel(folder: Path, items: int) -> LoadedModel:
    """Return the same shape as a TensorFlow SavedModel."""
    import tensorflow as tf

    path = folder / "saved"
    rng = np.random.default_rng(1)
    module = tf.Module()
    module.w1 = tf.Variable(rng.standard_normal((FEATURES, HIDDEN)).astype(np.float32))
    module.w2 = tf.Variable(rng.standard_normal((HIDDEN, items)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec((None, FEATURES), tf.float32, name="features")])
    def serve(features: Any) -> dict[str, Any]:
        return {"scores": tf.nn.relu(features @ module.w1) @ module.w2}

    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    return TensorFlow().load(ModelSpec("bench", 1, "tensorflow", path))


def onnx(folder: Path, items: int) -> LoadedModel:
    """Return the same shape as an ONNX model."""
    import onnx as library
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    weights = {"w1": (FEATURES, HIDDEN), "w2": (HIDDEN, items)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "w1"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("MatMul", ["active", "w2"], ["scores"]),
        ],
        "bench",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", items])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    path = folder / "model.onnx"
    opset = [helper.make_opsetid("", 17)]
    library.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return Onnx().load(ModelSpec("bench", 1, "onnx", path))


class Rate(NamedTuple):
    """How fast rows were done."""

    per_second: float
    per_cpu_second: float
    """By the time of all processors that the process used."""


def loop(run: Callable[[Sequence[Any]], Any], rows: Sequence[Any], seconds: float) -> Rate:
    """Return the rate of calling it again and again."""
    count, started, used = 0, time.perf_counter(), time.process_time()
    lasted = 0.0
    while lasted < seconds:
        run(rows)
        count += len(rows)
        lasted = time.perf_counter() - started
    return Rate(count / lasted, count / (time.process_time() - used))


def saturated(run: Callable[[Sequence[Any]], Any], row: Any, size: int, seconds: float) -> Rate:
    """Return the rate of a batcher that always has four batches to do."""
    batcher: Batcher[Any, Any] = Batcher(run, name="bench", max_batch=size)
    done, ended = 0, threading.Event()
    until = time.perf_counter() + seconds

    def again(_: Any) -> None:
        nonlocal done
        done += 1
        if time.perf_counter() < until:
            batcher.submit(row, seconds=1e3).add_done_callback(again)
        else:
            ended.set()

    started, used = time.perf_counter(), time.process_time()
    for _ in range(4 * size):
        batcher.submit(row, seconds=1e3).add_done_callback(again)
    ended.wait()
    rate = Rate(done / (time.perf_counter() - started), done / (time.process_time() - used))
    batcher.close()
    return rate


def measure(
    model: LoadedModel, rounds: int, seconds: float, *, cut: bool
) -> dict[int, dict[str, float]]:
    """Return rows a second by batch size."""
    row: NDArray[np.float32] = np.random.default_rng(2).standard_normal(FEATURES).astype(np.float32)

    def run(rows: Sequence[Any]) -> Any:
        scores = next(iter(model.predict({"features": np.stack(rows)}).values()))
        return list(zip(*top_k(scores, DEPTH), strict=True)) if cut else scores

    results = {}
    for size in SIZES:
        rows = [row] * size
        for _ in range(5):
            run(rows)
        collector.settle()
        single, bare, batched = [], [], []
        for _ in range(rounds):
            single.append(loop(run, [row], seconds))
            bare.append(loop(run, rows, seconds))
            batched.append(saturated(run, row, size, seconds))
        pairs = list(zip(bare, batched, strict=True))
        results[size] = {
            "single": statistics.median(each.per_second for each in single),
            "bare": statistics.median(each.per_second for each in bare),
            "batched": statistics.median(each.per_second for each in batched),
            "efficiency": statistics.median(b.per_second / a.per_second for a, b in pairs),
            "cpu_efficiency": statistics.median(
                b.per_cpu_second / a.per_cpu_second for a, b in pairs
            ),
        }
    return results


def plot(results: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Draw rows a second by batch size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for name, sizes in results.items():
        for what in ("bare", "batched", "single"):
            style = {"bare": "--", "batched": "-", "single": ":"}[what]
            rates = [each[what] for each in sizes.values()]
            axes.plot(list(sizes), rates, style, marker=".", label=f"{name}, {what}")
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="rows a second")
    axes.set_xticks(list(SIZES), [str(size) for size in SIZES])
    axes.legend()
    figure.savefig(path)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it (matplotlib)")
    parser.add_argument("--no-top-k", action="store_true", help="the model's call alone")
    parser.add_argument("--items", type=int, default=10_000, help="how many the model scores")
    given = parser.parse_args()
    keep_freed_memory()
    rounds, seconds = (3, 0.1) if given.quick else (9, 0.5)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, load in {
            "TorchScript": torchscript,
            "SavedModel": savedmodel,
            "ONNX": onnx,
        }.items():
            model = load(Path(folder), given.items)
            results[name] = measure(model, rounds, seconds, cut=not given.no_top_k)
            print(
                f"{name}: rows a second\n"
                "  batch    single      bare   batcher  batcher/bare  by processor time"
            )
            for size, each in results[name].items():
                print(
                    f"  {size:5} {each['single']:9.0f} {each['bare']:9.0f} {each['batched']:9.0f}"
                    f"  {each['efficiency']:11.0%}  {each['cpu_efficiency']:11.0%}",
                    flush=True,
                )
    if given.plot:
        plot(results, given.plot)
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
