"""From an empty folder to an installed plugin: what startplugin writes, unchanged."""

from __future__ import annotations

import json
import os

import pytest

from plugins import skeleton
from tests.journeys.test_plugin_install import Environment

pytestmark = pytest.mark.contract("O7")

PAGE = """
import django; django.setup()
from django.core.management import call_command
from django.contrib.auth.models import User
from django.test import Client
call_command("migrate", verbosity=0)
client = Client()
client.force_login(User.objects.create_superuser("root"))
print(client.get("/admin/plugins/", headers={"host": "localhost"}).content.decode())
"""


def test_every_kind_installs_passes_its_tests_and_is_shown(tmp_path):
    environment = Environment(tmp_path)
    projects = []
    for kind in skeleton.kinds():
        name = f"my_{kind}"
        environment.run(
            *("manage.py", "startplugin", name, f"--kind={kind}", f"--directory={tmp_path}")
        )
        projects.append(tmp_path / f"recserve-{name.replace('_', '-')}")
    environment.install(*projects)

    alone = ("-p", "no:django", "-p", "no:cacheprovider", "-c", os.devnull)
    tests = [str(each / "tests") for each in projects]
    environment.run("-m", "pytest", "-q", "--import-mode=importlib", *alone, *tests)

    listed = environment.plugins()
    page = environment.run(
        "-c",
        f"import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'recserve_project.settings'\n{PAGE}",
    )
    for kind in skeleton.kinds():
        record = listed[f"my_{kind}"]
        assert (record["state"], record["api"]) == ("loaded", 1), json.dumps(record)
        assert skeleton.hooks()[kind] in record["hooks"]
        assert f'data-plugin="my_{kind}" data-state="loaded"' in page
