"""Files of the model store: found only inside it, and checked by digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from plugins import ArtifactRejected


def locate(store: Path, relative: str) -> Path:
    """Return the absolute path of a file or directory in the store.

    Raises:
        ArtifactRejected: It does not exist, or lies outside the store, through ``..``, an
            absolute path or a symbolic link.
    """
    root = store.resolve()
    path = (root / relative).resolve()
    if not relative or path == root or not path.is_relative_to(root):
        raise ArtifactRejected(
            f"{relative!r} is outside the model store. Copy the file into the store, and give "
            f"its path relative to it."
        )
    if not path.exists():
        raise ArtifactRejected(f"{relative!r} does not exist in the model store.")
    return path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a directory's file names and contents, in hex.

    Raises:
        ArtifactRejected: Something in it cannot be read, is a link, or is no plain file.
    """
    try:
        if path.is_file():
            return _file_digest(path)
        # A directory's digest covers names and contents, so that nothing can be moved about.
        total = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_symlink():
                raise ArtifactRejected(f"{file.name} is a symbolic link; an artifact has none.")
            if file.is_file():
                name = file.relative_to(path).as_posix()
                total.update(f"{name}\0{_file_digest(file)}\n".encode())
        return total.hexdigest()
    except OSError as error:
        raise ArtifactRejected(f"{path.name} cannot be read: {error}.") from error


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
