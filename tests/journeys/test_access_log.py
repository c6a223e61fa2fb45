"""Every request that a server answered has its line in the log, though it ends at once."""

import json
import threading

import httpx
import pytest

from tests.conftest import FEATURES, write_catalogue, write_linear
from tests.journeys.conftest import free_port, manage, start, stop

pytestmark = pytest.mark.contract("A8")


def test_no_line_is_lost_when_the_server_is_told_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSERVE_LOG_FORMAT", "json")
    store = tmp_path / "models"
    store.mkdir()
    write_linear(store, "linear.npz")
    model = ("register_model", "--live", "default", "linear.npz", "--framework", "numpy_linear")
    manage(tmp_path, "migrate", "--verbosity", "0")
    features = ("--feature-names", ",".join(FEATURES))
    manage(tmp_path, *model, "--catalogue", write_catalogue(store), *features)
    made = manage(tmp_path, "createtoken", "shop", "--json").stdout
    (tmp_path / "demo.json").write_text(json.dumps({"token": json.loads(made)["token"]}))
    server = start(tmp_path, free_port())
    answered = []

    def ask(who):
        with server.client() as client:
            for n in range(2000):
                id_ = f"{who}-{n}"
                body = {"user_id": who, "features": [1, 2, 3]}
                try:
                    answer = client.post("predict", json=body, headers={"X-Request-ID": id_})
                except httpx.TransportError:
                    return  # the server has ended
                answered.append((id_, answer.status_code))
                if n == 50:
                    enough.set()

    enough = threading.Event()
    threads = [threading.Thread(target=ask, args=(f"user{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    stop(server)
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line[0] == "{"]
    logged = {each["request_id"]: each for each in lines if each["logger"] == "recserve.access"}
    assert {status for _, status in answered} == {200}
    missing = [id_ for id_, _ in answered if id_ not in logged]
    assert not missing
    assert {logged[id_]["source"] for id_, _ in answered[-20:]} == {"l1"}
