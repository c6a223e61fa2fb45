"""What a model answers for no rows: nothing, in the shapes of its signature."""

from __future__ import annotations

import numpy as np

from plugins import Signature, Tensors
from plugins.datatypes import DTYPES

__all__ = ["outputs_of_nothing"]


def outputs_of_nothing(signature: Signature) -> Tensors:
    """Return outputs of zero rows; the model need not be asked, and many fail at empty batches.

    A size that the signature leaves open is 0.
    """
    return {
        spec.name: np.empty(
            (0, *(max(size, 0) for size in spec.shape[1:])),
            dtype=DTYPES.get(spec.datatype, np.dtype(np.float32)),
        )
        for spec in signature.outputs
    }
