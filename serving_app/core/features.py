"""From a request's features to the row that the model takes, or `InvalidInput`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins import InvalidInput

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """The features of one model version, in the order in which the model takes them."""

    names: tuple[str, ...]
    """The declared feature names; position = column of the input tensor."""

    def row(self, features: Mapping[str, Any] | Sequence[Any]) -> NDArray[np.float32]:
        """Return the ``(len(names),)`` float32 row of a request's features.

        A mapping is ordered by the declared names, never by the client's order.

        Raises:
            InvalidInput: A feature is missing, unknown, not a number or not finite; the message
                and the field name it.
        """
        if isinstance(features, Mapping):
            return self._checked(self._in_order(features))
        if len(features) != len(self.names):
            raise InvalidInput(
                f"features has {len(features)} values, but the model takes {len(self.names)}: "
                f"{_some(self.names)}.",
                field="features",
            )
        return self._checked(features)

    def _in_order(self, features: Mapping[str, Any]) -> list[Any]:
        missing = [name for name in self.names if name not in features]
        if missing:
            raise InvalidInput(
                f"Missing features: {_some(missing)}. "
                f"The model takes {len(self.names)}: {_some(self.names)}.",
                field=f"features.{missing[0]}",
            )
        if len(features) > len(self.names):
            extra = sorted(str(name) for name in features.keys() - set(self.names))
            raise InvalidInput(
                f"Unknown features: {_some(extra)}. The model takes only {_some(self.names)}.",
                field=f"features.{extra[0]}",
            )
        return [features[name] for name in self.names]

    def _checked(self, values: Sequence[Any]) -> NDArray[np.float32]:
        for name, value in zip(self.names, values, strict=True):
            # bool is an int to Python, but a client that sends true means no number.
            if type(value) is not float and type(value) is not int:
                raise InvalidInput(
                    f"Feature {name} must be a number, not {type(value).__name__}.",
                    field=f"features.{name}",
                )
            if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
                nan = type(value) is float and math.isnan(value)
                what = "NaN" if nan else "outside the range of a 32-bit float"
                raise InvalidInput(
                    f"Feature {name} must be finite; it is {what}.", field=f"features.{name}"
                )
        return np.array(values, dtype=np.float32)


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
