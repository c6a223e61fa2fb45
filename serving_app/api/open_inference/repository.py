"""The model repository: what is registered, and taking a model into service and out of it.

The repository is the registry: what is loaded is a registered version, never a file of the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib.auth.models import User

from plugins import ModelNotFound, ModelNotReady
from serving_app import promotion, wiring
from serving_app.api.open_inference.answers import Answer, Refused, as_json
from serving_app.api.open_inference.asked import Asked
from serving_app.core.access import Access
from serving_app.core.live_models import Routes
from serving_app.models import Activation, ModelVersion, ServedModel
from serving_app.reconciler import process_name

__all__ = ["index", "load", "unload"]

_LOAD_SECONDS = 30.0


def index(asked: Asked) -> Answer:
    """Return the registered versions, and which of them answer in this process."""
    access = asked.permit("operate")
    wanted = asked.json()
    if not isinstance(wanted.get("ready", False), bool):
        raise Refused(400, "'ready' must be true or false")
    entries = list(_entries(access))
    if wanted.get("ready"):
        entries = [entry for entry in entries if entry["state"] == "READY"]
    return as_json(entries)


def _entries(access: Access) -> Iterator[dict[str, Any]]:
    routes = wiring.get_serving().live.routes()
    here = {
        activation.version_id: activation
        for activation in Activation.objects.filter(process=process_name())
    }
    for model in ServedModel.objects.prefetch_related("versions__aliases").order_by("name"):
        if access.models is not None and model.name not in access.models:
            continue
        live = {version.record.version for version in routes.get(model.name, Routes()).versions}
        versions = sorted(model.versions.all(), key=lambda version: version.number)
        if not versions:
            reason = "it has no versions"
            yield {"name": model.name, "state": "UNAVAILABLE", "reason": reason}
        for version in versions:
            state, reason = _state(version, live, here.get(version.pk))
            yield {
                "name": model.name,
                "version": str(version.number),
                "state": state,
                "reason": reason,
            }


def _state(version: ModelVersion, live: set[int], here: Activation | None) -> tuple[str, str]:
    if version.number in live:
        return "READY", ""
    if here is not None and here.state == Activation.State.FAILED:
        return "UNAVAILABLE", here.problem
    if version.aliases.all():
        return "LOADING", ""
    return "UNAVAILABLE", version.problem or "not live"


def load(asked: Asked) -> Answer:
    """Put a model into service that has no version in production.

    The version that was in production before comes back, or else the latest sound one. One that is
    in service stays as it is: which version that is, promoting decides. The answer waits until the
    version answers in this process; others follow within moments.

    Raises:
        ModelNotFound: No such model is registered.
        ModelNotReady: It could not be loaded here, or not in time.
        Refused: Files or a configuration are sent along.
        ValidationError: The model has no sound version.
    """
    access = asked.permit("administer")
    given = asked.json().get("parameters") or {}
    if not isinstance(given, dict):
        raise Refused(400, "'parameters' must be an object")
    if given:
        raise Refused(
            501, f"load takes no parameters, such as {next(iter(given))!r}: register a version"
        )
    model = _model(asked)
    version = promotion.restore(model, by=_user(access))
    if not wiring.get_serving().reconciler.follow(model.name, version.number, _LOAD_SECONDS):
        failed = Activation.objects.filter(
            process=process_name(), version=version, state=Activation.State.FAILED
        ).first()
        why = f": {failed.problem}" if failed else f" within {_LOAD_SECONDS:g} s"
        raise ModelNotReady(f"failed to load '{model.name}' version {version.number} here{why}")
    return Answer()


def unload(asked: Asked) -> Answer:
    """Take a model out of production; `load` brings it back. What other aliases lead to stays.

    Raises:
        ModelNotFound: No such model is registered.
        ValidationError: It has a roll-out running.
    """
    access = asked.permit("administer")
    asked.json()
    promotion.withdraw(_model(asked), by=_user(access))
    return Answer()


def _model(asked: Asked) -> ServedModel:
    model = ServedModel.objects.filter(name=asked.named.encode("utf-8", "replace").decode()).first()
    if model is None:
        raise ModelNotFound(f"Request for unknown model: '{asked.named}' is not found")
    return model


def _user(access: Access) -> User | None:
    kind, _, key = access.subject.partition(":")
    return User.objects.filter(pk=key).first() if kind == "user" else None
