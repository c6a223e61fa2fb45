from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from serving_app import promotion, registration
from serving_app.models import Alias
from tests.conftest import linear_draft

pytestmark = pytest.mark.contract("S1")


@pytest.fixture
def version(fresh, store, db):
    return registration.register("shop", linear_draft(store))


@pytest.mark.django_db
def test_an_alias_leads_to_one_version_and_moves(version, store, admin_user):
    two = registration.register("shop", linear_draft(store, "two.npz", seed=2))
    promotion.set_alias(version, "champion-2025", by=admin_user)
    promotion.set_alias(two, "champion-2025", by=admin_user)
    alias = Alias.objects.get()
    assert (str(alias), alias.version, version.model.live_version) == (
        "shop@champion-2025",
        two,
        None,
    )
    promotion.remove_alias(alias, by=admin_user)
    history = LogEntry.objects.filter(object_id=str(version.model.pk))
    assert [entry.change_message for entry in history.order_by("pk")] == [
        "Let shop@champion-2025 lead to version 1",
        "Let shop@champion-2025 lead to version 2",
        "Took shop@champion-2025 away from version 2",
    ]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "percent", "says"),
    [
        ("production", 0, "promote a version"),
        ("canary", 5, "start a roll-out"),
        ("3", 0, "is no number"),
        ("a b", 0, "An alias has"),
        ("mine", 5, "Only canary and shadow"),
        ("shadow", 101, "less than or equal to 100"),
        ("shadow", Decimal("0.001"), "2 decimal"),
    ],
)
def test_what_is_no_alias_is_refused(version, name, percent, says):
    with pytest.raises(ValidationError, match=says):
        promotion.set_alias(version, name, percent=Decimal(percent))
    assert not Alias.objects.exists()


@pytest.mark.django_db
def test_production_does_not_leave_and_a_failed_version_gets_no_alias(version):
    promotion.promote(version)
    with pytest.raises(ValidationError, match="promote another"):
        promotion.remove_alias(Alias.objects.get())
    version.problem = "broken"
    with pytest.raises(ValidationError, match="failed its last validation: broken"):
        promotion.set_alias(version, "shadow")


@pytest.mark.django_db(transaction=True)
def test_migrating_keeps_what_is_live_there_and_back(version, store):
    promotion.promote(version)
    registration.register("asleep", linear_draft(store))
    latest = MigrationExecutor(connection).loader.graph.leaf_nodes("serving_app")

    def migrate(targets):
        executor = MigrationExecutor(connection)
        executor.migrate(targets)
        return MigrationExecutor(connection).loader.project_state(targets).apps

    try:
        old = migrate([("serving_app", "0002_process_statistics")])
        models = old.get_model("serving_app", "ServedModel").objects
        assert models.get(name="shop").live_version.number == 1
        assert models.get(name="asleep").live_version is None
    finally:
        migrate(latest)
    assert [str(alias) for alias in Alias.objects.all()] == ["shop@production"]


@pytest.mark.contract("A6")
@pytest.mark.django_db
def test_a_model_taken_out_of_production_comes_back_with_its_history(version, store, admin_user):
    two = registration.register("shop", linear_draft(store, "two.npz", seed=2))
    registration.register("shop", linear_draft(store, "three.npz", seed=3))
    model = version.model
    promotion.withdraw(model, by=admin_user)  # it is out already
    promotion.promote(version)
    promotion.promote(two)
    promotion.set_alias(version, "mine")
    promotion.withdraw(model, by=admin_user)
    model.refresh_from_db()
    assert model.live_version is None
    assert Alias.objects.get().name == "mine"
    assert promotion.restore(model, by=admin_user) == two
    assert promotion.restore(model, by=admin_user) == two  # it is in already
    assert model.promotions.count() == 2
    assert promotion.roll_back(model) == version
    promotion.withdraw(model)
    assert promotion.restore(model) == version
    history = LogEntry.objects.filter(object_id=str(model.pk)).order_by("pk")
    assert [entry.change_message for entry in history] == [
        "Took version 2 out of production",
        "Put shop@2 back into production",
    ]


@pytest.mark.contract("A6")
@pytest.mark.django_db
def test_a_model_that_never_was_in_production_gets_its_latest_sound_version(version, store):
    two = registration.register("shop", linear_draft(store, "two.npz", seed=2))
    three = registration.register("shop", linear_draft(store, "three.npz", seed=3))
    type(three).objects.filter(pk=three.pk).update(problem="It is broken.")
    assert promotion.restore(version.model) == two
    promotion.withdraw(version.model)
    type(two).objects.filter(pk=two.pk).update(problem="It is broken, too.")
    assert promotion.restore(version.model) == version
    promotion.withdraw(version.model)
    type(two).objects.update(problem="All are.")
    with pytest.raises(ValidationError, match="no sound version"):
        promotion.restore(version.model)


@pytest.mark.contract("A6")
@pytest.mark.django_db
def test_no_model_leaves_production_while_a_roll_out_runs(version, store):
    from serving_app import rollout

    two = registration.register("shop", linear_draft(store, "two.npz", seed=2))
    promotion.promote(version)
    rollout.start(two, [10])
    with pytest.raises(ValidationError, match="roll-out running"):
        promotion.withdraw(version.model)
    assert version.model.aliases.filter(name="production").exists()
