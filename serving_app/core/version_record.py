"""One registered model version as plain values, which cross threads and processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plugins import Signature

__all__ = ["VersionRecord"]


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One registered model version: what the database knows of it."""

    model_name: str
    version: int
    artifact: str
    """Path of the artifact in the store."""
    sha256: str
    framework: str
    catalogue: str
    """Path of the item catalogue in the store; empty for an output ``raw``."""
    catalogue_sha256: str
    feature_names: tuple[str, ...]
    signature: Signature | None = None
    feature_schema: tuple[Any, ...] = ()
    """What is declared of each feature, as `read_schema` takes it; empty: only the names are."""
    output: str = "scores"
    """One of `serving_app.core.outputs.OUTPUTS`."""
    output_options: Mapping[str, Any] = field(default_factory=dict)
    item_vectors: str = ""
    """Path of the items' vectors in the store, for an output ``embedding``."""
    item_vectors_sha256: str = ""
    framework_options: Mapping[str, Any] = field(default_factory=dict)
    executor: str = "in_process"
    executor_options: Mapping[str, Any] = field(default_factory=dict)
    feature_source: str = ""
    """Name of the feature source plugin; empty: features must come with the request."""
    feature_source_options: Mapping[str, Any] = field(default_factory=dict)
    max_batch: int = 64
    max_queue: int = 1024
    max_wait: float = 0.0
    """Seconds that a batch which is not full waits for more; 0: it never does."""
    headroom: float = 0.65
    """The part of its time-out that a request may be expected to take."""
    timeout: float = 10.0
    """Seconds that a request may take, unless its caller says otherwise."""

    @property
    def label(self) -> str:
        """Return ``name@version``."""
        return f"{self.model_name}@{self.version}"
