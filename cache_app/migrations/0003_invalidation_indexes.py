from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("cache_app", "0002_dictionaries")]

    operations = [
        migrations.AlterField(
            model_name="invalidation",
            name="scope",
            field=models.CharField(db_index=True, max_length=400, verbose_name="scope"),
        ),
        migrations.AlterField(
            model_name="invalidation",
            name="at",
            field=models.DateTimeField(auto_now_add=True, db_index=True, verbose_name="at"),
        ),
    ]
