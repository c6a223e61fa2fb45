"""Real model hosts, in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from serving_app.core.artifacts import digest
from serving_app.core.version_record import VersionRecord
from serving_app.host.client import HostClient
from serving_app.host.process import HostConfig
from serving_app.host.supervisor import HostSupervisor, host_command
from tests import fragile

FEATURES = ("a", "b", "c")
ITEMS = 20


def finish(positions, scores):
    return positions.tolist(), scores.tolist()


class Installation:
    """A model store, a host for it, and its clients."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "models"
        self.store.mkdir()
        self.socket = folder / "host.sock"
        self.clients: list[HostClient] = []
        self.supervisors: list[HostSupervisor] = []

    def start(self, **more) -> HostSupervisor:
        config = HostConfig(
            str(self.socket), str(self.store), ends_with_stdin=True, **{"linger": 0.2, **more}
        )
        supervisor = HostSupervisor(host_command(config), self.socket)
        self.supervisors.append(supervisor)
        supervisor.start()
        return supervisor

    def client(self) -> HostClient:
        self.clients.append(HostClient(self.socket))
        return self.clients[-1]

    def linear(self, seed: int = 0, **more) -> VersionRecord:
        name = f"linear{seed}.npz"
        if not (self.store / name).exists():
            rng = np.random.default_rng(seed)
            np.savez(
                self.store / name,
                weights=rng.standard_normal((3, ITEMS)).astype(np.float32),
                bias=rng.standard_normal(ITEMS).astype(np.float32),
            )
        return self._record("linear", name, "numpy_linear", **more)

    def fragile(self, **options) -> VersionRecord:
        (self.store / "fragile.txt").write_text(str(ITEMS))
        return self._record("fragile", "fragile.txt", "fragile", framework_options=options)

    def _record(self, model, artifact, framework, **more) -> VersionRecord:
        sha256 = digest(self.store / artifact)
        return VersionRecord(model, 1, artifact, sha256, framework, "c.csv", "0", FEATURES, **more)

    def open(self, client: HostClient, record: VersionRecord):
        return client.open_engine(
            record, store=self.store, registry=None, items=ITEMS, finish=finish
        )

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for supervisor in self.supervisors:
            supervisor.stop()


@pytest.fixture
def installation(tmp_path, tmp_path_factory, monkeypatch):
    plugin = fragile.install(tmp_path / "site")
    paths = [str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    folder = tmp_path_factory.mktemp("h")
    installation = Installation(folder)
    yield installation
    installation.close()
