"""L1 above the embedded L2, through the whole of serving, in two real processes."""

import json
import subprocess
import sys

import pytest

from cache_app import wiring as cache_wiring
from serving_app import wiring
from serving_app.core.ranking import Ranking
from tests.journeys.conftest import ROOT

pytestmark = pytest.mark.contract("C1")

ASK = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
from django.conf import settings
import django
from tests import settings as module

given = json.loads(sys.argv[1])
module.RECSERVE = given["RECSERVE"]
sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": given["database"]}
module.DATABASES = {"default": sqlite}
django.setup()
from cache_app.wiring import get_levels
from plugins import RecommendationRequest
from serving_app import wiring
from pathlib import Path

if given["first"]:
    from django.core.management import call_command
    from serving_app.registration import promote, register
    from tests.conftest import linear_draft

    call_command("migrate", verbosity=0)
    promote(register("default", linear_draft(Path(given["store"]))))
wiring.get_serving().reconciler.reconcile()
request = RecommendationRequest(
    user_id=1, model_name="default", k=3, exclude=frozenset(), context={},
    features={"age": 1, "visits": 2, "spend": 3}, timeout=None,
)
seen = []
for _ in range(given["times"]):
    answer = wiring.get_recommender().recommend(request)
    (key,) = {key for level in get_levels()._levels[:1] for key in level.resident_keys()}
    found = get_levels().find(key)
    seen.append([answer.source, list(answer.items), list(answer.scores), found.expires])
print(json.dumps([seen, key]))
wiring.stop()
"""


def test_a_second_process_answers_from_l2_then_from_l1(tmp_path):
    store = tmp_path / "models"
    store.mkdir()
    given = {
        "RECSERVE": {
            "SERVING": {"MODEL_STORE": str(store)},
            "CACHE": {"L2": {"BACKEND": "embedded", "PATH": str(tmp_path / "cache")}},
        },
        "database": str(tmp_path / "db.sqlite3"),
        "store": str(store),
        "times": 2,
    }

    def ask(**more):
        done = subprocess.run(
            [sys.executable, "-c", ASK, json.dumps({**given, **more})],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    first, key = ask(first=True)
    second, same_key = ask(first=False)
    assert key == same_key
    assert [source for source, *_ in first] == ["model", "l1"]
    assert [source for source, *_ in second] == ["l2", "l1"]
    # One answer, to the last bit of its scores, and one absolute expiry.
    assert len({json.dumps(rest) for _, *rest in first + second}) == 1


@pytest.mark.contract("C8")
def test_clearing_the_cache_clears_l2(live_model, settings, tmp_path, client_as):
    settings.RECSERVE = {
        **settings.RECSERVE,
        "CACHE": {"L2": {"BACKEND": "embedded", "PATH": str(tmp_path / "cache")}},
    }
    wiring.stop()
    cache_wiring.reset()
    wiring.get_serving().reconciler.reconcile()
    client = client_as("operate")

    def ask():
        body = {"user_id": 7, "features": [1, 2, 3]}
        return client.post("/api/v1/predict", body, format="json").json()["source"]

    assert [ask(), ask()] == ["model", "l1"]
    levels = cache_wiring.get_levels()
    levels._levels[0].clear()
    assert ask() == "l2"
    stats = client.get("/api/v1/cache/stats").json()
    assert {"l1", "l2"} <= set(json.dumps(stats).replace('"', " ").split())
    assert client.delete("/api/v1/cache/clear?user_id=7").status_code == 200
    assert levels.stats()["l2"].entries == 0
    assert ask() == "model"
    assert client.delete("/api/v1/cache/clear?all=true").status_code == 200
    assert levels.stats()["l2"].entries == 0
    assert ask() == "model"


def test_serving_says_what_it_caches():
    assert cache_wiring._value_type is Ranking
