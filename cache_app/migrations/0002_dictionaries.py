from __future__ import annotations

from datetime import datetime
from datetime import timezone as zones

import django.utils.timezone
from django.db import migrations, models


def begin(apps, schema_editor):
    """Nobody has trained yet: the first to ask may."""
    db = schema_editor.connection.alias
    never = datetime(2000, 1, 1, tzinfo=zones.utc)
    apps.get_model("cache_app", "DictionaryTraining").objects.using(db).create(pk=1, begun=never)


class Migration(migrations.Migration):
    dependencies = [("cache_app", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="CompressionDictionary",
            fields=[
                (
                    "id",
                    models.PositiveIntegerField(
                        primary_key=True, serialize=False, verbose_name="id"
                    ),
                ),
                ("data", models.BinaryField(verbose_name="data")),
                (
                    "created",
                    models.DateTimeField(
                        default=django.utils.timezone.now, verbose_name="created"
                    ),
                ),
                ("samples", models.PositiveIntegerField(verbose_name="samples")),
                ("ratio", models.FloatField(verbose_name="ratio")),
            ],
            options={
                "verbose_name": "compression dictionary",
                "verbose_name_plural": "compression dictionaries",
                "ordering": ("-created", "-id"),
            },
        ),
        migrations.CreateModel(
            name="DictionaryTraining",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("begun", models.DateTimeField(verbose_name="begun")),
            ],
            options={
                "verbose_name": "dictionary training",
                "verbose_name_plural": "dictionary trainings",
            },
        ),
        migrations.RunPython(begin, migrations.RunPython.noop),
    ]
