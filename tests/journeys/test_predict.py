"""Fresh database → demo → predictions over HTTP → promote, roll back, swap under load."""

import csv
import lzma
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.servers import wait_for

pytestmark = pytest.mark.xdist_group("journey")

POPULARITY, TORCH, TENSORFLOW, NUMPY = 1, 2, 3, 4


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture
def administrator(server):
    with server.administrator() as client:
        yield client


@pytest.fixture(scope="module")
def users(server):
    """Fifty users of the demo."""
    ids = next((server.var / "models").glob("demo-*/factorisation_features/ids.npy"))
    known = np.load(ids, allow_pickle=False)
    return [user.decode() for user in known[:: max(1, len(known) // 50)][:50]]


@pytest.fixture(scope="module")
def titles(server):
    """Title by item id: from the real data where it is here, else from the demo's catalogue."""
    folder = os.environ.get("RECSERVE_DATA")
    if folder:
        path = Path(folder) / "recs" / "online-retail" / "items.csv.xz"
        with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
            return {row["item"]: row["title"] for row in csv.DictReader(file)}
    path = next((server.var / "models").glob("demo-*/catalogue.csv"))
    with path.open(encoding="utf-8", newline="") as file:
        return {row["item"]: row["title"] for row in csv.DictReader(file)}


def predict(client, **body):
    response = client.post("predict", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def promote(administrator, version):
    response = administrator.post(
        "models/default/promote", json={"version": version, "wait_seconds": 120}
    )
    assert response.status_code == 200, response.text
    assert response.json()["live_here"] is True, response.text


@pytest.fixture(autouse=True)
def torch_version_is_live(administrator):
    promote(administrator, TORCH)
    yield
    promote(administrator, TORCH)


@pytest.mark.contract("A1")
def test_fifty_users_get_real_items(client, users, titles):
    answers = set()
    for user in users:
        answer = predict(client, user_id=user, k=10, titles=True)
        items = answer["recommendations"]
        assert len(items) == len(set(items)) == 10
        assert [titles[item] for item in items] == answer["titles"]
        assert (answer["model_name"], answer["model_version"]) == ("default", TORCH)
        excluded = predict(client, user_id=user, k=5, exclude=items[:3])["recommendations"]
        assert excluded == items[3:8]
        again = predict(client, user_id=user, k=10, titles=True)
        assert again["cached"] is True
        assert (again["recommendations"], again["scores"]) == (items, answer["scores"])
        answers.add(tuple(items))
    assert len(answers) > len(users) / 2, "recommendations are personal"


@pytest.mark.contract("A2")
def test_batch_and_single_give_equal_answers(client, users):
    operator = client
    operator.delete("cache/clear", params={"all": "true"})
    batch = client.post(
        "predict/batch", json={"requests": [{"user_id": user, "k": 10} for user in users]}
    ).json()
    assert not any(result["cached"] for result in batch["results"])
    operator.delete("cache/clear", params={"all": "true"})
    for user, in_batch in zip(users, batch["results"], strict=True):
        alone = predict(client, user_id=user, k=10)
        assert alone["recommendations"] == in_batch["recommendations"]
        assert alone["scores"] == pytest.approx(in_batch["scores"], rel=1e-4, abs=1e-5)


@pytest.mark.contract("S2")
def test_torch_tensorflow_and_numpy_give_equal_top_tens(client, administrator, users):
    def top_tens():
        return [predict(client, user_id=user, k=10)["recommendations"] for user in users]

    torch = top_tens()
    promote(administrator, TENSORFLOW)
    assert top_tens() == torch
    promote(administrator, NUMPY)
    assert top_tens() == torch


@pytest.mark.contract("S9")
def test_promoting_changes_the_answer_and_rolling_back_restores_it(client, administrator, users):
    before = predict(client, user_id=users[0])
    promote(administrator, POPULARITY)
    popular = predict(client, user_id=users[0])
    assert popular["model_version"] == POPULARITY
    assert popular["recommendations"] != before["recommendations"]
    assert popular["recommendations"] == predict(client, user_id=users[1])["recommendations"]
    rolled_back = administrator.post("models/default/rollback").json()
    assert (rolled_back["live_version"], rolled_back["live_here"]) == (TORCH, True)
    after = predict(client, user_id=users[0])
    assert after["model_version"] == TORCH
    assert (after["recommendations"], after["cached"]) == (before["recommendations"], True)


@pytest.mark.contract("S9")
def test_no_request_fails_during_twenty_swaps_under_load(server, administrator, users):
    stopping = threading.Event()

    def load(seed):
        answered, n = [], seed
        with server.client() as client:
            while not stopping.is_set():
                # A new context each time: every request goes to the model, none to the cache.
                body = {"user_id": users[n % len(users)], "context": {"seed": seed, "n": n}}
                response = client.post("predict", json=body)
                answered.append((response.status_code, response.json().get("model_version")))
                n += 1
        return answered

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, seed) for seed in range(4)]
        try:
            for swap in range(20):
                promote(administrator, NUMPY if swap % 2 else POPULARITY)
        finally:
            stopping.set()
        answered = [each for one in loads for each in one.result(60)]
    assert {status for status, _ in answered} == {200}
    assert {POPULARITY, NUMPY} <= {version for _, version in answered}


@pytest.mark.contract("A5")
def test_the_service_token_may_predict_and_operate_but_not_administer(client):
    assert client.get("serving/stats").status_code == 200
    assert client.post("models/default/promote", json={"version": 1}).status_code == 403


def test_the_credentials_are_kept_for_their_owner_only(server):
    kept = server.var / "demo.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert set(server.demo) == {"url", "username", "password", "token", "models", "source"}
    assert set(server.demo["models"]) == {"default", "popular"}
    assert stat.S_IMODE((server.var / "secret.key").stat().st_mode) == 0o600


def test_oversized_bodies_are_refused_at_the_door(server, client):
    declared = client.post(
        "predict", content=b"x" * 1_100_000, headers={"Content-Type": "application/json"}
    )
    assert declared.status_code == 413
    assert declared.json()["code"] == "body-too-large"
    assert declared.json()["request_id"] == declared.headers["X-Request-ID"]

    def undeclared():
        for _ in range(20):
            yield b"x" * 100_000

    with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=30) as other:
        chunked = other.post(
            "predict", content=undeclared(), headers={"Content-Type": "application/json"}
        )
    assert chunked.status_code == 413
    assert chunked.json()["request_id"] == chunked.headers["X-Request-ID"]


@pytest.mark.contract("A5")
def test_ids_go_in_and_out_and_into_the_log(server, client, users):
    def ask(n):
        return client.post(
            "predict", json={"user_id": users[n]}, headers={"X-Request-ID": f"journey-{n}"}
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(users))))
    for n, answer in enumerate(answers):
        assert answer.headers.get_list("X-Request-ID") == [f"journey-{n}"]

    def logged():  # a line is written when its answer is out
        lines = server.log.read_text("utf-8").splitlines()
        return [line for line in lines if "request_id=journey-" in line]

    wait_for(lambda: len(logged()) >= len(users))
    for n in range(len(users)):
        (line,) = [line for line in logged() if f"request_id=journey-{n} " in line]
        assert "POST /api/v1/predict 200" in line
        assert "model=default" in line
