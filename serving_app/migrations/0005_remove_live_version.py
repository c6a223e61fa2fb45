from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("serving_app", "0004_production_aliases")]

    operations = [migrations.RemoveField(model_name="servedmodel", name="live_version")]
