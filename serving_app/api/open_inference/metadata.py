"""What there is: the server, its models, what they take and return, and how they are run."""

from __future__ import annotations

from typing import Any

from plugins import ModelNotReady, TensorSpec
from serving_app import wiring
from serving_app.api.open_inference.answers import Answer, as_json
from serving_app.api.open_inference.asked import Asked, models_of

__all__ = ["config", "live", "model", "model_ready", "models", "ready", "server"]

_EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
_VERSION = "0.1.0"


def server(_asked: Asked) -> Answer:
    """Return the server's metadata."""
    return as_json({"name": "recserve", "version": _VERSION, "extensions": _EXTENSIONS})


def live(_asked: Asked) -> Answer:
    """Return 200 as long as the process answers at all."""
    return as_json({"live": True, "ready": _is_ready()})


def ready(_asked: Asked) -> Answer:
    """Return 200 once everything that can be live is.

    Triton answers with no body and KServe with this one; each client understands it.

    Raises:
        ModelNotReady: Models are loading.
    """
    if not _is_ready():
        raise ModelNotReady("The server is starting: models are loading.")
    return as_json({"live": True, "ready": True})


def _is_ready() -> bool:
    return wiring.get_serving().reconciler.ready.is_set()


def models(asked: Asked) -> Answer:
    """Return the names of the models in production that the caller may ask."""
    return as_json({"models": models_of(asked.permit("predict"))})


def model(asked: Asked) -> Answer:
    """Return a model's metadata."""
    asked.permit("predict")
    with asked.lease() as lease:
        record = lease.version.record
    signature = record.signature
    assert signature is not None, "a registered version has a signature"
    return as_json(
        {
            "name": record.model_name,
            "versions": [asked.number] if asked.number else asked.answering(),
            "platform": record.framework,
            "inputs": [_tensor(spec) for spec in signature.inputs],
            "outputs": [_tensor(spec) for spec in signature.outputs],
        }
    )


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def model_ready(asked: Asked) -> Answer:
    """Return 200 if a model answers."""
    asked.permit("predict")
    with asked.lease() as lease:
        return as_json({"name": lease.version.record.model_name, "ready": True})


def config(asked: Asked) -> Answer:
    """Return a model's configuration, in the words of Triton's ``ModelConfig``."""
    asked.permit("predict")
    with asked.lease() as lease:
        version = lease.version
        record = version.record
        instances = max(1, version.stats().pool.instances)
    signature = record.signature
    assert signature is not None, "a registered version has a signature"
    return as_json(
        {
            "name": record.model_name,
            "platform": record.framework,
            "backend": record.framework,
            "version_policy": {"specific": {"versions": list(map(int, asked.answering()))}},
            "max_batch_size": record.max_batch,
            "input": [_configured(spec) for spec in signature.inputs],
            "output": [_configured(spec) for spec in signature.outputs],
            "dynamic_batching": {
                "preferred_batch_size": [record.max_batch],
                "max_queue_delay_microseconds": round(record.max_wait * 1e6),
                "priority_levels": 3,
                "default_priority_level": 1,
                "default_queue_policy": {
                    "timeout_action": "REJECT",
                    "default_timeout_microseconds": round(record.timeout * 1e6),
                    "allow_timeout_override": True,
                    "max_queue_size": record.max_queue,
                },
            },
            "instance_group": [
                {"name": record.model_name, "kind": "KIND_AUTO", "count": instances}
            ],
            "response_cache": {"enable": False},
            "parameters": {"output": {"string_value": record.output}},
        }
    )


def _configured(spec: TensorSpec) -> dict[str, Any]:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape[1:])}
