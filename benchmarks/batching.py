"""Rows a second by batch size: one call a row, one call a batch, and the batcher at saturation.

The bare loop calls the same framework plugin's model with the same batches in the same process. All
sides cut the best 100 items of each row, as the engine does; with --no-top-k none does. Rounds of
the three are interleaved, and medians given: the machine may not be alone.

Run: python -m benchmarks.batching [--quick] [--json] [--plot FILE] [--no-top-k]
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins import ModelSpec
from plugins.contracts import LoadedModel
from plugins.frameworks.pytorch import PyTorch
from plugins.frameworks.tensorflow import TensorFlow
from serving_app.core.batcher import Batcher
from serving_app.core.ranking import top_k

FEATURES, HIDDEN, ITEMS, DEPTH = 64, 64, 10_000, 100
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def torchscript(folder: Path) -> LoadedModel:
    """Return a TorchScript model of an MLP and a dot product with all items."""
    import torch

    path = folder / "model.pt"
    layers = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, ITEMS)
    )
    torch.jit.save(torch.jit.script(layers.eval()), path)
    return PyTorch().load(ModelSpec("bench", 1, "pytorch", path))


def savedmodel(folder: Path) -> LoadedModel:
    """Return the same shape as a TensorFlow SavedModel."""
    import tensorflow as tf

    path = folder / "saved"
    rng = np.random.default_rng(1)
    module = tf.Module()
    module.w1 = tf.Variable(rng.standard_normal((FEATURES, HIDDEN)).astype(np.float32))
    module.w2 = tf.Variable(rng.standard_normal((HIDDEN, ITEMS)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec((None, FEATURES), tf.float32, name="features")])
    def serve(features: Any) -> dict[str, Any]:
        return {"scores": tf.nn.relu(features @ module.w1) @ module.w2}

    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    return TensorFlow().load(ModelSpec("bench", 1, "tensorflow", path))


def loop(run: Callable[[Sequence[Any]], Any], rows: Sequence[Any], seconds: float) -> float:
    """Return the rows a second of calling it again and again."""
    count, started = 0, time.perf_counter()
    while (lasted := time.perf_counter() - started) < seconds:
        run(rows)
        count += len(rows)
    return count / lasted


def saturated(run: Callable[[Sequence[Any]], Any], row: Any, size: int, seconds: float) -> float:
    """Return the rows a second of a batcher that always has four batches to do."""
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

    started = time.perf_counter()
    for _ in range(4 * size):
        batcher.submit(row, seconds=1e3).add_done_callback(again)
    ended.wait()
    rate = done / (time.perf_counter() - started)
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
        single, bare, batched = [], [], []
        for _ in range(rounds):
            single.append(loop(run, [row], seconds))
            bare.append(loop(run, rows, seconds))
            batched.append(saturated(run, row, size, seconds))
        ratios = [b / a for a, b in zip(bare, batched, strict=True)]
        results[size] = {
            "single": statistics.median(single),
            "bare": statistics.median(bare),
            "batched": statistics.median(batched),
            "efficiency": statistics.median(ratios),
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
    given = parser.parse_args()
    rounds, seconds = (3, 0.1) if given.quick else (9, 0.5)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, load in {"TorchScript": torchscript, "SavedModel": savedmodel}.items():
            results[name] = measure(load(Path(folder)), rounds, seconds, cut=not given.no_top_k)
            print(f"{name}: rows a second\n  batch    single      bare   batcher  batcher/bare")
            for size, each in results[name].items():
                print(
                    f"  {size:5} {each['single']:9.0f} {each['bare']:9.0f} {each['batched']:9.0f}"
                    f"  {each['efficiency']:11.0%}"
                )
    if given.plot:
        plot(results, given.plot)
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
