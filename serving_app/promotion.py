"""What answers for a model: promoting, rolling back, and aliases. Admin, API, commands call it."""

from __future__ import annotations

from decimal import Decimal

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils import timezone

from serving_app.core.live_models import CANARY, PRODUCTION
from serving_app.models import Alias, ModelVersion, Promotion, RollOut, ServedModel

__all__ = [
    "check_sound",
    "lead",
    "locked",
    "log",
    "make_live",
    "promote",
    "remove_alias",
    "restore",
    "roll_back",
    "set_alias",
    "withdraw",
]


def promote(version: ModelVersion, *, by: User | None = None) -> None:
    """Make a version the live one of its model. Serving processes follow within moments.

    Making the live version live again changes nothing.

    Raises:
        ValidationError: The last validation found a problem with the version, or the model has a
            roll-out running.
    """
    check_sound(version)
    with transaction.atomic():
        model = locked(version.model)
        if _roll_out_runs(model):
            raise ValidationError(
                f"{model.name} has a roll-out running. Promote its candidate there, or abort it."
            )
        make_live(model, version, by=by)


def make_live(model: ServedModel, version: ModelVersion, *, by: User | None) -> None:
    """Let production lead to a version. The model's row is locked."""
    replaced = model.live_version
    if replaced == version:
        return
    Promotion.objects.create(model=model, version=version, replaced=replaced, by=by)
    lead(model, PRODUCTION, version)
    log(model, by, f"Made {version} live")


def roll_back(model: ServedModel, *, by: User | None = None) -> ModelVersion:
    """Undo the model's last promotion, and return the version that is live again.

    Rolling back again undoes the promotion before it.

    Raises:
        ValidationError: No promotion is left to undo, or the model has a roll-out running.
    """
    with transaction.atomic():
        model = locked(model)
        if _roll_out_runs(model):
            raise ValidationError(f"{model.name} has a roll-out running. Abort it first.")
        last = model.promotions.filter(rolled_back=None).first()
        if last is None or last.replaced is None:
            raise ValidationError(f"{model.name} has no earlier live version to go back to.")
        last.rolled_back = timezone.now()
        last.save(update_fields=["rolled_back"])
        lead(model, PRODUCTION, last.replaced)
        log(model, by, f"Rolled back to {last.replaced}")
        return last.replaced


def withdraw(model: ServedModel, *, by: User | None = None) -> None:
    """Take a model out of production, if it is there; its promotions stay, for `restore`.

    What other aliases lead to goes on answering who asks for them.

    Raises:
        ValidationError: The model has a roll-out running.
    """
    with transaction.atomic():
        model = locked(model)
        if _roll_out_runs(model):
            raise ValidationError(f"{model.name} has a roll-out running. Abort it first.")
        alias = model.aliases.filter(name=PRODUCTION).first()
        if alias is None:
            return
        log(model, by, f"Took version {alias.version.number} out of production")
        alias.delete()
        model.save(update_fields=["changed"])


def restore(model: ServedModel, *, by: User | None = None) -> ModelVersion:
    """Return the version in production; without one, put one there.

    It is the one that was there last, or else the latest whose validation found nothing wrong.

    Raises:
        ValidationError: There is none.
    """
    with transaction.atomic():
        model = locked(model)
        version = model.live_version
        if version is not None:
            return version
        last = model.promotions.filter(rolled_back=None).select_related("version").first()
        if last is not None and not last.version.problem:
            lead(model, PRODUCTION, last.version)  # it was promoted: to roll back still undoes that
            log(model, by, f"Put {last.version} back into production")
            return last.version
        version = model.versions.filter(problem="").order_by("-number").first()
        if version is None:
            raise ValidationError(f"{model.name} has no sound version to make live.")
        make_live(model, version, by=by)
        return version


def set_alias(
    version: ModelVersion, name: str, *, percent: Decimal = Decimal(0), by: User | None = None
) -> Alias:
    """Let an alias of the version's model lead to the version, which goes live if it is not.

    Args:
        version: The version.
        name: The alias: ``shadow``, or one of the user's own.
        percent: Of production's computations that a shadow makes, too.
        by: Who does it.

    Raises:
        ValidationError: The alias is no name for one, production or canary, which have ways of
            their own, or the version failed its last validation.
    """
    if name in {PRODUCTION, CANARY}:
        how = "promote a version" if name == PRODUCTION else "start a roll-out"
        raise ValidationError({"name": f"{name} is not set by hand: {how}."})
    check_sound(version)
    with transaction.atomic():
        model = locked(version.model)
        alias = Alias(model=model, name=name, version=version, percent=percent)
        alias.full_clean(validate_unique=False, validate_constraints=False)
        alias = lead(model, name, version, percent=percent)
        share = f" with {percent.normalize():f} %" if percent else ""
        log(model, by, f"Let {alias} lead to version {version.number}{share}")
        return alias


def remove_alias(alias: Alias, *, by: User | None = None) -> None:
    """Take an alias away; its version leaves, unless another alias leads to it.

    Raises:
        ValidationError: It is production's or the canary's.
    """
    if alias.name == CANARY:
        raise ValidationError("The canary leaves when its roll-out is promoted or aborted.")
    if alias.name == PRODUCTION:
        raise ValidationError("Production cannot be taken away; promote another version.")
    with transaction.atomic():
        model = locked(alias.model)
        log(model, by, f"Took {alias} away from version {alias.version.number}")
        alias.delete()
        model.save(update_fields=["changed"])


def check_sound(version: ModelVersion) -> None:
    """Check that a version's last validation found nothing wrong.

    Raises:
        ValidationError: It did.
    """
    if version.problem:
        raise ValidationError(
            f"{version} failed its last validation: {version.problem} Mend it, validate it again, "
            "and then make it live."
        )


def locked(model: ServedModel) -> ServedModel:
    """Return the model's row, locked until the transaction ends: changes come one by one."""
    return ServedModel.objects.select_for_update().get(pk=model.pk)


def _roll_out_runs(model: ServedModel) -> bool:
    return model.roll_outs.filter(state=RollOut.State.RUNNING).exists()


def lead(
    model: ServedModel, name: str, version: ModelVersion, *, percent: Decimal = Decimal(0)
) -> Alias:
    """Let an alias lead to a version. The model's row is locked."""
    alias, _ = Alias.objects.update_or_create(
        model=model, name=name, defaults={"version": version, "percent": percent}
    )
    model.save(update_fields=["changed"])  # whoever listens to models hears of it
    return alias


def log(row: models.Model, by: User | None, message: str) -> None:
    """Add a line to the history of a row in the admin, if a user did it."""
    if by is not None:
        LogEntry.objects.create(
            user_id=by.pk,
            content_type=ContentType.objects.get_for_model(row),
            object_id=str(row.pk),
            object_repr=str(row)[:200],
            action_flag=CHANGE,
            change_message=message,
        )
