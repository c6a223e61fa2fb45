"""Validates a model in a process of its own: ``python -m serving_app.core.probe REPORT``.

A model that crashes, hangs or eats the memory while it is validated harms only that process.
It reads a JSON description on standard input and writes a `ProbeReport` as JSON to the file
REPORT, since frameworks write what they like to standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plugins import ArtifactRejected, LoadedModel, ModelSpec, PluginError, Signature, TensorSpec
from plugins.loading import load_plugins

_BATCHES = (1, 3)


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe found out about a model."""

    signature: Signature
    """Read from the artifact, or else from what the sample batch took and returned."""


def signature_as_json(signature: Signature) -> dict[str, Any]:
    """Return a signature as plain JSON values."""
    return {
        side: [{**asdict(spec), "shape": list(spec.shape)} for spec in getattr(signature, side)]
        for side in ("inputs", "outputs")
    }


def signature_from_json(value: Mapping[str, Any]) -> Signature:
    """Return the signature that `signature_as_json` wrote."""

    def specs(key: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=s["name"], datatype=s["datatype"], shape=tuple(s["shape"]))
            for s in value[key]
        )

    return Signature(specs("inputs"), specs("outputs"))


def probe_in_process(
    spec: ModelSpec, *, features: int, items: int, blocked: tuple[str, ...], timeout: float
) -> ProbeReport:
    """Load a model in a separate process, run sample batches, and return what was found.

    Args:
        spec: The version to probe.
        features: How many feature names are declared.
        items: How many items the catalogue has.
        blocked: Plugins that must not be imported.
        timeout: Seconds that loading and running may take.

    Raises:
        ArtifactRejected: The model cannot be loaded or used; the message says why.
    """
    with tempfile.TemporaryDirectory(prefix="recserve-probe-") as folder:
        report = Path(folder) / "report.json"
        question = {
            "spec": {
                "model_name": spec.model_name,
                "version": spec.version,
                "framework": spec.framework,
                "path": str(spec.path),
                "options": dict(spec.options),
            },
            "features": features,
            "items": items,
            "blocked": list(blocked),
        }
        root = Path(__file__).resolve().parents[2]
        try:
            done = subprocess.run(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-m", "serving_app.core.probe", str(report)],
                input=json.dumps(question).encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=timeout,
                check=False,
                cwd=root,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            )
        except subprocess.TimeoutExpired as error:
            raise ArtifactRejected(
                f"The model did not load and answer a sample batch within {timeout:g} s."
            ) from error
        if not report.exists():
            raise ArtifactRejected(_crash(done.returncode, done.stderr))
        answer = json.loads(report.read_text("utf-8"))
    if "rejected" in answer:
        raise ArtifactRejected(answer["rejected"])
    return ProbeReport(signature=signature_from_json(answer["signature"]))


def _crash(returncode: int, stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    last = f" Its last words: {lines[-1][:300]}" if lines else ""
    if returncode < 0:
        name = signal.Signals(-returncode).name
        return f"The model crashed the process that validated it ({name}).{last}"
    return f"The model ended the process that validated it (exit status {returncode}).{last}"


def probe(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to one question, ready for JSON. Runs in the probe's own process."""
    try:
        given = question["spec"]
        spec = ModelSpec(**{**given, "path": Path(given["path"])})
        registry = load_plugins(blocked=question["blocked"])
        framework = registry.frameworks.create(spec.framework, spec.options)
        model = framework.load(spec)
        signature = _sampled(model, features=question["features"], items=question["items"])
        return {"signature": signature_as_json(signature)}
    except (ArtifactRejected, PluginError) as error:
        return {"rejected": str(error)}


def _sampled(model: LoadedModel, *, features: int, items: int) -> Signature:
    """Run sample batches, and return the signature that they confirm."""
    declared = model.signature
    name = _input_name(declared, features)
    rng = np.random.default_rng(0)
    for batch in _BATCHES:
        rows = rng.standard_normal((batch, features)).astype(np.float32)
        try:
            outputs = model.predict({name: rows})
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ArtifactRejected(
                f"The model failed on a sample batch of {batch} rows of {features} features "
                f"({type(error).__name__}: {reason}). Do the declared feature names fit it, and "
                f"does it take any batch size?"
            ) from error
        output, scores = next(iter(outputs.items()))
        if scores.ndim != 2 or scores.shape[0] != batch:
            raise ArtifactRejected(
                f"The model returned {output} of shape {scores.shape} for {batch} rows; it must "
                "return (rows, items)."
            )
        if scores.shape[1] != items:
            raise ArtifactRejected(
                f"The model scores {scores.shape[1]} items, but the catalogue lists {items}. "
                "They must be the same, in the same order."
            )
        if not np.isfinite(scores).all():
            raise ArtifactRejected("The model returned scores that are NaN or infinite.")
    return declared or Signature(
        inputs=(TensorSpec(name, "FP32", (-1, features)),),
        outputs=(TensorSpec(output, "FP32", (-1, items)),),
    )


def _input_name(declared: Signature | None, features: int) -> str:
    """Return the name of the model's only input.

    Raises:
        ArtifactRejected: The artifact declares inputs that the feature names do not fit.
    """
    if declared is None:
        return "features"
    if len(declared.inputs) != 1:
        names = ", ".join(spec.name for spec in declared.inputs) or "none"
        raise ArtifactRejected(f"The model must take one input; it takes {names}.")
    taken = declared.inputs[0]
    if taken.datatype != "FP32" or len(taken.shape) != 2:
        raise ArtifactRejected(
            f"The input {taken.name} is {taken.datatype} {list(taken.shape)}; it must be FP32 with "
            "the shape (batch, features)."
        )
    if taken.shape[0] != -1:
        raise ArtifactRejected(
            f"The model takes only batches of {taken.shape[0]} rows; export it with a free batch "
            "dimension."
        )
    if taken.shape[1] not in {-1, features}:
        raise ArtifactRejected(
            f"The model takes {taken.shape[1]} features, but {features} feature names are declared."
        )
    return taken.name


if __name__ == "__main__":
    reply = probe(json.load(sys.stdin))
    Path(sys.argv[1]).write_text(json.dumps(reply), encoding="utf-8")
