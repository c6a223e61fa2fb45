"""``manage.py plugins``: which plugins there are, what they provide, and why one failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from plugins.apps import failures_everywhere, get_registry
from plugins.failures import PartFailures
from plugins.options import Option, did_you_mean
from plugins.registry import KINDS, PluginRecord, PluginRegistry, Registered


class Command(BaseCommand):
    """Lists the plugins."""

    help = "List the plugins: what each provides, and why one failed."
    # The list must be readable when a check complains, above all about a plugin.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("name", nargs="?", help="show one plugin, with its options")
        parser.add_argument("--format", choices=["table", "json"], default="table")
        parser.add_argument(
            "--kind",
            choices=[kind.plural for kind in KINDS],
            help="only plugins that provide this, and of them only this",
        )
        parser.add_argument(
            "--strict", action="store_true", help="exit with status 1 if a plugin failed"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the plugins."""
        try:
            registry = get_registry()
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        failures = self._failures()
        kinds = [kind.plural for kind in KINDS if options["kind"] in {None, kind.plural}]
        records = list(registry.records)
        if options["name"]:
            records = [_find(registry, options["name"])]
        elif options["kind"]:
            records = [record for record in records if options["kind"] in record.provides]
        if options["format"] == "json":
            described = [
                {**_as_json(registry, record, kinds), "parts": _parts(failures, record)}
                for record in records
            ]
            self.stdout.write(json.dumps(described, indent=2, ensure_ascii=False))
        elif options["name"]:
            self.stdout.write("\n".join(_detail(registry, records[0], kinds)))
        else:
            self.stdout.write("\n".join(_table(records, kinds)))
        if options["format"] == "table":
            for line in _failing(failures, records):
                self.stdout.write(line)
        failed = [record.name for record in registry.records if record.state == "failed"]
        if options["strict"] and failed:
            raise CommandError(f"{len(failed)} of the plugins failed: {', '.join(failed)}.")

    def _failures(self) -> Mapping[str, Mapping[str, PartFailures]]:
        """Return what plugins did wrong in the processes that serve, if the database says it."""
        try:
            return failures_everywhere()
        except DatabaseError as error:
            self.stderr.write(f"What plugins did wrong cannot be read: {error}")
            return {}


def _failing(
    failures: Mapping[str, Mapping[str, PartFailures]], records: Sequence[PluginRecord]
) -> Iterator[str]:
    for record in records:
        for part, one in failures.get(record.name, {}).items():
            off = f"; switched off in {one.off} processes" if one.off else ""
            yield f"\n{record.name}: {part} failed {one.failures} times{off}. Last: {one.error}"


def _parts(
    failures: Mapping[str, Mapping[str, PartFailures]], record: PluginRecord
) -> list[dict[str, Any]]:
    return [{"part": part, **asdict(one)} for part, one in failures.get(record.name, {}).items()]


def _find(registry: PluginRegistry, name: str) -> PluginRecord:
    for record in registry.records:
        if record.name == name:
            return record
    owners = [
        f" {name!r} is {kind.name} of plugin {registry.of_kind(kind.plural).get(name).plugin!r}."
        for kind in KINDS
        if name in registry.of_kind(kind.plural)
    ]
    names = [record.name for record in registry.records]
    raise CommandError(
        f"There is no plugin {name!r}.{''.join(owners) or did_you_mean(name, names)} "
        f"There are: {', '.join(names)}."
    )


def _provided(registry: PluginRegistry, record: PluginRecord, plural: str) -> list[Registered[Any]]:
    return [registry.of_kind(plural).get(name) for name in record.provides.get(plural, ())]


def _table(records: Sequence[PluginRecord], kinds: Sequence[str]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("name", "version", "state", "provides")]
    for record in records:
        provides = "; ".join(
            f"{plural}: {', '.join(record.provides[plural])}"
            for plural in kinds
            if plural in record.provides
        )
        hooks = [hook for hook in record.hooks if hook not in {kind.hook for kind in KINDS}]
        cells = (record.name, record.version, record.state, provides or ", ".join(hooks))
        rows.append(tuple(cell or "-" for cell in cells))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        *columns, provides = row
        yield "  ".join([*map(str.ljust, columns, widths), provides])
    for record in records:
        if record.state == "failed":
            yield f"\n{record.name} failed: {record.reason}"


def _detail(registry: PluginRegistry, record: PluginRecord, kinds: Sequence[str]) -> Iterator[str]:
    yield f"{record.name} {record.version}".rstrip()
    yield f"  state:         {record.state}"
    if record.reason:
        yield f"  reason:        {record.reason}"
    yield f"  distribution:  {record.distribution or '-'} ({record.origin})"
    yield f"  module:        {record.module}"
    if record.api is not None:
        yield f"  written for:   plugin API {record.api}"
    yield f"  hooks:         {', '.join(record.hooks) or '-'}"
    for plural in kinds:
        for each in _provided(registry, record, plural):
            yield f"\n{plural}: {each.name}"
            yield f"  {each.summary}"
            for option in each.options:
                yield f"    {option}{'  (required)' if option.required else ''}"


def _as_json(
    registry: PluginRegistry, record: PluginRecord, kinds: Sequence[str]
) -> dict[str, Any]:
    return {
        "name": record.name,
        "version": record.version,
        "distribution": record.distribution,
        "origin": record.origin,
        "module": record.module,
        "api": record.api,
        "state": record.state,
        "reason": record.reason,
        "hooks": list(record.hooks),
        "provides": {
            plural: [
                {
                    "name": each.name,
                    "summary": each.summary,
                    "options": [_option_as_json(option) for option in each.options],
                }
                for each in _provided(registry, record, plural)
            ]
            for plural in kinds
            if plural in record.provides
        },
    }


def _option_as_json(option: Option) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": option.name,
        "annotation": option.annotation,
        "required": option.required,
    }
    if not option.required:
        simple = isinstance(option.default, str | int | float | None)
        described["default"] = option.default if simple else repr(option.default)
    return described
