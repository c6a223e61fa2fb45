from __future__ import annotations

from django.conf import settings
from django.db import migrations, models


def adopt(apps, schema_editor):
    """Those that are there were trained on the entries of this installation's namespace."""
    db = schema_editor.connection.alias
    namespace = settings.RECSERVE.get("CACHE", {}).get("NAMESPACE", "recserve")
    for name in ("CompressionDictionary", "DictionaryTraining"):
        apps.get_model("cache_app", name).objects.using(db).update(namespace=namespace)


class Migration(migrations.Migration):
    dependencies = [("cache_app", "0003_invalidation_indexes")]

    operations = [
        migrations.AddField(
            model_name="compressiondictionary",
            name="namespace",
            field=models.CharField(
                default="recserve", max_length=200, verbose_name="namespace"
            ),
        ),
        migrations.AddField(
            model_name="dictionarytraining",
            name="namespace",
            field=models.CharField(
                default="recserve", max_length=200, unique=True, verbose_name="namespace"
            ),
        ),
        migrations.RunPython(adopt, migrations.RunPython.noop),
    ]
