"""What plugins provide, by kind and name; and which plugins there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

from plugins.contracts import (
    AdmissionFilter,
    AlertChannel,
    EvictionPolicy,
    Executor,
    FeatureSource,
    Framework,
    Recommendation,
    RecommendationRequest,
)
from plugins.drift_contracts import DriftRule
from plugins.errors import InvalidOptions, PluginError, Unavailable, UnknownPlugin
from plugins.failures import Failures
from plugins.options import REQUIRED, Option, did_you_mean, fit, read_options, read_summary
from plugins.warmup_contracts import WarmupStrategy

__all__ = [
    "KINDS",
    "REQUIRED",
    "Implementation",
    "Kind",
    "Option",
    "Origin",
    "PluginRecord",
    "PluginRegistry",
    "Registered",
    "Registry",
    "State",
    "check_name",
    "register",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing that plugins provide."""

    name: str
    """One of it, in words: ``eviction policy``."""
    plural: str
    """All of it, as an identifier: ``eviction_policies``."""
    contract: type
    """The Protocol that each fulfils."""

    @property
    def hook(self) -> str:
        """The hook that registers it."""
        return f"recserve_{self.plural}"


KINDS = (
    Kind("eviction policy", "eviction_policies", EvictionPolicy),
    Kind("admission filter", "admission_filters", AdmissionFilter),
    Kind("framework", "frameworks", Framework),
    Kind("executor", "executors", Executor),
    Kind("feature source", "feature_sources", FeatureSource),
    Kind("warm-up strategy", "warmup_strategies", WarmupStrategy),
    Kind("alert channel", "alert_channels", AlertChannel),
    Kind("drift rule", "drift_rules", DriftRule),
)
"""Every kind there is."""


# --- One name ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registered(Generic[T_co]):
    """One named factory, and what is known of it."""

    name: str
    """The name that settings and model versions use."""
    factory: Callable[..., T_co]
    """Builds one; its keyword-only parameters are the options."""
    plugin: str
    """The plugin that provides it."""
    summary: str
    """The first line of the factory's docstring."""
    options: tuple[Option, ...]
    """What the factory takes."""


def check_name(name: object) -> str:
    """Return a name if it is a good one.

    Raises:
        PluginError: It is not lower-case letters, digits and underscores.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    better = re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")
    hint = f"; call it {better!r}" if _NAME.fullmatch(better) else ""
    raise PluginError(
        f"the name {name!r} is not made of lower-case letters, digits and underscores, "
        f"beginning with a letter{hint}"
    )


def register(kind: Kind, name: object, factory: object, *, plugin: str) -> Registered[Any]:
    """Return a factory with its summary and options, once it is known to fulfil the contract.

    Raises:
        PluginError: The name is bad, or the factory lacks something; the message says what.
    """
    good = check_name(name)
    if not callable(factory):
        raise PluginError(
            f"the {kind.name} {good!r} is {factory!r}, which cannot be called; give a class or "
            f"a function that returns one"
        )
    if isinstance(factory, type) and (missing := _missing(factory, kind.contract)):
        raise PluginError(
            f"the {kind.name} {good!r} ({factory.__name__}) lacks {', '.join(missing)} of the "
            f"contract plugins.{kind.contract.__name__}"
        )
    summary = read_summary(factory)
    if not summary:
        raise PluginError(
            f"the {kind.name} {good!r} has no docstring; its first line is what operators see"
        )
    return Registered(good, factory, plugin, summary, read_options(factory))


def _members(contract: type) -> dict[str, bool]:
    """Return the contract's members, with whether the class itself must have each."""
    declared: dict[str, str] = getattr(contract, "__annotations__", {})
    members = {name: "ClassVar" in str(annotation) for name, annotation in declared.items()}
    for name, member in vars(contract).items():
        if not name.startswith("_"):
            # What is a property in the contract may be set by __init__ in a plugin.
            members[name] = not isinstance(member, property)
    return members


def _missing(factory: type, contract: type) -> list[str]:
    """Return the members of the contract that a class lacks.

    What is abstract, or only inherited from a Protocol, does not count.
    """
    own = {
        name
        for base in factory.__mro__
        if not vars(base).get("_is_protocol", False)
        for name in vars(base)
    } - getattr(factory, "__abstractmethods__", frozenset())
    return [name for name, needed in _members(contract).items() if needed and name not in own]


# --- One kind ---------------------------------------------------------------------------------


class Registry(Generic[T]):
    """Everything of one kind that plugins provide, by name. It does not change."""

    def __init__(self, kind: Kind, registered: Iterable[Registered[T]] = ()) -> None:
        self._kind = kind
        self._registered = MappingProxyType({each.name: each for each in registered})

    @property
    def kind(self) -> str:
        """One of the kind, in words."""
        return self._kind.name

    def names(self) -> tuple[str, ...]:
        """Return the names, sorted."""
        return tuple(sorted(self._registered))

    def __contains__(self, name: object) -> bool:
        return name in self._registered

    def __repr__(self) -> str:
        return f"<Registry of {self._kind.plural}: {', '.join(self.names()) or 'empty'}>"

    def get(self, name: str) -> Registered[T]:
        """Return what has this name.

        Raises:
            UnknownPlugin: Nothing has; the message lists the names.
        """
        try:
            return self._registered[name]
        except (KeyError, TypeError):
            names = ", ".join(self.names()) or "none"
            raise UnknownPlugin(
                f"There is no {self.kind} {name!r}.{did_you_mean(name, self.names())} "
                f"There are: {names}. (manage.py plugins lists the plugins, and why one failed.)"
            ) from None

    def check_options(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        """Check options without building anything.

        Raises:
            UnknownPlugin: Nothing has this name.
            InvalidOptions: An option is unknown, missing, or not of its type.
        """
        registered = self.get(name)
        fit(options, registered.options, of=self._label(registered))

    def create(self, name: str, options: Mapping[str, Any] | None = None) -> T:
        """Return a new one of this name.

        Raises:
            UnknownPlugin: Nothing has this name.
            InvalidOptions: The options do not fit, or the factory refused their values.
            PluginError: What the factory returned does not fulfil the contract.
        """
        registered = self.get(name)
        label = self._label(registered)
        fitted = fit(options, registered.options, of=label)
        try:
            made = registered.factory(**fitted)
        except (TypeError, ValueError) as error:
            raise InvalidOptions(
                f"{label} refuses its options {fitted or '(none)'}: {error}. It takes: "
                f"{', '.join(map(str, registered.options)) or 'none'}."
            ) from error
        missing = [each for each in _members(self._kind.contract) if not hasattr(made, each)]
        if missing:
            raise PluginError(
                f"{label} built {type(made).__name__}, which lacks {', '.join(missing)} of the "
                f"contract plugins.{self._kind.contract.__name__}."
            )
        return made

    def _label(self, registered: Registered[T]) -> str:
        return f"{self.kind} {registered.name!r} (plugin {registered.plugin!r})"


# --- Everything -------------------------------------------------------------------------------

Origin: TypeAlias = Literal["built-in", "entry point"]
"""How a plugin came in."""

State: TypeAlias = Literal["loaded", "blocked", "failed"]
"""What became of it."""


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """One plugin that was found, and what became of it."""

    name: str
    """Its name: that of its entry point."""
    version: str
    """The version of its distribution; empty if unknown."""
    distribution: str
    """The distribution that brought it."""
    origin: Origin
    """How it came in."""
    state: State
    """What became of it."""
    reason: str = ""
    """Why it is blocked or failed, in one line."""
    provides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names by kind (``eviction_policies``, …)."""
    hooks: tuple[str, ...] = ()
    """The hooks it implements."""
    module: str = ""
    """The module it is imported from."""
    api: int | None = None
    """The contract it says it was written for; None: it says nothing, or was not taken."""


@dataclass(frozen=True, slots=True)
class Implementation:
    """One plugin's implementation of a hook that is called while the server runs."""

    plugin: str
    """The plugin's name."""
    call: Callable[..., Any]
    """Called with all of the hook's arguments, by name."""


def _empty(plural: str) -> Callable[[], Registry[Any]]:
    kind = next(kind for kind in KINDS if kind.plural == plural)
    return lambda: Registry(kind)


@dataclass(frozen=True, slots=True)
class PluginRegistry:
    """Everything that the loaded plugins provide."""

    eviction_policies: Registry[EvictionPolicy] = field(default_factory=_empty("eviction_policies"))
    """Eviction policies of the memory level."""
    admission_filters: Registry[AdmissionFilter] = field(
        default_factory=_empty("admission_filters")
    )
    """Admission filters of the memory level."""
    frameworks: Registry[Framework] = field(default_factory=_empty("frameworks"))
    """Model frameworks."""
    executors: Registry[Executor] = field(default_factory=_empty("executors"))
    """Executors."""
    feature_sources: Registry[FeatureSource] = field(default_factory=_empty("feature_sources"))
    """Feature sources."""
    warmup_strategies: Registry[WarmupStrategy] = field(default_factory=_empty("warmup_strategies"))
    """Warm-up strategies."""
    alert_channels: Registry[AlertChannel] = field(default_factory=_empty("alert_channels"))
    """Channels that alerts are sent by."""
    drift_rules: Registry[DriftRule] = field(default_factory=_empty("drift_rules"))
    """Drift rules."""
    records: tuple[PluginRecord, ...] = ()
    """Every plugin that was found: built-ins first, then by name."""
    fallbacks: tuple[Implementation, ...] = ()
    """Those that may answer for a model, in the order in which they are asked."""
    model_activated_listeners: tuple[Implementation, ...] = ()
    """Those that hear of a version going live."""
    failures: Failures = field(default_factory=Failures)
    """What plugins did wrong since they were loaded, and which parts are switched off for it."""

    def of_kind(self, plural: str) -> Registry[Any]:
        """Return the registry of a kind, such as ``frameworks``."""
        if plural not in {kind.plural for kind in KINDS}:
            raise UnknownPlugin(f"There is no kind {plural!r}.")
        return cast("Registry[Any]", getattr(self, plural))

    def part(self, plural: str, name: str) -> tuple[str, str]:
        """Return what failures of a named thing are counted under: its plugin, and its part."""
        registry = self.of_kind(plural)
        return registry.get(name).plugin, f"{registry.kind} {name}"

    def fallback(self, request: RecommendationRequest, error: Unavailable) -> Recommendation | None:
        """Return the first answer that a plugin gives, or None if none does.

        A plugin that raises, or answers with something else, is passed over, and switched off if
        it does so again and again.
        """
        for each in self.fallbacks:
            if self.failures.is_off(each.plugin, "fallback"):
                continue
            try:
                answer = each.call(request=request, error=error)
            except Exception as raised:  # noqa: BLE001  (a plugin's; it is counted and logged)
                self.failures.note(each.plugin, "fallback", raised)
                continue
            if isinstance(answer, Recommendation):
                return answer
            if answer is not None:
                wrong = f"it returned {type(answer).__name__}, not a Recommendation"
                self.failures.note(each.plugin, "fallback", wrong)
        return None

    def announce_model_activated(self, model_name: str, version: int) -> None:
        """Tell every listening plugin; one that raises keeps it from no other."""
        for each in self.model_activated_listeners:
            if self.failures.is_off(each.plugin, "model_activated"):
                continue
            try:
                each.call(model_name=model_name, version=version)
            except Exception as raised:  # noqa: BLE001
                self.failures.note(each.plugin, "model_activated", raised)
