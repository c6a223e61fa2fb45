"""NumPy: a linear model in one ``.npz`` file."""

from __future__ import annotations

import zipfile

import numpy as np
from numpy.typing import NDArray

from plugins.contracts import LoadedModel, ModelSpec, Signature, Tensors, TensorSpec
from plugins.errors import ArtifactRejected


class NumpyLinear:
    """Linear models of NumPy: scores = features · weights + bias, from an .npz file.

    The file holds ``weights (d, n) float32`` and, if wanted, ``bias (n,) float32``.
    """

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Return the model of an ``.npz`` file."""
        if spec.path.is_dir():
            raise ArtifactRejected(f"{spec.path.name} is a directory; numpy_linear takes an .npz.")
        try:
            # A damaged archive would leave the file open if NumPy had opened it.
            with spec.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                names = sorted(arrays.files)
                weights = np.asarray(arrays["weights"], dtype=np.float32)
                bias = np.asarray(
                    arrays["bias"] if "bias" in names else np.zeros(weights.shape[-1]),
                    dtype=np.float32,
                )
        except (
            KeyError,
            AttributeError,
            ValueError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
        ) as error:
            raise ArtifactRejected(
                f"{spec.path.name} is no .npz file with the arrays weights and bias: {error}"
            ) from error
        if weights.ndim != 2 or bias.shape != weights.shape[1:]:
            raise ArtifactRejected(
                f"{spec.path.name} needs weights of shape (features, items) and bias of shape "
                f"(items,); it has {weights.shape} and {bias.shape}."
            )
        return _Linear(weights, bias)


class _Linear:
    """A linear model in memory."""

    def __init__(self, weights: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        self._weights = weights
        self._bias = bias
        d, n = weights.shape
        self.signature = Signature(
            inputs=(TensorSpec("features", "FP32", (-1, d)),),
            outputs=(TensorSpec("scores", "FP32", (-1, n)),),
        )

    def predict(self, inputs: Tensors) -> Tensors:
        """Return ``scores (batch, n) float32``."""
        return {"scores": inputs["features"] @ self._weights + self._bias}

    def close(self) -> None:
        """Hold nothing that needs freeing."""
