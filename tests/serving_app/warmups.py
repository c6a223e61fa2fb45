"""What tests of warming up share: a model that knows its users, schedules, activity."""

import time

import numpy as np
from django.utils import timezone

from plugins.features.file import write_feature_file
from serving_app import wiring
from serving_app.activity import add_counts
from serving_app.core.activity import Asked, Counted, context_text, hour_of
from serving_app.models import Alias, ModelVersion, ServedModel
from serving_app.registration import promote, register
from serving_app.warmup_models import ScheduledStrategy, WarmupSchedule
from tests.conftest import FEATURES, linear_draft

USERS = tuple(f"u{n}" for n in range(60))


def make_live(store, name="default"):
    """Make a model live in this process that has features of `USERS`."""
    folder = store / f"{name}-features"
    rows = np.random.default_rng(1).standard_normal((len(USERS), len(FEATURES)))
    write_feature_file(folder, USERS, FEATURES, rows)
    draft = linear_draft(
        store,
        f"{name}.npz",
        feature_source="file",
        feature_source_options={"path": folder.name},
    )
    version = register(name, draft)
    promote(version)
    wiring.get_serving().reconciler.reconcile()
    return version


def make_row(name="default"):
    """Make a model with a version in production, of which only the rows are there."""
    model = ServedModel.objects.create(name=name)
    version = ModelVersion.objects.create(
        model=model,
        number=1,
        framework="numpy_linear",
        artifact="a.npz",
        sha256="0" * 64,
        signature={},
        items=1,
        validated=timezone.now(),
    )
    Alias.objects.create(model=model, version=version, name="production")
    return model


def ask(*users, times=3, model="default", context=None, ago=60.0):
    """Let users have asked, some time ago."""
    at = time.time() - ago
    counts = {
        Asked(hour_of(at), "request", model, "", user, context_text(context or {}), False): Counted(
            times + i, at
        )
        for i, user in enumerate(reversed(users))
    }
    add_counts(counts)


def make_schedule(name="nightly", *, strategies=(("popular", {}),), model="default", **given):
    """Make a schedule."""
    row = WarmupSchedule(name=name, model=ServedModel.objects.get(name=model), **given)
    row.full_clean()
    row.save()
    for strategy, options in strategies:
        ScheduledStrategy.objects.create(schedule=row, strategy=strategy, options=options)
    return row
