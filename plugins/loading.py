"""Loads plugins: the built-in ones and those of installed distributions, all in one way.

Each plugin is imported, registered with pluggy, checked, and asked what it provides. Whatever it
raises on that way, it is left out whole, and its record says why: a bad plugin never keeps the
server from starting.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from plugins import hookspecs
from plugins.api_version import needed_api
from plugins.errors import PluginError
from plugins.failures import Failures
from plugins.hookspecs import PROJECT
from plugins.options import did_you_mean
from plugins.registry import (
    KINDS,
    Implementation,
    Kind,
    Origin,
    PluginRecord,
    PluginRegistry,
    Registered,
    Registry,
    check_name,
    register,
)

__all__ = ["BUILTIN", "load_plugins"]

logger = logging.getLogger(__name__)

BUILTIN: tuple[tuple[str, str], ...] = (
    ("builtin_eviction", "plugins.eviction.builtin"),
    ("builtin_admission", "plugins.admission.builtin"),
    ("builtin_frameworks", "plugins.frameworks.builtin"),
    ("builtin_executors", "plugins.executors.builtin"),
    ("builtin_features", "plugins.features.builtin"),
    ("builtin_warmup", "plugins.warmup.builtin"),
    ("builtin_alerts", "plugins.alerts.builtin"),
    ("builtin_drift", "plugins.drift.builtin"),
)
"""Name and module of each built-in plugin."""


def load_plugins(
    *,
    blocked: Collection[str] = (),
    entry_points: Iterable[metadata.EntryPoint] | None = None,
    failures: Failures | None = None,
) -> PluginRegistry:
    """Return everything that the built-in and the installed plugins provide.

    Args:
        blocked: Names of plugins that are not to be loaded; they are not even imported.
        entry_points: The installed plugins; None: those of the entry-point group ``recserve``.
        failures: Counts what they do wrong from then on; None: as by default.
    """
    found = [_Found(name, module, "built-in", PROJECT, _own_version()) for name, module in BUILTIN]
    installed = _installed() if entry_points is None else entry_points
    found += sorted(map(_from_entry_point, installed), key=lambda f: (f.name, f.distribution))
    loading = _Loading()
    for each in found:
        if each.name in blocked:
            loading.records.append(each.record("blocked", "blocked by the settings"))
        else:
            loading.load(each)
    return loading.result(Failures() if failures is None else failures)


# --- Finding ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A plugin that has been found, but not been imported."""

    name: str
    module: str
    origin: Origin
    distribution: str
    version: str
    entry_point: metadata.EntryPoint | None = None

    def import_(self) -> Any:
        """Return the plugin: a module, as a rule."""
        if self.entry_point is not None:
            return self.entry_point.load()
        return importlib.import_module(self.module)

    def record(self, state: Any, reason: str = "", **more: Any) -> PluginRecord:
        """Return the record of what became of it."""
        return PluginRecord(
            name=self.name,
            version=self.version,
            distribution=self.distribution,
            origin=self.origin,
            state=state,
            reason=reason,
            module=self.module,
            **more,
        )


def _from_entry_point(entry_point: metadata.EntryPoint) -> _Found:
    name = version = ""
    try:
        if entry_point.dist is not None:
            name, version = entry_point.dist.name, entry_point.dist.version
    except Exception:  # its metadata is damaged; the plugin may work all the same
        logger.exception("The metadata of plugin %s cannot be read", entry_point.name)
    return _Found(
        name=entry_point.name,
        module=entry_point.value,
        origin="entry point",
        distribution=name or "",
        version=version or "",
        entry_point=entry_point,
    )


def _own_version() -> str:
    try:
        return metadata.version(PROJECT)
    except metadata.PackageNotFoundError:
        return ""  # run from a checkout


def _installed() -> tuple[metadata.EntryPoint, ...]:
    """Return the entry points of every distribution whose metadata can be read."""
    try:
        return tuple(metadata.entry_points(group=PROJECT))
    except Exception:  # one damaged distribution, of any project, spoils the quick way
        logger.exception("Reading entry points one distribution at a time")
    points: dict[str, tuple[metadata.EntryPoint, ...]] = {}
    for distribution in metadata.distributions():
        try:
            if distribution.name not in points:
                points[distribution.name] = tuple(distribution.entry_points.select(group=PROJECT))
        except Exception:
            logger.exception("The plugins of a damaged distribution are not seen")
    return tuple(point for each in points.values() for point in each)


# --- Loading ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Contribution:
    """What one plugin adds, kept apart until all of it is known to be good."""

    registered: dict[str, list[Registered[Any]]] = field(default_factory=dict)
    hooks: list[str] = field(default_factory=list)
    api: int | None = None


class _Loading:
    """One run of `load_plugins`."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self._names: dict[str, _Found] = {}
        self._registered: dict[str, dict[str, Registered[Any]]] = {k.plural: {} for k in KINDS}
        self._pluggy = pluggy.PluginManager(PROJECT)
        self._pluggy.add_hookspecs(hookspecs)

    def load(self, found: _Found) -> None:
        """Take a plugin in with all it provides, or record why it is left out."""
        try:
            contribution = self._contribution(found)
        except PluginError as error:
            logger.error("Plugin %s is left out: %s", found.name, error)  # noqa: TRY400  (expected)
            self._leave_out(found, str(error))
            return
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a plugin may not end the server
            logger.exception("Plugin %s is left out", found.name)
            self._leave_out(found, f"{type(error).__name__}: {error}")
            return
        for plural, registered in contribution.registered.items():
            self._registered[plural].update({each.name: each for each in registered})
        provides = {
            plural: tuple(sorted(each.name for each in registered))
            for plural, registered in contribution.registered.items()
            if registered
        }
        self.records.append(
            found.record(
                "loaded",
                provides=provides,
                hooks=tuple(contribution.hooks),
                api=contribution.api,
            )
        )

    def _leave_out(self, found: _Found, reason: str) -> None:
        """Undo what a plugin's registration has changed, and record why."""
        if self._names.get(found.name) is found:
            self._pluggy.unregister(name=found.name)
            del self._names[found.name]
        self.records.append(found.record("failed", _one_line(reason)))

    def _contribution(self, found: _Found) -> _Contribution:
        check_name(found.name)
        if (other := self._names.get(found.name)) is not None:
            raise PluginError(
                f"the plugin name {found.name!r} is taken by "
                f"{other.distribution or other.module}; {found.distribution or found.module} "
                f"must call its entry point otherwise"
            )
        plugin = found.import_()
        if (name := self._pluggy.get_name(plugin)) is not None:
            raise PluginError(f"{found.module} is loaded already, as plugin {name!r}")
        api = needed_api(plugin)  # before its hooks, of which a newer one may have unknown ones
        hooks = self._check_hooks(plugin)
        self._names[found.name] = found
        self._pluggy.register(plugin, name=found.name)
        contribution = _Contribution(hooks=hooks, api=api)
        for kind in KINDS:
            if kind.hook in hooks:
                contribution.registered[kind.plural] = self._collect(kind, plugin, found.name)
        registers = {kind.hook for kind in KINDS}
        if not any(contribution.registered.values()) and registers.issuperset(hooks):
            raise PluginError(
                f"it provides nothing: none of its functions is marked with @hookimpl and returns "
                f"something. The hooks are {', '.join(sorted(self._specs()))}"
            )
        return contribution

    def _specs(self) -> dict[str, tuple[str, ...]]:
        """Return the arguments of every hook."""
        return {
            name: tuple(inspect.signature(function).parameters)
            for name, function in vars(hookspecs).items()
            if name.startswith(f"{PROJECT}_") and inspect.isfunction(function)
        }

    def _check_hooks(self, plugin: Any) -> list[str]:
        """Return the hooks that a plugin implements, if each is known and marked."""
        specs = self._specs()
        hooks = set()
        for attribute in sorted(dir(plugin)):
            options = self._pluggy.parse_hookimpl_opts(plugin, attribute)
            if options is None and not attribute.startswith(f"{PROJECT}_"):
                continue
            function = getattr(plugin, attribute)
            if options is None and not inspect.isroutine(function):
                continue
            hook = (options.get("specname") if options else None) or attribute
            if hook not in specs:
                if options is not None and options.get("optionalhook"):
                    continue
                raise PluginError(
                    f"there is no hook {hook!r}.{did_you_mean(hook, specs)} The hooks are "
                    f"{', '.join(sorted(specs))}"
                )
            if options is None:
                raise PluginError(
                    f"{hook} is not marked, so it would never be called: put @hookimpl above it "
                    f"(from plugins import hookimpl)"
                )
            if options.get("wrapper") or options.get("hookwrapper"):
                raise PluginError(f"{hook} is a wrapper; hooks of {PROJECT} cannot be wrapped")
            _check_arguments(hook, function, specs[hook])
            hooks.add(hook)
        return sorted(hooks)

    def _collect(self, kind: Kind, plugin: Any, owner: str) -> list[Registered[Any]]:
        registered: dict[str, Registered[Any]] = {}
        for implementation in getattr(self._pluggy.hook, kind.hook).get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            returned = implementation.function()
            if not isinstance(returned, Mapping):
                raise PluginError(
                    f"{kind.hook} returned {_described(returned)}; it must return a mapping of "
                    f"names to factories, such as {{'my_name': MyClass}}"
                )
            for name, factory in returned.items():
                each = register(kind, name, factory, plugin=owner)
                first = self._registered[kind.plural].get(each.name) or registered.get(each.name)
                if first is not None:
                    raise PluginError(
                        f"the {kind.name} {each.name!r} of plugin {owner!r} has a name that "
                        f"plugin {first.plugin!r} took first, and keeps; choose another name"
                    )
                registered[each.name] = each
        return list(registered.values())

    def result(self, failures: Failures) -> PluginRegistry:
        """Return what has been loaded."""
        registries: dict[str, Any] = {
            kind.plural: Registry(kind, self._registered[kind.plural].values()) for kind in KINDS
        }
        return PluginRegistry(
            **registries,
            records=tuple(self.records),
            fallbacks=self._implementations("recserve_fallback"),
            model_activated_listeners=self._implementations("recserve_model_activated"),
            failures=failures,
        )

    def _implementations(self, hook: str) -> tuple[Implementation, ...]:
        """Return a hook's implementations in the order in which pluggy would call them."""
        return tuple(
            Implementation(each.plugin_name, _with_its_arguments(each.function))
            for each in reversed(getattr(self._pluggy.hook, hook).get_hookimpls())
        )


def _with_its_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function so that it can be given all of its hook's arguments."""
    names = tuple(inspect.signature(function).parameters)

    def call(**arguments: Any) -> Any:
        return function(**{name: arguments[name] for name in names})

    return call


def _check_arguments(hook: str, function: Any, allowed: tuple[str, ...]) -> None:
    for name in inspect.signature(function).parameters:
        if name not in allowed:
            takes = f"may take {', '.join(allowed)}" if allowed else "takes no arguments"
            raise PluginError(
                f"{hook} has an argument {name!r}, but {takes}.{did_you_mean(name, allowed)}"
            )


def _described(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
