"""What was a model's live version is what its alias ``production`` leads to."""

from django.db import migrations


def to_aliases(apps, schema_editor):
    db = schema_editor.connection.alias
    alias = apps.get_model("serving_app", "Alias")
    for model in apps.get_model("serving_app", "ServedModel").objects.using(db).exclude(live_version=None):
        alias.objects.using(db).create(model=model, name="production", version=model.live_version)


def to_live_versions(apps, schema_editor):
    db = schema_editor.connection.alias
    for alias in apps.get_model("serving_app", "Alias").objects.using(db).filter(name="production"):
        alias.model.live_version = alias.version
        alias.model.save(update_fields=["live_version"])


class Migration(migrations.Migration):
    dependencies = [("serving_app", "0003_aliases_and_roll_outs")]

    operations = [migrations.RunPython(to_aliases, to_live_versions)]
