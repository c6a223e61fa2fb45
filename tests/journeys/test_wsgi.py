"""The same answers under WSGI, where the first request starts the models."""

import json
import subprocess
import sys

import pytest

from tests.journeys.conftest import ROOT, environment

pytestmark = pytest.mark.xdist_group("journey")

CODE = """
import io, json, sys, time
from wsgiref.util import setup_testing_defaults
from recserve_project.wsgi import application

def call(method, path, body=b"", token=""):
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.input": io.BytesIO(body),
               "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "application/json",
               "HTTP_AUTHORIZATION": f"Bearer {token}", "HTTP_HOST": "localhost"}
    setup_testing_defaults(environ)
    status = []
    body = b"".join(application(environ, lambda s, headers: status.append(int(s[:3]))))
    return status[0], body

token = sys.argv[1]
deadline = time.monotonic() + 60
while call("GET", "/api/v1/health/ready")[0] != 200:
    assert time.monotonic() < deadline
    time.sleep(0.05)
status, body = call("POST", "/api/v1/predict", b'{"user_id": "1", "k": 3}', token)
too_large = call("POST", "/api/v1/predict", b"x" * 1_100_000, token)[0]
print(json.dumps([status, json.loads(body), too_large]))
from serving_app import wiring
wiring.stop()
"""


@pytest.mark.contract("A1")
def test_wsgi_gives_the_answers_that_asgi_gives(server):
    done = subprocess.run(
        [sys.executable, "-c", CODE, server.demo["token"]],
        cwd=ROOT,
        env=environment(server.var),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, answer, too_large = json.loads(done.stdout.splitlines()[-1])
    with server.client() as client:
        expected = client.post("predict", json={"user_id": "1", "k": 3}).json()
    assert status == 200
    assert answer["recommendations"] == expected["recommendations"]
    assert answer["scores"] == pytest.approx(expected["scores"])
    assert too_large == 413
