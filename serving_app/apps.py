"""The app's configuration: system checks and the roles' groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db import transaction
from django.db.models.signals import post_delete, post_migrate, post_save

from plugins.failures import PartFailures


class ServingConfig(AppConfig):
    """The models and their API."""

    name = "serving_app"
    verbose_name = "Serving"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks and the groups. Nothing with threads is built here."""
        # These need the app registry, which is complete only now.
        from cache_app.wiring import set_value_type  # noqa: PLC0415
        from plugins.apps import report_failures_by  # noqa: PLC0415
        from serving_app import access, signing  # noqa: PLC0415
        from serving_app.checks import check_settings  # noqa: PLC0415
        from serving_app.core.ranking import Ranking  # noqa: PLC0415
        from serving_app.models import Alias, ServedModel  # noqa: PLC0415
        from serving_app.segment_models import Segment, SegmentCondition  # noqa: PLC0415

        set_value_type(Ranking)
        report_failures_by(plugin_failures)
        checks.register(check_settings)
        signing.install()
        access.connect()
        for changed in (post_save, post_delete):
            changed.connect(wake_reconciler, sender=ServedModel)
            changed.connect(wake_reconciler, sender=Alias)
            changed.connect(edit_segments, sender=Segment)
            changed.connect(edit_segments, sender=SegmentCondition)
        post_migrate.connect(create_groups, sender=self)


def wake_reconciler(**_: Any) -> None:
    """Let this process follow a change of a model as soon as it is committed."""
    from serving_app import wiring  # noqa: PLC0415  (needs the app registry)

    transaction.on_commit(wiring.wake)


def edit_segments(**_: Any) -> None:
    """Let every process take over changed segments, and one of them evaluate the rules."""
    from serving_app.segment_models import SegmentEvaluation  # noqa: PLC0415  (as above)

    SegmentEvaluation.edit()
    wake_reconciler()


def plugin_failures() -> Mapping[str, Mapping[str, PartFailures]]:
    """Return what plugins did wrong in all processes that serve."""
    from serving_app.process_statistics import plugin_failures  # noqa: PLC0415  (as above)
    from serving_app.reconciler import process_name  # noqa: PLC0415

    return plugin_failures(process_name())


def create_groups(
    sender: AppConfig,
    using: str,
    apps: Any = None,
    verbosity: int = 1,
    stdout: Any = None,
    **_: Any,
) -> None:
    """Create the roles' groups, give them what is new, and say so.

    The tables are as the migrations that were applied left them, and so are the models of ``apps``;
    None, as ``flush`` says: today's.
    """
    from django.apps import apps as today  # noqa: PLC0415

    from serving_app import roles  # noqa: PLC0415  (needs the app registry)

    for name, codenames in roles.give(sender, using, apps or today).items():
        if verbosity > 0 and stdout is not None:
            stdout.write(f"The group {name!r} may from now on: {', '.join(codenames)}")
