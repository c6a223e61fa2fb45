from __future__ import annotations

import time

from django.db import migrations, models


def begin(apps, schema_editor):
    """Begin with the time: another database's epochs are never this one's."""
    db = schema_editor.connection.alias
    latest = time.time_ns() // 1_000_000
    apps.get_model("cache_app", "Epoch").objects.using(db).create(pk=1, latest=latest)
    apps.get_model("cache_app", "Invalidation").objects.using(db).create(epoch=latest, scope="all")


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Epoch",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("latest", models.BigIntegerField(verbose_name="latest epoch")),
            ],
            options={"verbose_name": "epoch", "verbose_name_plural": "epochs"},
        ),
        migrations.CreateModel(
            name="Invalidation",
            fields=[
                (
                    "epoch",
                    models.BigIntegerField(primary_key=True, serialize=False, verbose_name="epoch"),
                ),
                ("scope", models.CharField(max_length=400, verbose_name="scope")),
                ("at", models.DateTimeField(auto_now_add=True, verbose_name="at")),
            ],
            options={
                "verbose_name": "invalidation",
                "verbose_name_plural": "invalidations",
                "ordering": ("epoch",),
            },
        ),
        migrations.RunPython(begin, migrations.RunPython.noop),
    ]
