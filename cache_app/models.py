"""What processes share through the database: invalidations, and trained dictionaries."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from django.db import DatabaseError, InterfaceError, connection, models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from plugins.errors import LevelUnavailable


class Epoch(models.Model):
    """The latest epoch: one row, whose lock puts invalidations in order.

    It begins with the time at which the database was made, so that no other database's
    generations are taken for this one's by a level that outlives both.
    """

    latest = models.BigIntegerField(_("latest epoch"))

    class Meta:
        """Names."""

        verbose_name = _("epoch")
        verbose_name_plural = _("epochs")

    def __str__(self) -> str:
        return str(self.latest)

    @classmethod
    def now(cls) -> int:
        """Return the latest epoch. It is asked at every request where coherence is strict.

        Raises:
            LevelUnavailable: The database does not answer.
        """
        try:
            with connection.cursor() as cursor:  # a sixth of what a query set takes
                cursor.execute(_LATEST)
                (latest,) = cursor.fetchone() or (None,)
        except (DatabaseError, InterfaceError) as error:
            raise LevelUnavailable(f"The latest epoch cannot be read: {error}") from error
        if not isinstance(latest, int):
            raise LevelUnavailable("The database has no epoch.")
        return latest


_LATEST = "SELECT latest FROM cache_app_epoch"


class Invalidation(models.Model):
    """One scope that was invalidated; of each, the last time.

    Kept as long as something older may still be cached.
    """

    epoch = models.BigIntegerField(_("epoch"), primary_key=True)
    scope = models.CharField(_("scope"), max_length=400, db_index=True)
    at = models.DateTimeField(_("at"), auto_now_add=True, db_index=True)

    class Meta:
        """Names and order."""

        verbose_name = _("invalidation")
        verbose_name_plural = _("invalidations")
        ordering = ("epoch",)

    def __str__(self) -> str:
        return f"{self.scope} at {self.at:%Y-%m-%d %H:%M:%S}"

    @classmethod
    def after(cls, epoch: int) -> list[tuple[int, str]]:
        """Return the invalidations after an epoch, as pairs of epoch and scope, oldest first.

        Raises:
            LevelUnavailable: The database does not answer.
        """
        try:
            return list(cls.objects.filter(epoch__gt=epoch).values_list("epoch", "scope"))
        except (DatabaseError, InterfaceError) as error:
            raise LevelUnavailable(f"Invalidations cannot be read: {error}") from error


SPREAD = timedelta(seconds=60)
"""Age from which a dictionary is written with. By then every process has read it, for
`cache_app.wiring.refresh_dictionaries` looks every 30 s; to one that had not, what others store
would be unreadable."""


class CompressionDictionary(models.Model):
    """A zstd dictionary, trained on the cached answers of a namespace.

    Never changed; the latest few of each namespace are kept.
    """

    id = models.PositiveIntegerField(_("id"), primary_key=True)
    """1 to 65535, as in envelopes. It comes from the bytes: levels outlive a database, and another
    dictionary of the same id would read their entries wrongly."""
    namespace = models.CharField(_("namespace"), max_length=200, default="recserve")
    data = models.BinaryField(_("data"))
    created = models.DateTimeField(_("created"), default=timezone.now)
    samples = models.PositiveIntegerField(_("samples"))
    """Answers that it was trained on."""
    ratio = models.FloatField(_("ratio"))
    """Compressed to raw bytes, of answers that it was not trained on."""

    class Meta:
        """Names and order."""

        verbose_name = _("compression dictionary")
        verbose_name_plural = _("compression dictionaries")
        ordering = ("-created", "-id")

    def __str__(self) -> str:
        return f"{self.id} of {self.created:%Y-%m-%d %H:%M:%S}"

    @classmethod
    def in_use(cls, namespace: str) -> tuple[dict[int, bytes], int]:
        """Return a namespace's dictionaries by id, and the id of the one to write with; 0: none."""
        rows: list[Self] = list(cls.objects.filter(namespace=namespace))
        known = timezone.now() - SPREAD
        current = next((row.id for row in rows if row.created <= known), 0)
        return {row.id: bytes(row.data) for row in rows}, current


class DictionaryTraining(models.Model):
    """When automatic training began last: a row per namespace, which the one who trains claims."""

    namespace = models.CharField(_("namespace"), max_length=200, default="recserve", unique=True)
    begun = models.DateTimeField(_("begun"))

    class Meta:
        """Names."""

        verbose_name = _("dictionary training")
        verbose_name_plural = _("dictionary trainings")

    def __str__(self) -> str:
        return f"{self.begun:%Y-%m-%d %H:%M:%S}"

    @classmethod
    def claim(cls, namespace: str, every: timedelta) -> bool:
        """Return whether it is the caller's turn; a namespace has one each so often."""
        now = timezone.now()
        row, new = cls.objects.get_or_create(namespace=namespace, defaults={"begun": now})
        turns = cls.objects.filter(pk=row.pk, begun__lte=now - every)
        return new or turns.update(begun=now) == 1
