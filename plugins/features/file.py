"""The feature file: users' features in a directory, mapped into memory and searched by id.

==================  ================================================================
``ids.npy``         ``(n,)`` user ids as text, ascending, without duplicates; fixed
                    width: UTF-8 bytes (``S``) or Unicode (``U``)
``features.npy``    ``(n, d)`` float32, in the order of the ids; with a default row
                    ``(n + 1, d)``, of which the last answers for unknown users
``meta.json``       ``{"format": 1, "feature_names": [d names], "default_row": bool}``
==================  ================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plugins.contracts import UserId
from plugins.errors import InvalidOptions

_FORMAT = 1
_CHUNK = 65_536  # ids that are checked at once, so that a large file never fills the memory


class FileFeatures:
    """Users' features from a directory, mapped into memory.

    Processes share the mapped pages, and a look-up reads only those it needs. Any thread may look
    up at any time.

    Args:
        path: The directory that `write_feature_file` wrote.

    Raises:
        InvalidOptions: There is no such directory, or what it holds is damaged.
    """

    waits = False
    """A look-up asks no server: an event loop may make it."""

    def __init__(self, *, path: str) -> None:
        directory = Path(path)
        if not directory.is_dir():
            raise InvalidOptions(f"There is no directory {path} with a feature file.")
        self._names, self._default_row = _read_meta(directory / "meta.json")
        ids = _mapped(directory / "ids.npy")
        features = _mapped(directory / "features.npy")
        _check(directory, ids, features, self._names, default_row=self._default_row)
        self._arrays: tuple[NDArray[Any], NDArray[np.float32]] | None = (ids, features)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the values that `features` returns, in their order."""
        return self._names

    def features(self, user_id: UserId, context: Mapping[str, Any]) -> NDArray[np.float32] | None:
        """Return a copy of the user's ``(d,)`` float32 row, or the default row, or None.

        Raises:
            ValueError: The source is closed.
        """
        if self._arrays is None:
            raise ValueError("This feature source is closed.")
        ids, features = self._arrays
        at = _position(ids, str(user_id))
        if at is not None:
            return np.array(features[at])
        return np.array(features[-1]) if self._default_row else None

    def close(self) -> None:
        """Let go of the mapped files; a look-up under way keeps them until it is done."""
        self._arrays = None


def write_feature_file(
    directory: Path,
    user_ids: Sequence[str],
    feature_names: Sequence[str],
    rows: ArrayLike,
    default_row: ArrayLike | None = None,
) -> None:
    """Write a directory that `FileFeatures` reads.

    Args:
        directory: Is made. Feature files never change in place, since processes have them
            mapped: write another directory, and rename it.
        user_ids: n ids, in any order.
        feature_names: d names.
        rows: ``(n, d)`` finite numbers, in the order of the ids.
        default_row: ``(d,)`` for users that are not in the file; None: they stay unknown.

    Raises:
        ValueError: An id occurs twice or holds a NUL, a name occurs twice, the shapes do not fit
            together, or a number is not finite.
        FileExistsError: The directory exists, and is not empty.
    """
    names = list(feature_names)
    if not names or len(set(names)) != len(names):
        raise ValueError("A feature file needs at least one feature name, and no name twice.")
    table = np.asarray(rows, dtype=np.float32)
    if table.shape != (len(user_ids), len(names)):
        raise ValueError(
            f"{len(user_ids)} users with {len(names)} features need rows of shape "
            f"({len(user_ids)}, {len(names)}), not {table.shape}."
        )
    order = sorted(range(len(user_ids)), key=user_ids.__getitem__)
    ascending = [user_ids[i] for i in order]
    for previous, user_id in zip(["", *ascending], ascending, strict=False):
        if previous == user_id and user_id:
            raise ValueError(f"The user id {user_id!r} occurs twice.")
        if not user_id or "\0" in user_id:
            raise ValueError(f"{user_id!r} cannot be a user id: it is empty or holds a NUL.")
    table = table[order]
    if default_row is not None:
        last = np.asarray(default_row, dtype=np.float32)
        if last.shape != (len(names),):
            raise ValueError(f"The default row needs shape ({len(names)},), not {last.shape}.")
        table = np.concatenate([table, last[None]])
    if not np.isfinite(table).all():
        raise ValueError("Every feature must be a finite number.")

    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} exists, and is not empty.")
    # Code points and their UTF-8 bytes sort alike, and bytes take a quarter of the space.
    ids = np.array([user_id.encode() for user_id in ascending], dtype=np.bytes_)
    np.save(directory / "ids.npy", ids, allow_pickle=False)
    np.save(directory / "features.npy", table, allow_pickle=False)
    meta = {"format": _FORMAT, "feature_names": names, "default_row": default_row is not None}
    (directory / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _read_meta(path: Path) -> tuple[tuple[str, ...], bool]:
    """Return the feature names, and whether there is a default row.

    Raises:
        InvalidOptions: The file is missing or says something else.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOptions(f"{path} cannot be read: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise InvalidOptions(f"{path} is not of a feature file of format {_FORMAT}.")
    names, default_row = meta.get("feature_names"), meta.get("default_row")
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) != len(names)
        or not isinstance(default_row, bool)
    ):
        raise InvalidOptions(
            f"{path} needs feature_names, a list of distinct names, and default_row, true or false."
        )
    return tuple(names), default_row


def _mapped(path: Path) -> NDArray[Any]:
    """Return the file's array, mapped.

    Raises:
        InvalidOptions: It cannot be read.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidOptions(f"{path} cannot be read: {error}") from error
    # The base class's view is faster to index than np.memmap, and keeps the file mapped.
    return np.asarray(array)


def _check(
    directory: Path,
    ids: NDArray[Any],
    features: NDArray[Any],
    names: tuple[str, ...],
    *,
    default_row: bool,
) -> None:
    """Verify that the arrays fit together, and that the ids ascend.

    Raises:
        InvalidOptions: They do not; the message names the file.
    """
    if ids.ndim != 1 or ids.dtype.kind not in "SU" or not ids.dtype.isnative:
        raise InvalidOptions(
            f"{directory / 'ids.npy'} needs one dimension of text, in this machine's byte order; "
            f"it has the shape {ids.shape} of {ids.dtype}."
        )
    expected = (len(ids) + default_row, len(names))
    if features.dtype != np.float32 or features.shape != expected:
        raise InvalidOptions(
            f"{directory / 'features.npy'} needs the shape {expected} of float32: {len(ids)} ids, "
            f"{len(names)} names; it has {features.shape} of {features.dtype}."
        )
    for start in range(0, len(ids) - 1, _CHUNK):
        chunk = ids[start : start + _CHUNK + 1]
        if not (chunk[:-1] < chunk[1:]).all():
            raise InvalidOptions(
                f"{directory / 'ids.npy'} is not in ascending order, or has an id twice."
            )


def _position(ids: NDArray[Any], user_id: str) -> int | None:
    """Return the row of a user, by binary search, or None."""
    # NumPy drops trailing NULs, so that such an id would be mistaken for another.
    if not len(ids) or "\0" in user_id:
        return None
    in_bytes = ids.dtype.kind == "S"
    wanted = user_id.encode("utf-8", "surrogatepass") if in_bytes else user_id
    # A longer key is in no row; searching for it would copy all ids into a wider array.
    if len(wanted) > ids.dtype.itemsize // (1 if in_bytes else 4):
        return None
    at = int(np.searchsorted(ids, np.array(wanted, dtype=ids.dtype)))
    return at if at < len(ids) and ids[at] == wanted else None
