"""A random secret key per installation, for those who have set none."""

from __future__ import annotations

import secrets
from pathlib import Path


def read_or_create(path: Path) -> str:
    """Return the key kept in a file that only its owner reads; make it on first use.

    Several processes may start at once: whoever links the file first has made the key.
    """
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(64), "ascii")
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_text("ascii").strip()
