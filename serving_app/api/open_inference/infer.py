"""Inference: tensors in, a model's outputs out.

The recommendation cache is passed by: what is asked for is the model's answer to these tensors.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import numpy as np

from plugins import DeadlineExceeded, InferenceError, InvalidInput, Priority, Tensors
from serving_app import rates
from serving_app.api.open_inference.answers import JSON, Answer
from serving_app.api.open_inference.asked import Asked
from serving_app.api.open_inference.compression import compressed
from serving_app.conf import serving_settings
from serving_app.core.infer_response import InferResponse
from serving_app.core.live_version import LiveVersion
from serving_app.core.open_inference import (
    InferRequest,
    OutputWish,
    read_raw_request,
    read_request,
)
from serving_app.core.request_record import current
from serving_app.core.tensors import checked_tensors
from serving_app.core.version_record import VersionRecord
from serving_app.core.zero_rows import outputs_of_nothing

__all__ = ["infer"]

_LENGTH = "Inference-Header-Content-Length"


def infer(asked: Asked) -> Answer:
    """Return a model's outputs for the tensors in the body."""
    access = asked.permit("predict")
    with asked.lease() as lease:
        version = lease.version
        record = version.record
        if (log := current()) is not None:
            log.model, log.version, log.source = record.model_name, record.version, "model"
        request = _request(asked, record)
        names = _output_names(record)
        wishes = request.wishes(names)
        most = serving_settings().max_k
        if any(wish.classes > most for wish in wishes):
            raise InvalidInput(f"classification must be at most {most}", field="outputs")
        inputs = checked_tensors(request.inputs, record.signature, least_rows=0)
        rows = len(next(iter(inputs.values())))
        if rows > 1:
            rates.check(access, "predict", rows - 1)
        outputs = _outputs(version, inputs, rows, request.parameters)
        body, length = _encoded(version, request, outputs, wishes)
    headers = {"Content-Type": JSON}
    if length is not None:
        headers = {"Content-Type": "application/octet-stream", _LENGTH: str(length)}
    body, encoding = compressed(body, asked.headers.get("accept-encoding", ""))
    if encoding:
        headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    return Answer(200, body, headers)


def _request(asked: Asked, record: VersionRecord) -> InferRequest:
    """Return the request in the body."""
    length = asked.headers.get(_LENGTH.lower())
    if length != "0":
        return read_request(asked.body(), length)
    assert record.signature is not None, "a registered version has a signature"
    if len(record.signature.inputs) != 1:
        raise InvalidInput(
            f"a raw request needs a model of one input; '{record.model_name}' has "
            f"{len(record.signature.inputs)}",
            field=_LENGTH,
        )
    return read_raw_request(asked.body(), record.signature.inputs[0])


def _output_names(record: VersionRecord) -> list[str]:
    assert record.signature is not None, "a registered version has a signature"
    return [spec.name for spec in record.signature.outputs]


def _encoded(
    version: LiveVersion, request: InferRequest, outputs: Tensors, wishes: Sequence[OutputWish]
) -> tuple[bytes, int | None]:
    record = version.record
    for wish in wishes:
        if wish.name not in outputs:
            raise InferenceError(f"{record.label} did not return its output {wish.name!r}.")
    labels = {}
    if record.output == "scores":
        labels[record.output_options.get("output", next(iter(outputs)))] = version.catalogue.items
    answer = InferResponse(
        record.model_name, str(record.version), outputs, id=request.id, labels=labels
    )
    return answer.encoded(wishes)


def _outputs(
    version: LiveVersion, inputs: Tensors, rows: int, parameters: Mapping[str, Any]
) -> Tensors:
    """Return what the model makes of the inputs, in batches of no more rows than it takes."""
    record = version.record
    seconds, priority = _limits(parameters, record.timeout)
    if not rows:
        assert record.signature is not None, "a registered version has a signature"
        return outputs_of_nothing(record.signature)
    until = time.monotonic() + seconds
    futures: list[Future[Tensors]] = []
    try:
        for at in range(0, rows, record.max_batch):
            part = {name: array[at : at + record.max_batch] for name, array in inputs.items()}
            futures.append(version.infer(part, seconds=seconds, priority=priority))
        parts = [future.result(max(0.0, until - time.monotonic())) for future in futures]
    except FutureTimeoutError as error:
        raise DeadlineExceeded(f"{record.label} did not answer within {seconds:.3g} s.") from error
    finally:
        for future in futures:
            future.cancel()  # those that nobody waits for any more
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _limits(parameters: Mapping[str, Any], timeout: float) -> tuple[float, Priority]:
    """Return the seconds and the priority that the request's parameters ask for.

    Priority 1 is the highest and 0 the default, which is the same here: someone waits. What is
    more goes after it.
    """
    found = {}
    for name in ("timeout", "priority"):
        value = parameters.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidInput(f"parameter '{name}' must be a whole number", field=name)
        found[name] = value
    seconds = min(timeout, found["timeout"] / 1e6) if found["timeout"] else timeout
    return seconds, Priority(min(max(0, found["priority"] - 1), max(Priority)))
