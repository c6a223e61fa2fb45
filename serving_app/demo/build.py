"""The demo's models, from interactions to files that can be registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving_app.demo.export import (
    export_numpy,
    export_saved_model,
    export_torch_export,
    export_torchscript,
    write_catalogue,
    write_features,
)
from serving_app.demo.interactions import Interactions, titles_of
from serving_app.demo.train import FACTORS, Progress, Trained, train

FEATURE_NAMES = tuple(f"factor_{i:02d}" for i in range(FACTORS))
"""What the factorisation takes: a user's factors."""
POPULARITY_FEATURE_NAMES = ("all_time", "recent")
"""What the popularity model takes: how much each of its two counts matters."""

_Export = Callable[[Path, NDArray[np.float32], NDArray[np.float32]], None]

# Where each format's artifact goes, and who writes it.
_FORMATS: dict[str, tuple[str, _Export]] = {
    "torchscript": ("factorisation.pt", export_torchscript),
    "torch_export": ("factorisation.pt2", export_torch_export),
    "saved_model": ("factorisation_saved_model", export_saved_model),
    "numpy": (
        "factorisation.npz",
        lambda path, factors, bias: export_numpy(path, factors, bias, FEATURE_NAMES),
    ),
}


@dataclass(frozen=True, slots=True)
class Built:
    """Everything that the demo registers, and what there is to say about it."""

    artifacts: Mapping[str, Path]
    """The factorisation by format: ``torchscript``, ``torch_export``, ``saved_model``, ``numpy``.

    All take `FEATURE_NAMES`; only the formats that were asked for are there.
    """
    popularity: Path
    """The popularity model, an ``.npz`` file that takes `POPULARITY_FEATURE_NAMES`."""
    catalogue: Path
    """The catalogue of both models."""
    factorisation_features: Path
    """Feature file of every user's factors; the default row is the mean user."""
    popularity_features: Path
    """Feature file without users, whose default row asks for the all-time count."""
    user_ids: tuple[str, ...] = field(repr=False)
    """The users in `factorisation_features`."""
    metrics: Mapping[str, float]
    """``hr_at_10``, ``hr_at_10_popularity``, ``users_evaluated``, ``users``, ``items``."""
    notes: str
    """The metrics in words, for people who choose a version."""
    popularity_notes: str
    """The same of the popularity model."""


def build(
    directory: Path,
    interactions: Interactions,
    titles: Mapping[str, str],
    *,
    seed: int = 7,
    progress: Progress | None = None,
    formats: Sequence[str] = ("torchscript", "saved_model", "numpy"),
) -> Built:
    """Train on the interactions, and write all files into the directory.

    Args:
        directory: Is made where it is missing; files of an earlier run are replaced one by one.
        interactions: The purchases.
        titles: Titles by item id; an item without one is called by its id.
        seed: Of the training.
        progress: Hears a short text and the fraction done.
        formats: Formats of the factorisation, of those that `Built.artifacts` names.

    Raises:
        ValueError: There is no such format.
        ModuleNotFoundError: A format's framework is not installed.
    """
    unknown = [name for name in formats if name not in _FORMATS]
    if unknown:
        raise ValueError(f"No format {', '.join(unknown)}; there are {', '.join(_FORMATS)}.")
    report = progress if progress is not None else (lambda _text, _fraction: None)
    trained = train(
        interactions, seed=seed, progress=lambda text, fraction: report(text, fraction * 0.7)
    )

    bias = np.zeros(len(interactions.item_ids), dtype=np.float32)
    artifacts: dict[str, Path] = {}
    for done, name in enumerate(formats):
        file_name, export = _FORMATS[name]
        report(f"Writing {file_name}", 0.7 + 0.25 * done / len(formats))
        artifacts[name] = directory / file_name
        export(artifacts[name], trained.item_factors, bias)

    report("Writing popularity, catalogue and features", 0.95)
    popularity = directory / "popularity.npz"
    counts = np.stack([_relative(trained.all_time), _relative(trained.recent)], axis=1)
    export_numpy(popularity, counts, bias, POPULARITY_FEATURE_NAMES)
    catalogue = directory / "catalogue.csv"
    write_catalogue(catalogue, interactions.item_ids, titles_of(interactions.item_ids, titles))
    factorisation_features = directory / "factorisation_features"
    write_features(
        factorisation_features,
        interactions.user_ids,
        FEATURE_NAMES,
        trained.user_factors,
        # The scores are linear, so the mean user's are everyone's mean scores.
        trained.user_factors.mean(axis=0),
    )
    popularity_features = directory / "popularity_features"
    write_features(popularity_features, (), POPULARITY_FEATURE_NAMES, np.zeros((0, 2)), (1.0, 0.0))
    report("Done", 1.0)
    return Built(
        artifacts=artifacts,
        popularity=popularity,
        catalogue=catalogue,
        factorisation_features=factorisation_features,
        popularity_features=popularity_features,
        user_ids=interactions.user_ids,
        metrics={
            "hr_at_10": trained.hr_factorisation,
            "hr_at_10_popularity": trained.hr_popularity,
            "users_evaluated": trained.n_users_evaluated,
            "users": len(interactions.user_ids),
            "items": len(interactions.item_ids),
        },
        notes=_notes(trained, of_popularity=False),
        popularity_notes=_notes(trained, of_popularity=True),
    )


def _relative(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``(n_items,)`` log1p of the counts, between 0 and 1 for the most popular item."""
    logs: NDArray[np.float32] = np.log1p(counts)
    return logs / max(float(logs.max()), 1e-12)


def _notes(trained: Trained, *, of_popularity: bool) -> str:
    """Return one sentence on the quality of a model, next to the other's."""
    if not trained.n_users_evaluated:
        return "Not evaluated: nobody bought something new on two invoices."
    factorisation, popularity = trained.hr_factorisation, trained.hr_popularity
    own, other, name = (
        (popularity, factorisation, "factorisation")
        if of_popularity
        else (factorisation, popularity, "popularity")
    )
    return (
        f"HR@10 {own:.3f} leave-last-invoice-out (new items) on "
        f"{trained.n_users_evaluated:,} users; {name} {other:.3f}"
    )
