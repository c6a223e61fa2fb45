"""The demo: run again it changes nothing; interrupted it leaves nothing; bad data is named."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.journeys.conftest import ROOT, environment, manage, start, stop

pytestmark = pytest.mark.xdist_group("journey")


def dump(var):
    """Return what is meant to be kept; what running processes report comes and goes."""
    kept = ("ServedModel", "ModelVersion", "Alias", "Promotion")
    names = [f"serving_app.{name}" for name in kept]
    return json.loads(manage(var, "dumpdata", *names, "auth.user").stdout)


def test_a_second_run_destroys_nothing_and_follows_the_port(installation):
    var, port = installation
    before, kept = dump(var), json.loads((var / "demo.json").read_text())
    again = manage(var, "demo", "--port", str(port + 1))
    assert "set up already" in again.stdout
    assert kept["password"] not in again.stdout
    after = json.loads((var / "demo.json").read_text())
    assert after == {**kept, "url": f"http://127.0.0.1:{port + 1}"}
    assert dump(var) == before
    manage(var, "demo", "--port", str(port))


@pytest.mark.skipif("RECSERVE_DATA" not in os.environ, reason="RECSERVE_DATA names no data folder")
def test_its_quality_on_a_real_shop(installation):
    var, _ = installation
    versions = [row["fields"] for row in dump(var) if row["model"] == "serving_app.modelversion"]
    (metrics,) = [each["metrics"] for each in versions if each["artifact"].endswith(".pt")]
    assert metrics["hr_at_10"] >= 0.37
    assert 0.235 <= metrics["hr_at_10_popularity"] <= 0.255
    assert metrics["users_evaluated"] == 2350


def test_a_database_without_tables_is_named_before_anything_is_trained(tmp_path):
    done = manage(tmp_path, "demo", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("run manage.py migrate first.")
    assert not (tmp_path / "models").exists()


def test_other_data_become_new_versions_and_a_new_database_a_new_demo(tmp_path):
    data, var = tmp_path / "data", tmp_path / "var"
    data.mkdir()
    var.mkdir()
    rows = [
        f"{u},{i},1,{day * 86400 + u}" for u in range(1, 30) for i, day in [(u % 7, 1), (u % 5, 2)]
    ]
    (data / "interactions.csv").write_text("user,item,rating,timestamp\n" + "\n".join(rows) + "\n")
    (data / "items.csv").write_text("item,title\n1,One\n")
    manage(var, "migrate", "--verbosity", "0")
    first = manage(var, "demo", "--data", str(data))
    kept = json.loads((var / "demo.json").read_text())
    assert kept["password"] in first.stdout
    (data / "more").mkdir()
    for name in ("interactions.csv", "items.csv"):
        (data / "more" / name).write_text((data / name).read_text())
    second = manage(var, "demo", "--data", str(data / "more"))
    assert kept["password"] not in second.stdout
    assert json.loads((var / "demo.json").read_text())["password"] == kept["password"]
    live = [m["fields"]["version"] for m in dump(var) if m["model"].endswith(".alias")]
    numbers = {m["pk"]: m["fields"]["number"] for m in dump(var) if "modelversion" in m["model"]}
    assert sorted(numbers[version] for version in live) == [2, 6]
    for path in var.glob("db.sqlite3*"):
        path.unlink()
    manage(var, "migrate", "--verbosity", "0")
    assert "Password" in manage(var, "demo", "--data", str(data)).stdout


def test_an_interrupted_demo_leaves_nothing_half_registered(tmp_path):
    manage(tmp_path, "migrate", "--verbosity", "0")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "demo"],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:  # a line per step
        if line.startswith("Validating"):
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not any(row["model"].startswith("serving_app") for row in dump(tmp_path))
    assert list((tmp_path / "models").iterdir()) == []
    assert not (tmp_path / "demo.json").exists()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "interactions"),
        ({"interactions.csv": "user,item\n1,2\n", "items.csv": "item,title\n2,x\n"}, "timestamp"),
        (
            {
                "interactions.csv": "user,item,rating,timestamp\n1,2,1,yesterday\n",
                "items.csv": "item,title\n2,x\n",
            },
            "2",
        ),
    ],
)
def test_bad_data_is_named_and_nothing_is_left(tmp_path, files, says):
    data, var = tmp_path / "data", tmp_path / "var"
    data.mkdir()
    var.mkdir()
    for name, content in files.items():
        (data / name).write_text(content)
    manage(var, "migrate", "--verbosity", "0")
    done = manage(var, "demo", "--data", str(data), check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert says in done.stderr
    assert not (var / "demo.json").exists()


@pytest.mark.contract("S9")
def test_the_server_ends_cleanly_and_starts_again(installation, server):
    var, port = installation
    status = stop(server)
    again = start(var, port)
    server.process = again.process  # the session's server goes on
    assert status in {0, -signal.SIGTERM}  # uvicorn ends by the signal that it was sent
    with again.client() as client:
        assert client.post("predict", json={"user_id": "1"}).status_code == 200
