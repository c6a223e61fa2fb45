"""The server with its model host: it dies and comes back, and both end in good order."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests import fragile
from tests.journeys.conftest import free_port, manage, runs, start, stop

pytestmark = pytest.mark.xdist_group("journey")

TOKEN = """
from django.contrib.auth.models import Group, User
from rest_framework_simplejwt.tokens import AccessToken
user = User.objects.create_user("service")
user.groups.add(Group.objects.get(name="recserve operate"))
token = AccessToken.for_user(user)
token.set_exp(lifetime=__import__("datetime").timedelta(hours=1))
print(token)
"""


@pytest.fixture(scope="module")
def fragile_installation(tmp_path_factory):
    """An installation whose only model dies when it is told to."""
    patch = pytest.MonkeyPatch()
    var = tmp_path_factory.mktemp("f")
    site = fragile.install(tmp_path_factory.mktemp("site"))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    patch.setenv(fragile.MARK, str(var / "slow"))
    manage(var, "migrate", "--verbosity", "0")
    token = manage(var, "shell", "-v", "0", "-c", TOKEN).stdout.split()[-1]
    (var / "demo.json").write_text(json.dumps({"token": token}))
    store = var / "models"
    store.mkdir(exist_ok=True)
    (store / "fragile.txt").write_text("20")
    lines = ["item,title", *(f"i{n},Item {n}" for n in range(20))]
    (store / "items.csv").write_text("\n".join(lines) + "\n")
    manage(
        var,
        *("register_model", "default", "fragile.txt", "--framework", "fragile"),
        *("--catalogue", "items.csv", "--feature-names", "a,b,c", "--live"),
    )
    yield var
    patch.undo()


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def running(request, fragile_installation):
    server = start(fragile_installation, free_port(), workers=request.param)
    yield server
    if server.process.poll() is None:
        stop(server)


def hosts(server):
    """Return the process ids of the model hosts that the server started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if b"serving_app.host" in command and int(parent) == server.process.pid and state != "Z":
            found.append(int(folder.name))
    return found


def body(first, n, seed=""):
    return {"user_id": "u", "features": [first, n, 0.0], "context": {"n": n, "seed": seed}, "k": 5}


def wait_for(condition, what, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return value


class Load:
    """Threads that ask, some what is cached and some what is not, until they are told to stop."""

    def __init__(self, server, threads=4):
        self.hits, self.misses = [], []
        self._stopping = threading.Event()
        self._server = server
        self._pool = ThreadPoolExecutor(threads)
        self._running = [self._pool.submit(self._ask, seed) for seed in range(threads)]

    def _ask(self, seed):
        n = 0
        with self._server.client() as client:
            while not self._stopping.is_set():
                n += 1
                hit = client.post("predict", json=body(0.0, 1.0))
                self.hits.append((hit.status_code, hit.json().get("cached")))
                # A context of its own: the model must answer.
                self.misses.append(client.post("predict", json=body(0.0, float(n), str(seed))))

    def stop(self):
        self._stopping.set()
        for each in self._running:
            each.result(120)
        self._pool.shutdown()


@pytest.mark.contract("S11")
@pytest.mark.parametrize(
    ("running", "end"),
    [(1, "segmentation fault"), (2, "kill -9")],
    indirect=["running"],
    ids=["one worker, segmentation fault", "two workers, kill -9"],
)
def test_a_host_that_dies_costs_no_hit_and_hangs_nobody(running, end):
    with running.client() as client:
        # Both workers are to have the answer: they share it in L2.
        wait_for(lambda: client.post("predict", json=body(0.0, 1.0)).json().get("cached"), "no hit")
        (pid,) = hosts(running)
        load = Load(running)
        try:
            wait_for(lambda: len(load.misses) > 20, "there is no load")
            if end == "kill -9":
                os.kill(pid, signal.SIGKILL)
            else:
                crashed = client.post("predict", json=body(fragile.CRASH, 0.0, f"{running.url}"))
                assert crashed.status_code == 503
                assert crashed.headers["Retry-After"]
            wait_for(lambda: any(miss.status_code == 503 for miss in load.misses), "no 503")
            (other,) = wait_for(lambda: hosts(running), "the host is not started again")
            assert other != pid
            answered = len(load.misses)
            wait_for(
                lambda: (
                    len(load.misses) > answered + 50
                    and all(miss.status_code == 200 for miss in load.misses[-20:])
                ),
                "the misses are not answered again",
            )
        finally:
            load.stop()
        assert set(load.hits) == {(200, True)}
        assert {miss.status_code for miss in load.misses} == {200, 503}
        for miss in load.misses:
            if miss.status_code == 503:
                assert miss.json()["code"] == "model-not-ready"
                assert int(miss.headers["Retry-After"]) >= 1
        wait_for(
            lambda: all(client.get("health").json()["model_host"] == "ok" for _ in range(4)),
            "health does not recover",
        )


@pytest.mark.contract("S9")
def test_sigterm_fails_no_accepted_request_and_leaves_no_process(running):
    mark = running.var / "slow"
    mark.unlink(missing_ok=True)
    (pid,) = hosts(running)

    def ask(n):
        statuses = []
        while True:  # until the server is gone: who looks late still finds some under way
            try:
                answer = httpx.post(
                    f"{running.url}/api/v1/predict",
                    json=body(fragile.SLOW, float(n + 6 * len(statuses)), running.url),
                    headers={"Authorization": f"Bearer {running.demo['token']}"},
                    timeout=60,
                )
            except httpx.TransportError:
                return statuses  # whoever connects once the port is closed is not accepted
            statuses.append(answer.status_code)

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, n) for n in range(6)]
        wait_for(mark.exists, "the slow rows have not begun")
        with running.client() as client:
            stats = "serving/stats"

            def accepted():
                version = client.get(stats).json()["models"]["default"]["versions"]["1"]
                return version["queued"] + version["running"] >= 2

            wait_for(accepted, "they are not in the model's queue")
        status = stop(running)
        answers = [status for each in asked for status in each.result(60)]
    assert status in {0, -signal.SIGTERM}
    assert set(answers) == {200}
    wait_for(lambda: not runs(pid), "the host is still there")
    assert "did not end in time" not in running.log.read_text()


@pytest.mark.contract("S9")
@pytest.mark.parametrize("running", [2], indirect=True, ids=["two workers"])
def test_ctrl_c_ends_all_in_order(running):
    (pid,) = hosts(running)
    os.kill(running.process.pid, signal.SIGINT)
    assert running.process.wait(30) in {0, -signal.SIGINT, 128 + signal.SIGINT}
    wait_for(lambda: not runs(pid), "the host is still there")
    assert "Traceback" not in running.log.read_text()


@pytest.mark.contract("S10")
def test_workers_that_share_a_host_count_its_batches_once(fragile_installation):
    server = start(fragile_installation, free_port(), workers=2)
    try:

        def counted(client):
            answer = client.get("serving/stats", headers={"Connection": "close"}).json()
            model = answer["models"]["default"]
            version = model["versions"]["1"]
            asked = model["by_source"].get("model", 0)
            return asked, version["submitted"], version["processes"]

        with server.client() as client:
            for n in range(20):
                client.post(
                    "predict", json=body(0.0, float(n), "stats"), headers={"Connection": "close"}
                )
            # Every question is counted in one of the workers, and its row in the host.
            wait_for(lambda: counted(client) == (20, 20, 2), "the counts do not agree")
    finally:
        stop(server)


@pytest.mark.contract("S9")
def test_no_host_outlives_a_server_that_is_killed(fragile_installation):
    server = start(fragile_installation, free_port())
    (pid,) = hosts(server)
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not runs(pid), "the host is still there")


@pytest.mark.contract("S11")
def test_no_framework_is_loaded_in_a_web_worker(server):
    with server.client() as client:
        assert client.post("predict", json={"user_id": "1"}).status_code == 200
        assert client.get("health").json()["model_host"] == "ok"
    (host,) = hosts(server)
    worker = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "/torch/" not in worker
    assert "/tensorflow/" not in worker
    assert "/torch/" in Path(f"/proc/{host}/maps").read_text()


def test_without_a_host_each_worker_runs_its_models(fragile_installation, monkeypatch):
    monkeypatch.setenv("RECSERVE_MODEL_HOST", "off")
    server = start(fragile_installation, free_port())
    try:
        assert not hosts(server)
        with server.client() as client:
            answer = client.post("predict", json=body(0.0, 3.0, "off"))
            assert answer.json()["recommendations"][0] == "i0"
            assert client.get("health").json()["model_host"] is None
    finally:
        stop(server)
