"""A web process whose models run in a model host: the same answers, health and statistics."""

import asyncio
import gc
import os
import signal
import threading
import time

import pytest

from cache_app.core import single_flight
from plugins import ModelNotReady, RecommendationRequest
from serving_app import process_statistics, wiring
from serving_app.core.engine import LocalEngine
from serving_app.host.process import HostConfig
from serving_app.host.supervisor import HostSupervisor, host_command
from serving_app.registration import promote, register
from tests.conftest import expected_ranking, linear_draft

pytestmark = [pytest.mark.django_db, pytest.mark.contract("S11")]


@pytest.fixture
def host(fresh, store, settings, tmp_path_factory):
    """A model host that this process is told to use; with its version live."""
    socket = tmp_path_factory.mktemp("h") / "host.sock"
    serving = {**settings.RECSERVE["SERVING"], "MODEL_HOST": str(socket)}
    settings.RECSERVE = {**settings.RECSERVE, "SERVING": serving}
    config = HostConfig(str(socket), str(store), ends_with_stdin=True)
    supervisor = HostSupervisor(host_command(config), socket)
    supervisor.start()
    promote(register("default", linear_draft(store)))
    wiring.get_serving().reconciler.reconcile()
    yield supervisor
    wiring.stop()
    supervisor.stop()


def ask(n, **more):
    request = RecommendationRequest("u", features=[1.0, 2.0, 3.0], context={"n": n}, k=20, **more)
    return wiring.get_recommender().recommend(request)


def health(client_as):
    return client_as("operate").get("/api/v1/health").json()


def test_it_answers_tells_and_recovers(host, store, client_as):
    live = wiring.get_serving().live.live()["default"]
    assert not isinstance(live._engine, LocalEngine)
    wanted = expected_ranking(store, "linear.npz", [1, 2, 3])
    assert list(ask(0).items) == wanted
    assert ask(0).cached
    batch = ask(0.5, explain=True).explanation.batch
    assert (batch.size, batch.queued >= 0, batch.ran > 0) == (1, True, True)
    assert (health(client_as)["status"], health(client_as)["model_host"]) == ("ok", "ok")
    serving = wiring.get_serving()
    statistics = process_statistics.own(serving.live, serving.recommender)
    (name,) = statistics.versions["default"][1].engines
    assert f":{host.pid}/" in name
    assert statistics.versions["default"][1].batching.submitted == 2

    os.kill(host.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    n = away = 0
    while not away or health(client_as)["model_host"] != "ok":
        n += 1
        try:
            assert list(ask(n).items) == wanted
        except ModelNotReady:
            away += 1
            assert ask(0).cached, "a hit needs no host"
        assert time.monotonic() < deadline
    assert list(ask(-1).items) == wanted


def test_misses_leave_no_garbage(host, store, monkeypatch):
    monkeypatch.setattr(single_flight, "_REMEMBERED", 1)
    ask("first")
    gc.collect()
    gc.disable()
    try:
        for n in range(100):
            ask(f"miss {n}")
        assert gc.collect() < 100, "of each miss, that would be"
    finally:
        gc.enable()


def test_the_event_loop_reads_answers_where_l1_is_the_only_level(host, store):
    wanted = expected_ranking(store, "linear.npz", [1, 2, 3])
    live = wiring.get_serving().live.live()["default"]
    row = live.layout.row([1.0, 2.0, 3.0])

    async def use():
        wiring.attach(asyncio.get_running_loop())
        here = threading.get_ident()
        told = []
        answer = live.submit(row, 20)
        answer.add_done_callback(lambda _: told.append(threading.get_ident()))
        assert list((await asyncio.wrap_future(answer)).items) == wanted
        assert told == [here]
        # Views wait on threads, as ever.
        assert list((await asyncio.to_thread(ask, "loop")).items) == wanted
        wiring.detach()

    asyncio.run(asyncio.wait_for(use(), 60))
    assert list(ask("thread").items) == wanted
