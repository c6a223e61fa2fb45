"""The code blocks of README and tutorial do what they say, on a running server."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.journeys.conftest import ROOT, environment

pytestmark = [
    pytest.mark.xdist_group("journey"),
    pytest.mark.skipif(
        shutil.which("curl") is None,
        reason="curl is not on the PATH; scripts/install-test-servers installs it on Debian",
    ),
]

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Reader:
    """Does what a page says, in a folder that looks like the project's."""

    def __init__(self, folder: Path, server) -> None:
        self.folder = folder
        self.server = server
        for name in ("manage.py", "plugins", "cache_app", "serving_app", "recserve_project"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "var").symlink_to(server.var)
        python = folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        self.shell = "set -e\n"

    def do(self, language: str, code: str) -> str:
        code = code.replace("http://127.0.0.1:8000", self.server.url)
        if language == "python":
            command = [sys.executable, "-W", "ignore", "-c", code]
        else:
            # Variables set by earlier blocks hold, as in a reader's shell.
            command = ["bash", "-c", self.shell + code]
            self.shell += "".join(re.findall(r"^[A-Z]+=.*\n", code, re.MULTILINE))
        done = subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=environment(self.server.var),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, code + done.stdout + done.stderr
        if "register_model" in code:
            self.wait_until_live("shop")
        return done.stdout

    def wait_until_live(self, name: str) -> None:
        deadline = time.monotonic() + 60
        with self.server.client() as client:
            while time.monotonic() < deadline:
                states = client.get(f"models/{name}").json()["activations"]
                if states and states[0]["state"] == "live":
                    return
                assert not states or states[0]["state"] != "failed", states
                time.sleep(0.05)
        raise AssertionError(f"{name} does not go live")


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_code_blocks_of_a_page_run(page, tmp_path, server):
    reader = Reader(tmp_path, server)
    ran = 0
    for language, code in BLOCK.findall((ROOT / page).read_text("utf-8")):
        if code.startswith("make "):  # the test suite's own fixtures do what these do
            continue
        output = reader.do(language, code)
        ran += 1
        if "curl" in code:
            for line in output.replace("}{", "}\n{").splitlines():
                answer = json.loads(line)
                refused = "much" in code  # the one request that the tutorial wants refused
                assert (answer.get("status") == 422) == refused, line
    assert ran >= 5
