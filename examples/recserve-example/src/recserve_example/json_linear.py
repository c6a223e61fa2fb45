"""Linear models in JSON."""

import json

import numpy as np

from plugins import ArtifactRejected, Signature, TensorSpec


class JsonLinear:
    """Linear models in one JSON file: scores = features · weights + bias.

    The file looks like ``{"feature_names": ["age", "tenure"], "weights": [[…], […]],
    "bias": […]}``, with one row of weights per feature and one column per item.

    Args:
        scale: What every score is multiplied by.
    """

    def __init__(self, *, scale: float = 1.0):
        self._scale = scale

    def load(self, spec):
        try:
            content = json.loads(spec.path.read_text("utf-8"))
            names = content["feature_names"]
            weights = np.asarray(content["weights"], dtype=np.float32)
            bias = np.asarray(content["bias"], dtype=np.float32)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactRejected(
                f"{spec.path.name} is no JSON file with feature_names, weights and bias: {error!r}"
            ) from error
        if weights.ndim != 2 or len(names) != len(weights) or bias.shape != weights.shape[1:]:
            raise ArtifactRejected(
                f"{spec.path.name} needs a row of weights per feature name, and a bias per item; "
                f"it has {len(names)} names, weights {weights.shape} and bias {bias.shape}."
            )
        return Linear(weights * self._scale, bias * self._scale)


class Linear:
    def __init__(self, weights, bias):
        self._weights, self._bias = weights, bias
        features, items = weights.shape
        self.signature = Signature(
            inputs=(TensorSpec("features", "FP32", (-1, features)),),
            outputs=(TensorSpec("scores", "FP32", (-1, items)),),
        )

    def predict(self, inputs):
        return {"scores": inputs["features"] @ self._weights + self._bias}

    def close(self):
        pass
