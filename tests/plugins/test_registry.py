"""Names, options and events of plugins."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from plugins import (
    Framework,
    InvalidOptions,
    ModelNotReady,
    PluginError,
    Recommendation,
    RecommendationRequest,
    UnknownPlugin,
)
from plugins.registry import (
    KINDS,
    REQUIRED,
    Implementation,
    PluginRegistry,
    Registry,
    register,
)

FRAMEWORK = next(kind for kind in KINDS if kind.plural == "frameworks")


class Loads:
    """Base of the frameworks in here."""

    def load(self, spec):
        raise NotImplementedError


class Good(Loads):
    """Does what it should.

    And here is more.
    """

    def __init__(
        self,
        *,
        device: str,
        threads: int = 1,
        rate: float = 0.5,
        fast: bool = False,
        cache: Path | None = None,
        mode: Literal["a", "b"] = "a",
        names: list[str] | None = None,
        untyped=None,
    ):
        if threads < 1:
            raise ValueError("threads must be at least 1")
        self.given = locals()


def framework_registry(**factories) -> Registry[Framework]:
    return Registry(
        FRAMEWORK, [register(FRAMEWORK, name, each, plugin="p") for name, each in factories.items()]
    )


@pytest.fixture
def registry():
    return framework_registry(good=Good, other=Good)


def test_what_is_registered_is_described(registry):
    good = registry.get("good")
    assert (good.name, good.factory, good.plugin) == ("good", Good, "p")
    assert good.summary == "Does what it should."
    assert [option.name for option in good.options][:3] == ["device", "threads", "rate"]
    assert good.options[0].default is REQUIRED
    assert good.options[0].required
    assert str(good.options[1]) == "threads: int = 1"
    assert str(good.options[4]) == "cache: Path | None = None"
    assert registry.kind == "framework"
    assert registry.names() == ("good", "other")
    assert "good" in registry
    assert "lacking" not in registry


@pytest.mark.contract("O7")
def test_an_unknown_name_lists_the_names_and_suggests_one(registry):
    for ask in (registry.get, registry.create, registry.check_options):
        with pytest.raises(UnknownPlugin, match=r"framework 'god'.*mean 'good'.*good, other"):
            ask("god")
    with pytest.raises(UnknownPlugin, match="There are: none"):
        Registry(FRAMEWORK).get("good")


def test_create_builds_with_the_options(registry):
    made = registry.create("good", {"device": "cpu", "rate": 1, "cache": "/tmp/x", "mode": "b"})
    assert made.given["device"] == "cpu"
    assert made.given["rate"] == 1
    assert made.given["cache"] == Path("/tmp/x")
    assert made.given["mode"] == "b"


@pytest.mark.contract("O7")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "'device' of framework 'good' .*'p'.* is missing.*device: str"),
        ({"device": "cpu", "thread": 2}, "'thread' is no option of.*Did you mean 'threads'"),
        ({"device": 1}, "'device' of framework 'good'.*must be str, not 1"),
        ({"device": None}, "must be str"),
        ({"device": "cpu", "threads": True}, "must be int, not True .bool.*leave it out for 1"),
        ({"device": "cpu", "threads": 1.0}, "must be int"),
        ({"device": "cpu", "threads": "1"}, "must be int"),
        ({"device": "cpu", "rate": False}, "must be float"),
        ({"device": "cpu", "rate": "1"}, "must be float"),
        ({"device": "cpu", "fast": 1}, "must be bool"),
        ({"device": "cpu", "cache": 1}, r"must be Path \| None"),
        ({"device": "cpu", "mode": "c"}, "must be Literal"),
        (["device"], "must be a mapping"),
    ],
)
def test_options_that_do_not_fit_are_refused(registry, options, message):
    with pytest.raises(InvalidOptions, match=message):
        registry.check_options("good", options)
    with pytest.raises(InvalidOptions, match=message):
        registry.create("good", options)


def test_options_of_other_types_are_left_to_the_factory(registry):
    registry.check_options("good", {"device": "cpu", "names": ["a"], "untyped": object()})
    registry.check_options("good", {"device": "cpu", "cache": None, "rate": 2})


@pytest.mark.contract("O7")
def test_a_value_that_the_factory_refuses_is_invalid(registry):
    registry.check_options("good", {"device": "cpu", "threads": 0})
    with pytest.raises(InvalidOptions, match=r"'good'.*'p'.*threads must be at least 1") as raised:
        registry.create("good", {"device": "cpu", "threads": 0})
    assert isinstance(raised.value.__cause__, ValueError)


def test_factories_may_be_functions_partials_and_dataclasses():
    def function(*, threads: int = 1) -> Good:
        """Builds a good one."""
        return Good(device="cpu", threads=threads)

    @dataclass(kw_only=True)
    class Data(Loads):
        """A dataclass."""

        threads: int = 1

    registry = framework_registry(
        function=function, data=Data, partial=functools.partial(function, threads=2)
    )
    for name in registry.names():
        registry.create(name, {"threads": 3})
        with pytest.raises(InvalidOptions, match="must be int"):
            registry.create(name, {"threads": "3"})
    assert registry.get("partial").summary == "Builds a good one."


def test_what_a_factory_builds_must_fulfil_the_contract():
    def function():
        """Builds nothing of use."""
        return object()

    with pytest.raises(PluginError, match="built object, which lacks load"):
        framework_registry(function=function).create("function")


def test_what_is_abstract_or_of_the_protocol_itself_does_not_count():
    class Lazy(Framework):
        """Inherits the contract and does nothing."""

    class Busy(Framework):
        """Inherits the contract and fulfils it."""

        def load(self, spec):
            raise NotImplementedError

    class Abstract(ABC):
        """Leaves it to a subclass."""

        @abstractmethod
        def load(self, spec): ...

    for factory in (Lazy, Abstract):
        with pytest.raises(PluginError, match="lacks load"):
            framework_registry(factory=factory)
    assert framework_registry(busy=Busy).get("busy").options == ()


REQUEST = RecommendationRequest(user_id=1)
ANSWER = Recommendation(1, ("a",), (1.0,), "default", None, "fallback")


def raising(**_):
    raise RuntimeError("broken fallback")


def fallbacks(*calls):
    return PluginRegistry(
        fallbacks=tuple(Implementation(f"p{i}", call) for i, call in enumerate(calls))
    )


def test_the_first_fallback_with_an_answer_wins():
    registry = fallbacks(lambda **_: None, lambda **_: ANSWER, raising)
    assert registry.fallback(REQUEST, ModelNotReady("no")) is ANSWER
    assert fallbacks().fallback(REQUEST, ModelNotReady("no")) is None


@pytest.mark.contract("O7")
def test_a_broken_fallback_is_logged_and_passed_over(caplog):
    error = ModelNotReady("no")
    assert fallbacks(raising, lambda **_: ANSWER).fallback(REQUEST, error) is ANSWER
    assert fallbacks(raising).fallback(REQUEST, error) is None
    assert fallbacks(lambda **_: {"items": []}).fallback(REQUEST, error) is None
    assert "broken fallback" in caplog.text
    assert "it returned dict, not a Recommendation" in caplog.text


@pytest.mark.contract("O7")
def test_every_listener_hears_though_one_raises(caplog):
    heard = []

    def listener(**event):
        heard.append(event)
        if len(heard) == 1:
            raise RuntimeError("broken listener")

    registry = PluginRegistry(
        model_activated_listeners=(Implementation("p", listener), Implementation("q", listener))
    )
    with caplog.at_level(logging.ERROR):
        registry.announce_model_activated("default", 3)
    assert heard == [{"model_name": "default", "version": 3}] * 2
    assert "Plugin p: model_activated failed" in caplog.text
