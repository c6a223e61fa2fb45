"""Migrations, from the first to the last and back, on a database of their own."""

import itertools

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

pytestmark = pytest.mark.contract("S1")

OURS = ("cache_app", "serving_app")


@pytest.fixture
def empty(tmp_path, django_db_blocker, django_db_setup):
    """The alias of an empty database of the same kind as the tests'."""
    alias, default = "empty", connections["default"]
    on_server = default.vendor == "postgresql"
    name = f"{default.settings_dict['NAME']}_empty" if on_server else tmp_path / "empty.sqlite3"
    with django_db_blocker.unblock():
        if on_server:
            with default.cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{name}"')
        connections.databases[alias] = {**connections.databases["default"], "NAME": name}
        yield alias
        connections[alias].close()
        if on_server:
            with default.cursor() as cursor:
                cursor.execute(f'DROP DATABASE "{name}"')
    del connections[alias]
    del connections.databases[alias]


def migrate(alias, *target):
    call_command("migrate", *target, database=alias, verbosity=0)


def tables(alias):
    with connections[alias].cursor() as cursor:
        names = connections[alias].introspection.table_names(cursor)
    return {name for name in names if name.startswith(OURS)}


def state(alias):
    """Return the models as they are after the migrations that were applied."""
    executor = MigrationExecutor(connections[alias])
    applied = [key for key in executor.loader.applied_migrations if key[0] in OURS]
    return executor.loader.project_state(applied).apps


def test_all_go_forward_back_to_nothing_and_forward_again(empty):
    migrate(empty)
    whole = tables(empty)
    assert {"serving_app_servedmodel", "serving_app_rollout", "cache_app_invalidation"} <= whole
    for app in reversed(OURS):
        migrate(empty, app, "zero")
    assert tables(empty) == set()
    migrate(empty)
    assert tables(empty) == whole


def test_each_can_be_undone_and_done_again(empty):
    migrate(empty)
    for app in OURS:
        loader = MigrationExecutor(connections[empty]).loader
        names = sorted(name for label, name in loader.disk_migrations if label == app)
        for before, this in reversed(list(itertools.pairwise(names))):
            there = tables(empty)
            migrate(empty, app, before)
            migrate(empty, app, this)
            assert tables(empty) == there
            migrate(empty, app, before)
        migrate(empty)


def test_what_is_live_survives_both_ways(empty):
    migrate(empty, "serving_app", "0002")
    apps = state(empty)
    rows = apps.get_model("serving_app", "ServedModel").objects.using(empty)
    versions = apps.get_model("serving_app", "ModelVersion").objects.using(empty)
    model = rows.create(name="shop")
    rows.create(name="idle")
    fields = {
        "feature_names": [],
        "sha256": "",
        "signature": {},
        "items": 1,
        "validated": "2026-01-01T00:00Z",
    }
    version = versions.create(model=model, number=3, framework="f", artifact="a", **fields)
    rows.filter(pk=model.pk).update(live_version=version)

    migrate(empty)
    aliases = state(empty).get_model("serving_app", "Alias").objects.using(empty)
    assert list(aliases.values_list("model__name", "name", "version__number")) == [
        ("shop", "production", 3)
    ]

    migrate(empty, "serving_app", "0002")
    rows = state(empty).get_model("serving_app", "ServedModel").objects.using(empty)
    assert dict(rows.values_list("name", "live_version__number")) == {"shop": 3, "idle": None}


@pytest.mark.django_db(transaction=True)
def test_emptying_the_database_leaves_the_groups():
    call_command("flush", verbosity=0, interactive=False)
    permissions = Group.objects.get(name="recserve predict").permissions
    assert permissions.get().codename == "predict"
