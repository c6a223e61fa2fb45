"""Registers the built-in frameworks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugins.contracts import Framework
from plugins.frameworks.numpy_linear import NumpyLinear
from plugins.frameworks.onnx import Onnx
from plugins.frameworks.pytorch import PyTorch
from plugins.frameworks.tensorflow import TensorFlow
from plugins.hookspecs import hookimpl


@hookimpl
def recserve_frameworks() -> Mapping[str, Callable[..., Framework]]:
    """Return the built-in frameworks."""
    return {
        "pytorch": PyTorch,
        "tensorflow": TensorFlow,
        "onnx": Onnx,
        "numpy_linear": NumpyLinear,
    }
