"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from django.db import connections
from hypothesis.internal.conjecture import providers

from plugins.apps import reset_registry
from serving_app import wiring
from serving_app.models import ModelVersion
from serving_app.registration import Draft, promote, register
from tests.leftovers import Database, Process

FEATURES = ("age", "visits", "spend")
ITEMS = 20
MIGRATED = pytest.StashKey()
"""What is in the tests' database before any test, and what lets one ask it."""
BEFORE = pytest.StashKey()
"""What there was in the process before the test."""

# How long an example takes says how busy the machine is, and nothing of what is tested.
IN_ANY_TIME = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("repeatable", derandomize=True, max_examples=60, **IN_ANY_TIME)
hypothesis.settings.register_profile("search", max_examples=1000, **IN_ANY_TIME)
hypothesis.settings.load_profile("repeatable")

# In a shell's background Ctrl-C is ignored, by all that tests start too; yet they send it.
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run say how much is tried at random."""
    parser.addoption(
        "--fuzz", type=int, default=500, help="requests of tests/journeys/test_fuzz_volume.py"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let Hypothesis try the same examples in each run, unless a profile is asked for."""
    if not config.getoption("hypothesis_profile", None):
        # It also tries constants out of what is imported, which depends on the tests before.
        providers.is_local_module_file = lambda _: False


@pytest.fixture(scope="session")
def migrated(request, django_db_setup) -> Database:
    """What is in the tests' database before any test."""
    return request.config.stash[MIGRATED][0]


@pytest.fixture(scope="session")
def django_db_setup(request, django_db_setup, django_db_blocker):
    """The tests' database, and what is in it before any test."""
    with django_db_blocker.unblock():
        request.config.stash[MIGRATED] = Database(), django_db_blocker
    yield
    del request.config.stash[MIGRATED]  # from here on, the connection leads to another database


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item):
    """See what there is before a test."""
    item.stash[BEFORE] = Process()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item):
    """Let no test find what another left."""
    result = yield
    item.stash[BEFORE].restore()
    if MIGRATED in item.config.stash:
        database, blocker = item.config.stash[MIGRATED]
        with blocker.unblock():
            database.restore()
    return result


@pytest.fixture
def connection_of_the_test(monkeypatch):
    """Let no request end the connection whose transaction the test is in.

    For tests that call an application without Django's client, or stream: the end of a request
    closes old connections, and takes one in a transaction for a broken one.
    """
    monkeypatch.setattr(connections["default"], "close_if_unusable_or_obsolete", lambda: None)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data that RECSERVE_DATA names; skips without it."""
    folder = os.environ.get("RECSERVE_DATA")
    if not folder:
        pytest.skip("RECSERVE_DATA is not set: the real data is not here")
    return Path(folder)


@pytest.fixture
def store(tmp_path, settings) -> Path:
    """An empty model store."""
    folder = tmp_path / "models"
    folder.mkdir()
    settings.RECSERVE = {
        **settings.RECSERVE,
        "SERVING": {"MODEL_STORE": str(folder), "VALIDATION_SECONDS": 60},
    }
    return folder


@pytest.fixture
def fresh(store):
    """Nothing is live, and plugins are loaded by the test's settings."""
    reset_registry()
    yield
    wiring.stop()  # while it can still say good-bye to the database


def write_linear(folder: Path, name: str, *, seed: int = 0, items: int = ITEMS) -> str:
    """Write a numpy_linear model over ``FEATURES``, and return its file name."""
    rng = np.random.default_rng(seed)
    np.savez(
        folder / name,
        weights=rng.standard_normal((len(FEATURES), items)).astype(np.float32),
        bias=rng.standard_normal(items).astype(np.float32),
    )
    return name


def write_catalogue(folder: Path, name: str = "catalogue.csv", *, items: int = ITEMS) -> str:
    """Write a catalogue of items ``i0``, ``i1``, … and return its file name."""
    lines = [f"i{n},Item number {n}" for n in range(items)]
    (folder / name).write_text("\n".join(["item,title", *lines]) + "\n", "utf-8")
    return name


def linear_draft(store: Path, name: str = "linear.npz", *, seed: int = 0, **changes) -> Draft:
    """Return a draft of a numpy_linear version whose files are in the store."""
    given = {
        "artifact": write_linear(store, name, seed=seed),
        "framework": "numpy_linear",
        "catalogue": write_catalogue(store),
        "feature_names": FEATURES,
    }
    return Draft(**{**given, **changes})


def expected_ranking(store: Path, artifact: str, features) -> list[str]:
    """Return the item ids, best first, worked out by hand."""
    with np.load(store / artifact) as arrays:
        scores = np.array(features, np.float32) @ arrays["weights"] + arrays["bias"]
    return [f"i{n}" for n in np.argsort(-scores, kind="stable")]


@pytest.fixture
def live_model(fresh, store, db) -> ModelVersion:
    """The model ``default``, version 1, live in this process."""
    version = register("default", linear_draft(store))
    promote(version)
    wiring.get_serving().reconciler.reconcile()
    return version


@pytest.fixture
def client_as(django_user_model):
    """A factory of API clients: ``client_as("predict")`` is in the group ``recserve predict``."""
    from django.contrib.auth.models import Group
    from rest_framework.test import APIClient
    from rest_framework_simplejwt.tokens import AccessToken

    def client_as(role: str | None) -> APIClient:
        client = APIClient()
        if role is not None:
            user, _ = django_user_model.objects.get_or_create(username=f"{role}-user")
            if role != "nobody":
                user.groups.add(Group.objects.get(name=f"recserve {role}"))
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {AccessToken.for_user(user)}")
        return client

    return client_as
