"""What every feature source must do, as a test that its author can call."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins.contracts import FeatureSource, UserId

__all__ = ["check_feature_source"]


def check_feature_source(source: FeatureSource, known_user: UserId, unknown_user: UserId) -> None:
    """Check that a feature source answers as its contract says; it is closed in the end.

    Args:
        source: The source, just built.
        known_user: A user that it knows.
        unknown_user: A user that it does not know.

    Raises:
        AssertionError: The source breaks its contract; the message says where.
    """
    names = source.feature_names
    assert isinstance(names, tuple), f"feature_names is {type(names).__name__}, not a tuple."
    assert names, "feature_names is empty."
    assert all(isinstance(name, str) and name for name in names), f"{names} are not all names."
    assert len(set(names)) == len(names), f"feature_names names one twice: {names}"

    row = source.features(known_user, {})
    assert row is not None, f"features({known_user!r}) is None, but the user is known."
    if isinstance(row, Mapping):
        unknown = sorted(row.keys() - set(names))
        assert not unknown, f"features returned {unknown[0]}, which is not in feature_names."
    else:
        assert isinstance(row, np.ndarray), f"features returned {type(row).__name__}, not an array."
        assert row.dtype == np.float32, f"features returned {row.dtype}, not float32."
        assert row.shape == (len(names),), f"features returned {row.shape}, not ({len(names)},)."
        assert np.isfinite(row).all(), f"features returned values that are not finite: {row}"
    expected = copy.deepcopy(row)

    for alike in _alike(known_user):
        _check_same(source, alike, expected)
    assert source.features(unknown_user, {}) is None, (
        f"features({unknown_user!r}) must be None: the user is unknown."
    )
    given = {"page": "home", "nested": {"a": [1, None]}}
    source.features(known_user, given)
    assert given == {"page": "home", "nested": {"a": [1, None]}}, "features changed the context."

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(_check_same, source, known_user, expected) for _ in range(64)]
        for each in asked:
            each.result()
    source.close()


def _alike(user: UserId) -> list[UserId]:
    """Return the other ways to write a user's id."""
    if isinstance(user, int):
        return [user, str(user)]
    is_number = user.isascii() and user.isdigit() and str(int(user)) == user
    return [user, int(user)] if is_number else [user]


def _check_same(
    source: FeatureSource, user: UserId, expected: NDArray[np.float32] | Mapping[str, Any]
) -> None:
    row = source.features(user, {})
    assert row is not None, f"features({user!r}) is None, but the user was known before."
    if isinstance(row, Mapping) or isinstance(expected, Mapping):
        same = row == expected
    else:
        same = np.array_equal(row, expected)
    assert same, f"features({user!r}) changed: {row}, not {expected}"
