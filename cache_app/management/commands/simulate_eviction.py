"""``manage.py simulate_eviction``: what each policy would have hit on a trace."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cache_app.core.simulation import belady, simulate
from cache_app.core.traces import Trace, read_trace
from plugins.apps import get_registry
from plugins.errors import PluginError
from plugins.options import did_you_mean
from plugins.registry import PluginRegistry

BELADY = "belady"
Ratios = dict[str, dict[str, float]]
"""Hit ratios by policy and by size, the size as it was given."""


@dataclass(frozen=True, slots=True)
class Size:
    """One capacity to replay with."""

    given: str
    """As it was written: a share below 1, or a number."""
    capacity: int


class Command(BaseCommand):
    """Replays a trace."""

    help = (
        "Replay a trace of keys through L1 with each eviction policy, beside the best that was "
        "possible (belady), and print the hit ratios."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--trace", type=Path, required=True, metavar="FILE", help=".npz .npy .csv .txt, or .xz"
        )
        parser.add_argument("--policies", metavar="A,B", help="some instead of all that there are")
        parser.add_argument(
            "--sizes",
            default="0.01,0.1",
            metavar="N,N",
            help="below 1: a share of the different keys; else a number of entries",
        )
        parser.add_argument(
            "--bytes",
            action="store_true",
            help="weigh entries by the trace's sizes, and read --sizes as weights; no belady then",
        )
        parser.add_argument("--seed", type=int, default=0, help="of the policies' randomness")
        output = parser.add_mutually_exclusive_group()
        output.add_argument("--json", action="store_true", help="a JSON object as the last line")
        output.add_argument("--plot", type=Path, metavar="FILE", help="write a .png or .svg, too")

    def handle(self, *args: Any, **options: Any) -> None:
        """Replay, and print.

        Raises:
            CommandError: An option is wrong, the trace cannot be read, or it was interrupted.
        """
        try:
            self._run(options)
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None

    def _run(self, options: dict[str, Any]) -> None:
        plot = _plotter(options["plot"]) if options["plot"] else None
        try:
            registry = get_registry()
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        names = _names(options["policies"], registry)
        trace = _read(options["trace"])
        if options["bytes"]:
            if trace.sizes is None:
                raise CommandError(f"{options['trace']} has no sizes, which --bytes needs.")
            names = [name for name in names if name != BELADY]
        sizes = _sizes(options["sizes"], _footprint(trace, weighed=options["bytes"]))
        ratios = self._replay(trace, names, sizes, registry, options)
        if plot is not None:
            title = f"{options['trace'].name}, {len(trace)} requests"
            plot(ratios, sizes, title)
            self.stdout.write(f"Wrote {options['plot']}.")
        if options["json"]:
            self.stdout.write(json.dumps(ratios))
        else:
            self._print(ratios, sizes)

    def _replay(
        self,
        trace: Trace,
        names: Sequence[str],
        sizes: Sequence[Size],
        registry: PluginRegistry,
        options: dict[str, Any],
    ) -> Ratios:
        ratios: Ratios = {name: {} for name in names}
        with _Steps(self, len(names) * len(sizes)) as steps:
            for size in sizes:
                for name in names:
                    told = steps.begin(f"{name} with {size.given}")
                    if name == BELADY:
                        ratio = belady(trace, size.capacity, progress=told)
                    else:
                        factory = functools.partial(registry.eviction_policies.create, name, {})
                        try:
                            ratio = simulate(
                                trace,
                                factory,
                                size.capacity,
                                weighed=options["bytes"],
                                seed=options["seed"],
                                progress=told,
                            ).hit_ratio
                        except PluginError as error:
                            raise CommandError(f"{name}: {error}") from error
                    ratios[name][size.given] = ratio
        return ratios

    def _print(self, ratios: Ratios, sizes: Sequence[Size]) -> None:
        table = Table(box=box.SIMPLE_HEAD, title="Hit ratio, %")
        table.add_column("policy")
        for size in sizes:
            same = size.given == str(size.capacity)
            table.add_column(
                size.given if same else f"{size.given} ({size.capacity})", justify="right"
            )
        # The best of the first size on top; what was possible above all.
        for name in sorted(ratios, key=lambda name: -ratios[name][sizes[0].given]):
            table.add_row(name, *(f"{100 * ratios[name][size.given]:.2f}" for size in sizes))
        text = io.StringIO()
        Console(file=text, width=max(80, 18 * (len(sizes) + 1))).print(table)
        self.stdout.write(text.getvalue())


def _names(given: str | None, registry: PluginRegistry) -> list[str]:
    known = [*registry.eviction_policies.names(), BELADY]
    if given is None:
        return known
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise CommandError("--policies names no policy.")
    for name in names:
        if name not in known:
            raise CommandError(
                f"There is no eviction policy {name!r}.{did_you_mean(name, known)} "
                f"There are {', '.join(sorted(known))}."
            )
    return list(dict.fromkeys([*names, BELADY]))


def _read(path: Path) -> Trace:
    try:
        return read_trace(path)
    except ValueError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}.") from error


def _footprint(trace: Trace, *, weighed: bool) -> int:
    """Return what all different keys weigh together, each as when it was first asked for."""
    keys, first = np.unique(trace.ids, return_index=True)
    return int(trace.sizes[first].sum()) if weighed and trace.sizes is not None else len(keys)


def _sizes(given: str, footprint: int) -> list[Size]:
    sizes: dict[str, Size] = {}
    for text in filter(None, (part.strip() for part in given.split(","))):
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        whole = number >= 1 and number.is_integer()
        if not (0 < number < 1 or whole):
            raise CommandError(
                f"The size {text!r} is neither a share between 0 and 1 nor a whole number."
            )
        sizes[text] = Size(text, int(number) if whole else max(1, int(number * footprint + 1e-9)))
    if not sizes:
        raise CommandError("--sizes names no size.")
    return list(sizes.values())


def _plotter(path: Path) -> Callable[[Ratios, Sequence[Size], str], None]:
    """Return what writes the plot; it is asked for first, as a replay may take long.

    Raises:
        CommandError: It could not be written.
    """
    if path.suffix not in {".png", ".svg"}:
        raise CommandError(f"A plot ends in .png or .svg, not {path.name!r}.")
    if not path.parent.is_dir():
        raise CommandError(f"There is no folder {path.parent}.")
    try:
        # An extra, which most installations can do without.
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise CommandError(
            "--plot needs matplotlib: pip install -r requirements/extras.txt"
        ) from error

    def plot(ratios: Ratios, sizes: Sequence[Size], title: str) -> None:
        figure = Figure(figsize=(9, 6), layout="constrained")
        axes = figure.subplots()
        ordered = sorted(sizes, key=lambda size: size.capacity)
        for name in sorted(ratios, key=lambda name: -ratios[name][ordered[-1].given]):
            axes.plot(
                [size.capacity for size in ordered],
                [100 * ratios[name][size.given] for size in ordered],
                marker="o",
                linestyle="--" if name == BELADY else "-",
                color="black" if name == BELADY else None,
                label=name,
            )
        axes.set(title=title, xlabel="capacity", ylabel="hit ratio, %", xscale="log")
        axes.grid(visible=True, alpha=0.3)
        figure.legend(loc="outside right upper")
        try:
            figure.savefig(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}.") from error

    return plot


def _hear_nothing(done: int, total: int) -> None:
    """Show no progress inside a replay: there is no bar."""


class _Steps:
    """Progress on stderr: a bar on a terminal, a line per replay elsewhere."""

    def __init__(self, command: BaseCommand, replays: int) -> None:
        self._command = command
        self._replays, self._done = replays, 0
        console = Console(stderr=True)
        self._bar = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            if console.is_terminal
            else None
        )
        self._task = self._bar.add_task("", total=float(replays)) if self._bar else None

    def __enter__(self) -> _Steps:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, text: str) -> Callable[[int, int], None]:
        """Say what is replayed now, and return what hears how far it is."""
        before, self._done = self._done, self._done + 1
        if self._bar is None or self._task is None:
            self._command.stderr.write(f"[{self._done}/{self._replays}] {text} …")
            return _hear_nothing
        bar, task = self._bar, self._task
        bar.update(task, description=text, completed=before)
        return lambda done, total: bar.update(task, completed=before + done / total)
