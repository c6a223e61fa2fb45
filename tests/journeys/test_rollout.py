"""A bad canary among two worker processes, and swaps while they are asked."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.conftest import FEATURES, write_catalogue, write_linear
from tests.journeys.conftest import free_port, start, stop
from tests.servers import wait_for

pytestmark = pytest.mark.xdist_group("journey")

logger = logging.getLogger(__name__)

NAME = "tried"


@pytest.fixture
def two_workers(installation, server):
    port = free_port()
    running = start(installation[0], port, workers=2)
    yield running
    stop(running)


def write_faulty(folder, name):
    """Write a model whose scores overflow where a feature is large, as no sample's is."""
    write_linear(folder, name, seed=2)
    with np.load(folder / name) as arrays:
        weights, bias = arrays["weights"].copy(), arrays["bias"]
    weights[2, :] = 3e37
    np.savez(folder / name, weights=weights, bias=bias)


def states(client):
    """Return version and state of each activation."""
    activations = client.get(f"models/{NAME}").json()["activations"]
    return sorted((row["version"], row["state"]) for row in activations)


@pytest.fixture
def administrator(two_workers):
    """An administrator's client; the model has a sound version 1, live, and 2, which is faulty."""
    models = two_workers.var / "models"
    write_linear(models, "tried-1.npz", seed=1)
    write_faulty(models, "tried-2.npz")
    write_catalogue(models, "tried.csv")
    with two_workers.administrator() as client:
        assert client.post("models", json={"name": NAME}).status_code == 201
        for number in (1, 2):
            body = {
                "artifact": f"tried-{number}.npz",
                "framework": "numpy_linear",
                "catalogue": "tried.csv",
                "feature_names": list(FEATURES),
            }
            registered = client.post(f"models/{NAME}/versions", json=body)
            assert registered.status_code == 201, registered.text
        client.post(f"models/{NAME}/promote", json={"version": 1}).raise_for_status()
        # This server and the other one of the tests: three processes.
        wait_for(lambda: states(client) == [(1, "live")] * 3, 60)
        yield client
        client.delete(f"models/{NAME}").raise_for_status()


@pytest.mark.contract("S14")
def test_a_canary_that_fails_is_rolled_back_in_every_process(administrator, two_workers):
    rollouts = f"models/{NAME}/rollouts"

    started = administrator.post(rollouts, json={"version": 2, "percents": [20]})
    assert started.status_code == 201, started.text
    own = f"{rollouts}/{started.json()['id']}"
    wait_for(lambda: states(administrator) == [(1, "live")] * 3 + [(2, "live")] * 3, 60)
    stopping = threading.Event()

    def ask(client, n):
        features = {"age": 1, "visits": float(n % 7), "spend": 50 + n}
        question = {"user_id": f"u{n % 500}", "model_name": NAME, "features": features}
        return client.post("predict", json=question, headers={"Connection": "close"})

    def load(seed):
        answered = []
        with two_workers.client() as client:
            n = seed
            while not stopping.is_set():
                answer = ask(client, n)
                answered.append((n % 500, answer.status_code, answer.json().get("alias")))
                n += 4
        return answered

    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, seed) for seed in range(4)]
        try:
            wait_for(lambda: administrator.get(own).json()["state"] == "rolled_back", 60)
            wait_for(lambda: (2, "live") not in states(administrator), 60)
        finally:
            stopping.set()
        took = time.monotonic() - began
        answered = [each for one in loads for each in one.result(60)]
    # The bar is 10 s; a busy machine takes its time.
    logger.info("Rolled back, and out of every process, after %.1f s", took)
    failed = {user for user, status, _ in answered if status == 500}
    production = {user for user, _, alias in answered if alias == "production"}
    assert {status for _, status, _ in answered} == {200, 500}
    assert failed, "the canary was asked"
    assert len(failed) < 0.4 * len(failed | production), "and only by its share of the users"
    step = administrator.get(own).json()["steps"][0]
    assert (step["action"], step["by"], step["figures"]["measure"]) == (
        "rolled_back",
        None,
        "errors",
    )
    with two_workers.client() as client:
        again = [ask(client, n) for n in range(1000, 1060)]
    assert {(a.status_code, a.json()["alias"]) for a in again} == {(200, "production")}


@pytest.mark.contract("S9")
def test_a_version_that_fails_on_what_was_asked_lately_does_not_go_live(administrator, two_workers):
    with two_workers.client() as client:
        for n in range(40):
            question = {
                "user_id": f"u{n}",
                "model_name": NAME,
                "features": {"age": 1, "visits": 2, "spend": 50 + n},
            }
            answer = client.post("predict", json=question, headers={"Connection": "close"})
            assert answer.status_code == 200
        administrator.post(
            f"models/{NAME}/promote", json={"version": 2, "wait_seconds": 0}
        ).raise_for_status()

        def refused():
            rows = administrator.get(f"models/{NAME}").json()["activations"]
            return [row["problem"] for row in rows if row["state"] == "failed"]

        wait_for(lambda: len(refused()) >= 2, 60)
        assert all("recent requests that were replayed" in problem for problem in refused())
        for n in range(100, 120):
            question["features"]["spend"] = n
            answer = client.post("predict", json=question, headers={"Connection": "close"})
            assert (answer.status_code, answer.json()["model_version"]) == (200, 1)
