"""Starts the model host, watches it, and starts it again when it ends or hangs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from serving_app.host import protocol, sockets
from serving_app.host.process import HostConfig
from serving_app.host.protocol import FrameReader, Kind, ProtocolError, frame

__all__ = ["HostSupervisor", "host_command", "ping", "socket_path"]

logger = logging.getLogger(__name__)

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
"""What the host finds in its environment unless ours says otherwise.

With several threads in one operator, a call waits at a barrier as soon as anything else runs.
"""
_LOOK = 0.1
"""Seconds between two looks at whether the host has ended."""
_PING = 2.0
"""Seconds between two signs of life that are asked of it."""
_LONGEST_PAUSE = 5.0
"""Seconds to wait at most before a host that ends again and again is started again."""
_STEADY = 10.0
"""Seconds after which a host that ran is started again at once."""


def socket_path(folder: Path | None) -> Path:
    """Return where a host of this process may have its socket: in the folder, if that can be.

    Else, if the path were too long for a socket, it is in a temporary folder of this user alone.
    """
    name = f"host-{os.getpid()}.sock"
    if folder is not None and folder.is_dir():
        try:
            return sockets.check_path(folder.resolve() / name)
        except sockets.PathTooLong:
            logger.info("The model host's socket is in a temporary folder; %s is too long", folder)
    return sockets.check_path(Path(tempfile.mkdtemp(prefix="recserve-")) / name)


def host_command(config: HostConfig) -> list[str]:
    """Return the command that starts a host with a `HostConfig`."""
    given = msgspec.json.encode(config).decode()
    return [sys.executable, "-m", "serving_app.host", given]


def ping(path: Path, timeout: float) -> bool:
    """Return whether a host answers at a socket within the seconds."""
    deadline = time.monotonic() + timeout
    try:
        with sockets.connect(path, timeout) as connection:
            connection.sendall(protocol.hello() + frame(Kind.PING, 1))
            frames = FrameReader()
            while (left := deadline - time.monotonic()) > 0:
                connection.settimeout(left)
                data = connection.recv(4096)
                if not data:
                    return False
                for each in frames.feed(data):
                    if each.kind == Kind.DONE:
                        return True
    except (OSError, ProtocolError):
        return False
    return False


class HostSupervisor:
    """Keeps one model host running. `start` and `stop` are for the thread that owns it.

    The host's standard input is a pipe that this process holds: when this process ends, however
    it does, the host notices, and ends too. The host is in a process group of its own, so that
    Ctrl-C reaches the workers, and the host only after them.

    Args:
        command: Starts the host.
        path: The host's socket.
        grace: Seconds that the host may take to end.
        hang: Seconds without an answer after which the host is killed.
        starting: Seconds that it may take until it answers for the first time.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        command: Sequence[str],
        path: Path,
        *,
        grace: float = 10.0,
        hang: float = 30.0,
        starting: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = list(command)
        self._path = path
        self._grace = grace
        self._hang = hang
        self._starting = starting
        self._clock = clock
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="model-host", daemon=True)

    @property
    def pid(self) -> int | None:
        """The running host's process id; None: none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the host, and watch it on a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the host finish, and end it; kill it if it takes longer than its grace."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        """Keep a host running until `stop`. Runs on a thread of its own."""
        pause = 0.0
        while not self._stopping.wait(pause):
            began = self._clock()
            try:
                process = self._process = self._begin()
            except OSError:
                logger.exception("The model host cannot be started")
                pause = _LONGEST_PAUSE
                continue
            reason = self._stay_with(process)
            if reason is None:
                self._end(process)
                break
            ran = self._clock() - began
            pause = 0.0 if ran >= _STEADY else min(_LONGEST_PAUSE, pause * 2 or 0.25)
            logger.error("The model host (%d) %s after %.1f s", process.pid, reason, ran)
        self._process = None

    def _begin(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            self._command,
            stdin=subprocess.PIPE,
            process_group=0,
            cwd=Path(__file__).resolve().parents[2],
            env={**_ENVIRONMENT, **os.environ},
        )
        logger.info("Started the model host [%d]", process.pid)
        return process

    def _stay_with(self, process: subprocess.Popen[bytes]) -> str | None:
        """Return how the host ended, or None when it is to end."""
        heard, patience = self._clock(), self._starting
        asked = heard
        while not self._stopping.wait(_LOOK):
            if (status := process.poll()) is not None:
                _release(process)
                return _described(status)
            now = self._clock()
            if now - asked >= (_PING if patience == self._hang else _LOOK):
                asked = now
                if ping(self._path, min(_PING, self._hang)):
                    heard, patience = self._clock(), self._hang
            if self._clock() - heard > patience:
                process.kill()
                process.wait()
                _release(process)
                return f"was killed, as it did not answer for {patience:g} s,"
        return None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(self._grace + 2.0)
        except subprocess.TimeoutExpired:
            logger.warning("The model host [%d] did not end in time; it is killed", process.pid)
            process.kill()
            process.wait()
        _release(process)


def _release(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _described(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"
