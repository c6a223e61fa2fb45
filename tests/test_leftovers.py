"""A test finds nothing that another left."""

import signal

import pytest
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command

from cache_app.models import Epoch
from plugins import apps as plugin_apps
from serving_app import request_log, wiring
from serving_app.alert_models import AlertRule
from serving_app.models import ServedModel
from serving_app.request_log import HTTP
from tests.leftovers import Process


@pytest.mark.django_db(transaction=True)
def test_what_was_committed_is_taken_away_and_what_migrations_made_is_back(migrated):
    permissions = set(Group.objects.get(name="recserve operate").permissions.values_list("pk"))
    content = ContentType.objects.get_for_model(AlertRule)
    rules, epoch = list(AlertRule.objects.values()), Epoch.now()
    call_command("flush", verbosity=0, interactive=False)
    ServedModel.objects.create(name="left")
    assert "serving_app_servedmodel" in migrated.left()

    migrated.restore()

    assert migrated.left() == []
    assert not ServedModel.objects.exists()
    assert (list(AlertRule.objects.values()), Epoch.now()) == (rules, epoch)
    mine = Group.objects.get(name="recserve operate").permissions
    assert set(mine.values_list("pk")) == permissions
    assert ContentType.objects.get_for_model(AlertRule) == content


@pytest.mark.django_db
def test_what_a_test_built_is_stopped_and_forgotten(live_model):
    registry = plugin_apps.get_registry()
    before, hang_up = Process(), signal.getsignal(signal.SIGHUP)
    plugin_apps.reset_registry()
    plugin_apps.get_registry()
    HTTP.count("GET", "api/v1/predict", 200, 0.01)
    signal.signal(signal.SIGHUP, lambda *_: None)
    request_log.defer()
    assert wiring.built()

    before.restore()

    assert not wiring.built()
    assert not HTTP.counts()
    assert request_log._writer is None
    assert signal.getsignal(signal.SIGHUP) is hang_up
    assert plugin_apps.get_registry() is not registry
