"""The options of a factory: its keyword-only parameters, and whether given values fit them."""

from __future__ import annotations

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from plugins.errors import InvalidOptions, PluginError

__all__ = ["REQUIRED", "Option", "did_you_mean", "fit", "read_options", "read_summary"]


class _Required:
    """The default of an option that has none."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()
"""Stands where an option's default would, if it has none."""


@dataclass(frozen=True, slots=True)
class Option:
    """One keyword-only parameter of a factory."""

    name: str
    """The parameter's name."""
    annotation: str
    """Its annotation as the author wrote it; empty if there is none."""
    default: Any
    """Its default, or `REQUIRED`."""
    hint: Any = field(default=Any, repr=False, compare=False)
    """The annotation's value, which given values are checked against; Any: unchecked."""

    @property
    def required(self) -> bool:
        """Whether the option must be given."""
        return self.default is REQUIRED

    def __str__(self) -> str:
        text = f"{self.name}: {self.annotation}" if self.annotation else self.name
        return text if self.required else f"{text} = {self.default!r}"


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?``, with its leading space, or nothing if no name is close."""
    close = difflib.get_close_matches(str(wrong), list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def read_summary(factory: Callable[..., Any]) -> str:
    """Return the first line of the factory's own docstring; empty if it has none."""
    described = factory.func if isinstance(factory, functools.partial) else factory
    text = (getattr(described, "__doc__", None) or "").strip()
    if inspect.isclass(described) and text.startswith(f"{described.__name__}("):
        return ""  # what a dataclass writes for an author who wrote nothing
    return text.splitlines()[0].strip() if text else ""


def read_options(factory: Callable[..., Any]) -> tuple[Option, ...]:
    """Return the factory's options, in the order of its parameters.

    Raises:
        PluginError: A parameter is not keyword-only.
    """
    if inspect.isclass(factory) and _initialiser_is_inherited(factory):
        return ()
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"the parameters of {_name(factory)} cannot be read; write its factory in Python"
        ) from error
    for parameter in parameters:
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise PluginError(
                f"the parameter {str(parameter).split(':')[0]!r} of {_name(factory)} is not "
                f"keyword-only; options are named one by one, after a '*'"
            )
    hints = _hints(factory)
    return tuple(
        Option(
            name=parameter.name,
            annotation=_annotation(parameter),
            default=REQUIRED if parameter.default is parameter.empty else parameter.default,
            hint=hints.get(parameter.name, Any),
        )
        for parameter in parameters
    )


def _initialiser_is_inherited(factory: type) -> bool:
    """Return whether ``__init__`` is only that of ``object`` or of a Protocol."""
    if any("__new__" in vars(base) for base in factory.__mro__ if _is_ordinary(base)):
        return False
    owner = next(base for base in factory.__mro__ if "__init__" in vars(base))
    return not _is_ordinary(owner)


def _is_ordinary(base: type) -> bool:
    return base is not object and not vars(base).get("_is_protocol", False)


def _name(factory: Callable[..., Any]) -> str:
    return str(getattr(factory, "__qualname__", None) or repr(factory))


def _annotation(parameter: inspect.Parameter) -> str:
    if parameter.annotation is parameter.empty:
        return ""
    if isinstance(parameter.annotation, str):
        return parameter.annotation
    return inspect.formatannotation(parameter.annotation)


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    described = factory.func if isinstance(factory, functools.partial) else factory
    holders: list[Any] = [described]
    if inspect.isclass(described):
        holders = [described.__init__, described.__new__]
    hints: dict[str, Any] = {}
    for holder in holders:
        try:
            hints = get_type_hints(holder) | hints
        except (NameError, AttributeError, TypeError, SyntaxError):
            continue  # names that exist for type checkers only: the values go unchecked
    return hints


def fit(
    options: Mapping[str, Any] | None, declared: tuple[Option, ...], *, of: str
) -> dict[str, Any]:
    """Return the options as the factory takes them: a path given as text becomes a `Path`.

    Args:
        options: What was given, by name.
        declared: The factory's options.
        of: Whose options they are, for messages.

    Raises:
        InvalidOptions: An option is unknown, missing, or not of its type.
    """
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise InvalidOptions(f"The options of {of} must be a mapping of names, not {options!r}.")
    by_name = {option.name: option for option in declared}
    for name in options:
        if name not in by_name:
            takes = f"It takes {', '.join(by_name)}." if by_name else "It takes none."
            raise InvalidOptions(
                f"{name!r} is no option of {of}.{did_you_mean(name, by_name)} {takes}"
            )
    missing = [option for option in declared if option.required and option.name not in options]
    if missing:
        raise InvalidOptions(
            f"The option {missing[0].name!r} of {of} is missing; it has no default. "
            f"Give it as {missing[0]}."
        )
    return {name: _fitted(value, by_name[name], of) for name, value in options.items()}


def _fitted(value: Any, option: Option, of: str) -> Any:
    if _matches(value, option.hint):
        return value
    if isinstance(value, str) and _takes_path(option.hint):
        return Path(value)
    default = "" if option.required else f", or leave it out for {option.default!r}"
    raise InvalidOptions(
        f"The option {option.name!r} of {of} must be {option.annotation}, not {value!r} "
        f"({type(value).__name__}). Give a value of that type{default}."
    )


def _matches(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type; a type that is not simple takes everything."""
    if hint is None or hint is type(None):
        return value is None
    if get_origin(hint) in {Union, types.UnionType}:
        return any(_matches(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return any(type(value) is type(part) and value == part for part in get_args(hint))
    if hint in {int, float}:
        wanted = int if hint is int else (int, float)
        return isinstance(value, wanted) and not isinstance(value, bool)
    if hint in {str, bool, Path}:
        return isinstance(value, hint)
    return True


def _takes_path(hint: Any) -> bool:
    return hint is Path or Path in get_args(hint)
