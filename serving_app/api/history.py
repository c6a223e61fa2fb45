"""What the API changes, in the admin's history: who added, changed or deleted what."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from rest_framework.request import Request
from rest_framework.serializers import BaseSerializer

from serving_app.access_models import ServiceToken
from serving_app.api.authentication import access_of

__all__ = ["KeepsHistory", "log"]


def log(request: Request, row: Model, action: int, message: str) -> None:
    """Add a line to the history.

    What a program does stands under the person who gave it its token; if nobody is known to have
    (``manage.py createtoken``), only the access log has it.
    """
    by, through = _who(request)
    if by is None:
        return
    LogEntry.objects.create(
        user_id=by,
        content_type=ContentType.objects.get_for_model(row),
        object_id=str(row.pk),
        object_repr=str(row)[:200],
        action_flag=action,
        change_message=message + through,
    )


def _who(request: Request) -> tuple[int | None, str]:
    """Return the person, and through which token, if any."""
    kind, _colon, prefix = access_of(request).subject.partition(":")
    if kind != "token":
        return request.user.pk, ""
    given_by = ServiceToken.objects.filter(prefix=prefix).values_list("created_by", flat=True)
    return given_by.first(), f" (service token {prefix})"


def _row(serializer: BaseSerializer[Any]) -> Model:
    row: Model = serializer.instance  # type: ignore[assignment]  # saved: there is one
    return row


class KeepsHistory:
    """A view set whose changes are in the history."""

    request: Any

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        """Create the row."""
        super().perform_create(serializer)  # type: ignore[misc]  # of the view set
        log(self.request, _row(serializer), ADDITION, "Added by the API")

    def perform_update(self, serializer: BaseSerializer[Any]) -> None:
        """Change the row."""
        super().perform_update(serializer)  # type: ignore[misc]  # of the view set
        fields = ", ".join(sorted(serializer.validated_data))
        log(self.request, _row(serializer), CHANGE, f"Changed {fields} by the API")

    def perform_destroy(self, instance: Model) -> None:
        """Delete the row."""
        log(self.request, instance, DELETION, "Deleted by the API")
        super().perform_destroy(instance)  # type: ignore[misc]  # of the view set
