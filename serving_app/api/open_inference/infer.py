"""Inference: tensors in, a model's outputs out.

The recommendation cache is passed by: what is asked for is the model's answer to these tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from plugins import InferenceError, InvalidInput, Priority, Tensors
from serving_app import rates
from serving_app.api.open_inference.answers import JSON, Answer
from serving_app.api.open_inference.asked import Asked
from serving_app.api.open_inference.compression import compressed
from serving_app.api.open_inference.inference import Inference
from serving_app.conf import serving_settings
from serving_app.core.access import Access
from serving_app.core.infer_response import InferResponse
from serving_app.core.live_models import Lease
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

__all__ = ["infer", "infer_at_once"]

_LENGTH = "Inference-Header-Content-Length"


def infer(asked: Asked) -> Inference | Answer:
    """Queue the tensors in the body, and return the answer on its way.

    What needs no model is answered at once.
    """
    access = asked.predicting  # before anything is said of the model
    return _infer(asked, access, asked.leased())


def infer_at_once(asked: Asked) -> Inference | Answer | None:
    """Do what `infer` does if no database need be asked; None: call that with the same, aside.

    An event loop calls it for a caller who is known, and whose requests are counted here.
    """
    access = asked.predicting
    lease = asked.held()
    return None if lease is None else _infer(asked, access, lease)


def _infer(asked: Asked, access: Access, lease: Lease) -> Inference | Answer:
    """Queue the tensors; the lease ends with the inference."""
    with ExitStack() as undo:
        undo.callback(lease.release)
        version, record = lease.version, lease.version.record
        if (log := current()) is not None:
            log.model, log.version, log.source = record.model_name, record.version, "model"
        request = _request(asked, record)
        wishes = request.wishes(_output_names(record))
        most = serving_settings().max_k
        if any(wish.classes > most for wish in wishes):
            raise InvalidInput(f"classification must be at most {most}", field="outputs")
        inputs = checked_tensors(request.inputs, record.signature, least_rows=0)
        rows = len(next(iter(inputs.values())))
        if rows > 1:
            rates.check(access, "predict", rows - 1)
        seconds, priority = _limits(request.parameters, record.timeout)
        answer = partial(_answer, asked, version, request, wishes)
        if not rows:
            assert record.signature is not None, "a registered version has a signature"
            return answer(outputs_of_nothing(record.signature))
        inference = Inference(lease, inputs, seconds=seconds, priority=priority, answer=answer)
        undo.pop_all()
    return inference


def _answer(
    asked: Asked,
    version: LiveVersion,
    request: InferRequest,
    wishes: Sequence[OutputWish],
    outputs: Tensors,
) -> Answer:
    """Return the answer that a model's outputs make."""
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
