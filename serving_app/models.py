"""The registry: which models exist, in which versions, and what each process runs of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from plugins import InvalidOptions, UnknownPlugin
from plugins.apps import get_registry
from serving_app import (  # noqa: F401  (Django looks for every model here)
    access_models,
    activity_models,
    alert_models,
    drift_models,
    metric_models,
    payload_models,
    rollup_models,
    segment_models,
    warmup_models,
)
from serving_app.core.live_models import PRODUCTION
from serving_app.core.probe import signature_from_json
from serving_app.core.version_record import VersionRecord
from serving_app.release_models import Alias, RollOut, RollOutStep

__all__ = [
    "MODEL_NAME",
    "Activation",
    "Alias",
    "ModelVersion",
    "ProcessStatistics",
    "Promotion",
    "RollOut",
    "RollOutStep",
    "ServedModel",
]

MODEL_NAME = RegexValidator(
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z",
    _(
        "A model name has 1 to 100 letters, digits, dots, dashes or underscores, and begins with a "
        "letter or digit."
    ),
)


class ServedModel(models.Model):
    """A model that clients ask by name."""

    name = models.CharField(
        _("name"),
        max_length=100,
        unique=True,
        validators=[MODEL_NAME],
        help_text=_("Clients send it as model_name; 'default' answers those who send none."),
    )
    description = models.TextField(_("description"), blank=True)
    executor = models.CharField(
        _("executor"),
        max_length=64,
        default="in_process",
        help_text=_("Executor plugin: where the model runs."),
    )
    executor_options = models.JSONField(_("executor options"), default=dict, blank=True)
    max_batch = models.PositiveIntegerField(
        _("largest batch"),
        default=64,
        validators=[MinValueValidator(1), MaxValueValidator(4096)],
    )
    max_queue = models.PositiveIntegerField(
        _("longest queue"),
        default=1024,
        validators=[MinValueValidator(1)],
        help_text=_("Requests that may wait; more are refused with 429."),
    )
    max_wait = models.FloatField(
        _("longest wait"),
        default=0.0,
        validators=[MinValueValidator(0.0), MaxValueValidator(60.0)],
        help_text=_(
            "Seconds that a batch which is not full waits for more requests. At 0 it never does: "
            "whatever came while the last batch ran is the next one."
        ),
    )
    headroom = models.FloatField(
        _("headroom"),
        default=0.65,
        validators=[MinValueValidator(0.05), MaxValueValidator(1.0)],
        help_text=_(
            "The part of its time-out that a request may be expected to take; one that would take "
            "longer is refused on arrival. The rest absorbs what cannot be foreseen."
        ),
    )
    timeout = models.FloatField(
        _("time-out"),
        default=10.0,
        validators=[MinValueValidator(0.001)],
        help_text=_("Seconds that a request may take."),
    )
    changed = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        """Names, order and the three roles' permissions."""

        verbose_name = _("model")
        verbose_name_plural = _("models")
        ordering = ("name",)
        permissions = (
            ("predict", _("Can ask for recommendations")),
            ("operate", _("Can see statistics and clear the cache")),
            ("administer", _("Can register versions and make them live")),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def live_version(self) -> ModelVersion | None:
        """Return the version in production: the one that every process should answer with."""
        aliases = self.aliases.all()
        return next((alias.version for alias in aliases if alias.name == PRODUCTION), None)

    def clean(self) -> None:
        """Check the executor and its options, and that waiting leaves time to compute.

        Raises:
            ValidationError: There is no such executor, it does not take the options, or batches
                would wait for longer than a request may take.
        """
        self._check_wait()
        try:
            get_registry().executors.check_options(self.executor, self.executor_options)
        except UnknownPlugin as error:
            raise ValidationError({"executor": str(error)}) from error
        except InvalidOptions as error:
            raise ValidationError({"executor_options": str(error)}) from error

    def _check_wait(self) -> None:
        wait, most = self.max_wait, self.headroom * self.timeout
        if wait and wait >= most:
            message = _(
                "Batches would wait %(wait)g s for more requests, and a request may be expected to "
                "take %(most)g s in all (headroom times time-out). Shorten the wait."
            )
            raise ValidationError({"max_wait": message % {"wait": wait, "most": most}})


class ModelVersion(models.Model):
    """One version of a model: validated files and their description. It never changes."""

    class Output(models.TextChoices):
        """What a model returns."""

        SCORES = "scores", _("scores over the catalogue")
        TOP_K = "top_k", _("the best items and their scores")
        EMBEDDING = "embedding", _("a vector, compared with each item's")
        RAW = "raw", _("raw tensors")

    model = models.ForeignKey(
        ServedModel, on_delete=models.CASCADE, related_name="versions", verbose_name=_("model")
    )
    number = models.PositiveIntegerField(_("version"), editable=False)
    framework = models.CharField(_("framework"), max_length=64)
    framework_options = models.JSONField(_("framework options"), default=dict, blank=True)
    artifact = models.CharField(
        _("artifact"),
        max_length=500,
        help_text=_("Path of the file or SavedModel directory in the model store."),
    )
    sha256 = models.CharField(_("SHA-256"), max_length=64)
    signature = models.JSONField(_("signature"), editable=False)
    feature_names = models.JSONField(
        _("feature names"),
        default=list,
        blank=True,
        help_text=_("A JSON list, in the order in which the model takes them."),
    )
    feature_schema = models.JSONField(
        _("feature schema"),
        default=list,
        blank=True,
        help_text=_(
            "A JSON list of features, for several inputs, strings, whole numbers and sequences."
        ),
    )
    output = models.CharField(
        _("output"),
        max_length=16,
        choices=Output.choices,
        default=Output.SCORES,
        help_text=_("What the model returns."),
    )
    output_options = models.JSONField(_("output options"), default=dict, blank=True)
    item_vectors = models.CharField(
        _("item vectors"),
        max_length=500,
        blank=True,
        help_text=_("Path of the items' vectors in the model store: .npy, for an embedding."),
    )
    item_vectors_sha256 = models.CharField(max_length=64, blank=True, editable=False)
    catalogue = models.CharField(
        _("catalogue"),
        max_length=500,
        blank=True,
        help_text=_("Path of the item catalogue in the model store: CSV with item,title."),
    )
    catalogue_sha256 = models.CharField(max_length=64, blank=True, editable=False)
    items = models.PositiveIntegerField(_("items"), editable=False)
    feature_source = models.CharField(
        _("feature source"),
        max_length=64,
        blank=True,
        help_text=_("Plugin that knows users' features; empty: clients must send them."),
    )
    feature_source_options = models.JSONField(_("feature source options"), default=dict, blank=True)
    notes = models.TextField(_("notes"), blank=True)
    metrics = models.JSONField(_("quality figures"), default=dict, blank=True)
    created = models.DateTimeField(_("registered"), auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
        verbose_name=_("registered by"),
    )
    validated = models.DateTimeField(_("last validated"), editable=False)
    problem = models.TextField(
        _("problem"),
        blank=True,
        editable=False,
        help_text=_("What the last validation found wrong; empty: nothing."),
    )

    stored: Mapping[str, Any] = {}
    """The row's values as they were read; none for a new row."""
    MUTABLE = frozenset({"notes", "metrics", "validated", "problem"})
    """What may change after registration: words about the version, not what it is."""

    class Meta:
        """Names and order."""

        verbose_name = _("version")
        verbose_name_plural = _("versions")
        ordering = ("model__name", "-number")
        constraints = (
            models.UniqueConstraint(fields=("model", "number"), name="unique_version_number"),
        )

    def __str__(self) -> str:
        return f"{self.model.name}@{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row.

        Raises:
            ValidationError: Something that identifies the version would change.
        """
        changed = sorted(
            name
            for name, value in self.stored.items()
            if name not in self.MUTABLE and getattr(self, name) != value
        )
        if changed:
            raise ValidationError(
                _("A version never changes (%(fields)s). Register a new one."),
                params={"fields": ", ".join(changed)},
            )
        super().save(*args, **kwargs)

    @classmethod
    def from_db(
        cls, db: str | None, field_names: Collection[str], values: Collection[Any], **more: Any
    ) -> ModelVersion:
        """Return the row, remembering what must not change."""
        row = super().from_db(db, field_names, values, **more)
        row.stored = dict(zip(field_names, values, strict=True))
        return row

    @property
    def in_production(self) -> bool:
        """Return whether this is the model's live version."""
        return any(alias.name == PRODUCTION for alias in self.aliases.all())

    def record(self) -> VersionRecord:
        """Return the version as plain values."""
        return VersionRecord(
            model_name=self.model.name,
            version=self.number,
            artifact=self.artifact,
            sha256=self.sha256,
            framework=self.framework,
            catalogue=self.catalogue,
            catalogue_sha256=self.catalogue_sha256,
            feature_names=tuple(self.feature_names),
            feature_schema=tuple(self.feature_schema),
            output=self.output,
            output_options=self.output_options,
            item_vectors=self.item_vectors,
            item_vectors_sha256=self.item_vectors_sha256,
            signature=signature_from_json(self.signature),
            framework_options=self.framework_options,
            executor=self.model.executor,
            executor_options=self.model.executor_options,
            feature_source=self.feature_source,
            feature_source_options=self.feature_source_options,
            max_batch=self.model.max_batch,
            max_queue=self.model.max_queue,
            max_wait=self.model.max_wait,
            headroom=self.model.headroom,
            timeout=self.model.timeout,
        )


class Promotion(models.Model):
    """One change of a model's live version: the history that roll-back walks."""

    model = models.ForeignKey(
        ServedModel, on_delete=models.CASCADE, related_name="promotions", verbose_name=_("model")
    )
    version = models.ForeignKey(
        ModelVersion, on_delete=models.CASCADE, related_name="+", verbose_name=_("made live")
    )
    replaced = models.ForeignKey(
        ModelVersion,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("instead of"),
    )
    at = models.DateTimeField(_("at"), auto_now_add=True)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("by"),
    )
    rolled_back = models.DateTimeField(_("rolled back"), null=True, blank=True)

    class Meta:
        """Names and order."""

        verbose_name = _("promotion")
        verbose_name_plural = _("promotions")
        ordering = ("-at", "-pk")

    def __str__(self) -> str:
        return f"{self.version} at {self.at:%Y-%m-%d %H:%M:%S}"


class ProcessStatistics(models.Model):
    """What one serving process counted, as of a moment ago; other processes add it to theirs."""

    process = models.CharField(_("process"), max_length=255, primary_key=True)
    seen = models.DateTimeField(_("last seen"))
    serving = models.JSONField(_("serving"))
    cache = models.JSONField(_("cache"))

    class Meta:
        """Names."""

        verbose_name = _("process statistics")
        verbose_name_plural = _("process statistics")

    def __str__(self) -> str:
        return self.process


class Activation(models.Model):
    """What one serving process made of one version that should be live."""

    class State(models.TextChoices):
        """Where the process is with the version."""

        LOADING = "loading", _("loading")
        LIVE = "live", _("live")
        WARM = "warm", _("kept for a roll-back")
        FAILED = "failed", _("failed")

    process = models.CharField(_("process"), max_length=255, help_text=_("Host and process id."))
    model = models.ForeignKey(
        ServedModel, on_delete=models.CASCADE, related_name="activations", verbose_name=_("model")
    )
    version = models.ForeignKey(
        ModelVersion,
        on_delete=models.CASCADE,
        related_name="+",
        verbose_name=_("version"),
        help_text=_("The version that the process was told to run."),
    )
    state = models.CharField(_("state"), max_length=16, choices=State.choices)
    problem = models.TextField(
        _("problem"),
        blank=True,
        help_text=_("Why it failed; the version that was live before goes on answering."),
    )
    load_seconds = models.FloatField(_("load time (s)"), null=True, blank=True)
    seen = models.DateTimeField(_("last seen"))

    class Meta:
        """Names, order, and one row per process and version."""

        verbose_name = _("activation")
        verbose_name_plural = _("activations")
        ordering = ("model__name", "process", "version__number")
        constraints = (
            models.UniqueConstraint(fields=("process", "version"), name="unique_activation"),
        )

    def __str__(self) -> str:
        return f"{self.version} in {self.process}: {self.get_state_display()}"
