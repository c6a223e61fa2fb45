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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins import (
    ArtifactRejected,
    LoadedModel,
    ModelSpec,
    PluginError,
    Signature,
    Tensors,
    TensorSpec,
)
from plugins.datatypes import datatype_of
from plugins.loading import load_plugins
from serving_app.core.outputs import infer_output
from serving_app.core.schema_layout import layout_of

_BATCHES = (1, 3)
_TOLERANCE = 1e-3
"""How far a row's numbers may depend on the rows beside it, of the largest number."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is declared of a model, which a probe compares with what it finds."""

    feature_names: tuple[str, ...] = ()
    feature_schema: Sequence[Any] = ()
    items: int = 0
    """How many items the catalogue has; 0: there is none."""
    output: str = ""
    """One of `serving_app.core.outputs.OUTPUTS`; empty: whatever it looks like."""
    output_options: Mapping[str, Any] = field(default_factory=dict)
    vectors: int = 0
    """How many numbers the items' vectors have; 0: there are none."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe found out about a model."""

    signature: Signature
    """Read from the artifact, or else from what the sample batch took and returned."""
    output: str
    """What its output is."""
    output_options: Mapping[str, Any]
    """Which of its tensors that is."""


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
    spec: ModelSpec, expected: Expected, *, blocked: tuple[str, ...], timeout: float
) -> ProbeReport:
    """Load a model in a separate process, run sample batches, and return what was found.

    Args:
        spec: The version to probe.
        expected: What is declared of it.
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
            "expected": asdict(expected),
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
    return ProbeReport(
        signature_from_json(answer["signature"]), answer["output"], answer["output_options"]
    )


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
        expected = Expected(**question["expected"])
        report = _sampled(model, expected)
        return {**asdict(report), "signature": signature_as_json(report.signature)}
    except (ArtifactRejected, PluginError) as error:
        return {"rejected": str(error)}


def _sampled(model: LoadedModel, expected: Expected) -> ProbeReport:
    """Run sample batches, and return what they confirm."""
    declared = model.signature
    for spec in declared.inputs if declared else ():
        if not spec.shape or spec.shape[0] != -1:
            raise ArtifactRejected(
                f"The model takes only batches of fixed size at {spec.name} ({list(spec.shape)}); "
                "export it with a free batch dimension."
            )
    rng = np.random.default_rng(0)
    inputs: tuple[TensorSpec, ...]
    if expected.feature_names or expected.feature_schema:
        names = tuple(expected.feature_names)
        layout = layout_of(names, expected.feature_schema, declared, items=expected.items)
        inputs, what = layout.inputs, f"{len(layout.names)} features"
        batches = [layout.tensors(layout.samples(batch, rng)) for batch in _BATCHES]
    elif declared is not None:
        inputs, what = declared.inputs, f"{len(declared.inputs)} tensors"
        batches = [_random(inputs, batch, rng) for batch in _BATCHES]
    else:
        raise ArtifactRejected(
            "The artifact does not say what it takes; declare the features, by names or a schema."
        )
    for batch in batches:
        outputs = _outputs(model, batch, what)
        output, options = infer_output(
            expected.output,
            expected.output_options,
            outputs,
            items=expected.items,
            vectors=expected.vectors,
        )
    _check_rows_alone(model, batches[-1], outputs, what)
    found = Signature(
        inputs,
        tuple(
            TensorSpec(name, datatype_of(array.dtype), (-1, *array.shape[1:]))
            for name, array in outputs.items()
        ),
    )
    return ProbeReport(declared or found, output, options)


def _random(
    inputs: Sequence[TensorSpec], batch: int, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Return tensors to try a model with of which only the signature is known."""
    tensors: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        shape = [batch, *(1 if n == -1 else n for n in spec.shape[1:])]
        if spec.datatype == "BYTES":
            tensors[spec.name] = np.full(shape, b"a", dtype=object)
        elif spec.datatype.startswith("FP"):
            tensors[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        else:
            tensors[spec.name] = rng.integers(0, 2, shape).astype(spec.dtype)
    return tensors


def _outputs(model: LoadedModel, inputs: Tensors, what: str) -> Tensors:
    """Return the outputs for a sample batch, checked.

    Raises:
        ArtifactRejected: The model fails on it, or returns what is no output.
    """
    rows = len(next(iter(inputs.values())))
    try:
        outputs = model.predict(inputs)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ArtifactRejected(
            f"The model failed on a sample batch of {rows} rows of {what} "
            f"({type(error).__name__}: {reason}). Do the declared features fit it, and does it "
            "take any batch size?"
        ) from error
    if not outputs:
        raise ArtifactRejected("The model returned nothing.")
    for name, array in outputs.items():
        if not array.ndim or array.shape[0] != rows:
            raise ArtifactRejected(
                f"The model returned {name} of shape {array.shape} for {rows} rows; it must "
                "return (rows, items)."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArtifactRejected(f"The model returned {name} that are NaN or infinite.")
    return outputs


def _check_rows_alone(model: LoadedModel, inputs: Tensors, batch: Tensors, what: str) -> None:
    """Check that a row's numbers do not depend on the rows beside it.

    Raises:
        ArtifactRejected: They do.
    """
    for row in range(_BATCHES[-1]):
        alone = _outputs(model, {n: a[row : row + 1] for n, a in inputs.items()}, what)
        for name, array in batch.items():
            if array.dtype.kind != "f" or alone[name].shape[1:] != array.shape[1:]:
                continue
            largest = max(1.0, float(np.abs(array).max(initial=0)))
            if not np.allclose(alone[name][0], array[row], atol=_TOLERANCE * largest, rtol=0):
                raise ArtifactRejected(
                    f"What the model returns for a row ({name}) depends on the rows beside it in "
                    "the batch. Export it in evaluation mode."
                )


if __name__ == "__main__":
    reply = probe(json.load(sys.stdin))
    Path(sys.argv[1]).write_text(json.dumps(reply), encoding="utf-8")
