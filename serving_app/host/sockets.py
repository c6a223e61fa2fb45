"""Unix sockets that only this user can use."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

__all__ = ["PathTooLong", "bind", "check_path", "check_peer", "connect", "peer_uid"]

_PATH_LIMIT = 100
"""Bytes; the system's limit is 104 to 108 with the closing zero."""


class PathTooLong(ValueError):
    """A socket cannot have a path this long."""


def check_path(path: Path) -> Path:
    """Return the path, if a socket can have it.

    Raises:
        PathTooLong: It cannot.
    """
    size = len(os.fsencode(path))
    if size > _PATH_LIMIT:
        raise PathTooLong(
            f"The path of a socket has at most {_PATH_LIMIT} bytes; {path} has {size}. "
            "Choose a shorter one."
        )
    return path


def bind(path: Path) -> socket.socket:
    """Return a listening socket that only this user can connect to; an old one is replaced.

    Raises:
        PathTooLong: A socket cannot have this path.
        OSError: It cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            check_path(path).unlink()
        mask = os.umask(0o177)  # from its first moment on nobody else may connect
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(mask)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(path: Path, timeout: float) -> socket.socket:
    """Return a connection to the host at a path, whose reads and writes have the time-out.

    Raises:
        OSError: Nobody listens there, or somebody who is not this user.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(os.fspath(check_path(path)))
        check_peer(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def check_peer(connection: socket.socket) -> None:
    """Go on only if the other side runs as this user, or as root.

    Raises:
        PermissionError: It runs as another user.
    """
    if (uid := peer_uid(connection)) not in {None, os.getuid(), 0}:
        raise PermissionError(f"The other side of the socket is user {uid}, not {os.getuid()}.")


def peer_uid(connection: socket.socket) -> int | None:
    """Return the user of the other side.

    None where the system does not tell, as Linux does: there the socket's mode alone protects it.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = struct.Struct("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    _, uid, _ = credentials.unpack(raw)
    return int(uid)
