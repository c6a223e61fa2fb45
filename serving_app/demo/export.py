"""Files a model can be served from: one linear model in the format of every framework.

Each takes ``features (batch, d) float32`` and returns ``scores (batch, n_items) float32``:
``features @ item_factors.T + item_bias``. Files and directories appear whole or not at all.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plugins.features.file import write_feature_file


def export_torchscript(
    path: Path, item_factors: NDArray[np.float32], item_bias: NDArray[np.float32]
) -> None:
    """Write a TorchScript file.

    Args:
        path: The ``.pt`` file; one that exists is replaced.
        item_factors: ``(n_items, d)``.
        item_bias: ``(n_items,)``.
    """
    import torch

    with _replacing(path) as new, warnings.catch_warnings():
        # Deprecated by PyTorch, but what most trained models are still delivered as.
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.script(_linear_module(item_factors, item_bias)).save(str(new))


def export_torch_export(
    path: Path, item_factors: NDArray[np.float32], item_bias: NDArray[np.float32]
) -> None:
    """Write a ``torch.export`` program that takes batches of any size.

    Args:
        path: The ``.pt2`` file; one that exists is replaced.
        item_factors: ``(n_items, d)``.
        item_bias: ``(n_items,)``.
    """
    import torch

    # Two rows, since PyTorch takes a size of 1 in the example for a constant.
    example = torch.zeros(2, item_factors.shape[1])
    program = torch.export.export(
        _linear_module(item_factors, item_bias),
        (example,),
        dynamic_shapes={"features": {0: torch.export.Dim("batch", min=1)}},
    )
    with _replacing(path) as new:
        torch.export.save(program, str(new))


def export_saved_model(
    directory: Path, item_factors: NDArray[np.float32], item_bias: NDArray[np.float32]
) -> None:
    """Write a TensorFlow SavedModel with the signature ``serving_default``.

    Args:
        directory: The SavedModel's directory; one that exists is replaced.
        item_factors: ``(n_items, d)``.
        item_bias: ``(n_items,)``.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _native_stderr_held_back():
        import tensorflow as tf

    module = tf.Module()
    module.weights = tf.Variable(np.ascontiguousarray(item_factors.T), trainable=False)
    module.bias = tf.Variable(item_bias, trainable=False)

    def scores(features: Any) -> dict[str, Any]:
        return {"scores": features @ module.weights + module.bias}

    features = tf.TensorSpec([None, item_factors.shape[1]], tf.float32, name="features")
    function = tf.function(scores, input_signature=[features], autograph=False)
    with _replacing(directory) as new, _quiet(logging.getLogger("tensorflow")):
        tf.saved_model.save(module, str(new), signatures={"serving_default": function})


def export_numpy(
    path: Path,
    item_factors: NDArray[np.float32],
    item_bias: NDArray[np.float32],
    feature_names: Sequence[str],
) -> None:
    """Write an ``.npz`` file with ``weights (d, n)``, ``bias (n,)`` and ``feature_names (d,)``.

    Args:
        path: The file; one that exists is replaced.
        item_factors: ``(n_items, d)``.
        item_bias: ``(n_items,)``.
        feature_names: d names.
    """
    with _replacing(path) as new, new.open("wb") as file:
        np.savez(
            file,
            weights=np.ascontiguousarray(item_factors.T, dtype=np.float32),
            bias=np.asarray(item_bias, dtype=np.float32),
            feature_names=np.array(feature_names, dtype=np.str_),
        )


def write_catalogue(path: Path, item_ids: Sequence[str], titles: Sequence[str]) -> None:
    """Write the UTF-8 CSV file ``item,title``, in the order of the scores."""
    with _replacing(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("item", "title"))
        writer.writerows(zip(item_ids, titles, strict=True))


def write_features(
    directory: Path,
    user_ids: Sequence[str],
    feature_names: Sequence[str],
    rows: ArrayLike,
    default_row: ArrayLike | None = None,
) -> None:
    """Write a feature file, as `write_feature_file` does, in the place of any older one."""
    with _replacing(directory) as new:
        write_feature_file(new, user_ids, feature_names, rows, default_row)


def _linear_module(item_factors: NDArray[np.float32], item_bias: NDArray[np.float32]) -> Any:
    """Return the model as a PyTorch module in evaluation mode."""
    import torch

    class Linear(torch.nn.Module):  # type: ignore[misc]  # PyTorch is skipped by mypy
        """Scores of a linear model."""

        def __init__(self, weights: torch.Tensor, bias: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("weights", weights)
            self.register_buffer("bias", bias)

        def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
            """Return ``scores (batch, n_items)``."""
            return {"scores": features @ self.weights + self.bias}

    weights = torch.from_numpy(np.array(item_factors.T, dtype=np.float32, order="C"))
    return Linear(weights, torch.from_numpy(np.array(item_bias, dtype=np.float32))).eval()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a path to write a file or directory at; it takes the place of ``path`` at the end.

    After an error, or an interrupt, what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new = scratch / path.name
        yield new
        # A directory cannot be renamed over one that holds something.
        if path.is_dir():
            path.rename(scratch / "old")
        new.replace(path)
    finally:
        shutil.rmtree(scratch)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Let the logger pass only errors."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _native_stderr_held_back() -> Iterator[None]:
    """Swallow what native code prints to the standard error; after an exception, print it.

    TensorFlow's first notes ignore TF_CPP_MIN_LOG_LEVEL, and would bury the demo's own lines.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as swallowed:
        os.dup2(swallowed.fileno(), 2)
        try:
            yield
        except BaseException:
            swallowed.seek(0)
            os.write(kept, swallowed.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
