"""``manage.py cachereport``: when and for whom the cache does not work."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone
from rich import box
from rich.console import Console
from rich.table import Table

from serving_app import rollups
from serving_app.analysis import Analysis, analyse, parse_time
from serving_app.rollups import Row

_COLUMNS = ("hits", "misses", "hit_rate", "miss_seconds", "mean", "p50", "p90", "p99")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Command(BaseCommand):
    """Reports on the cache."""

    help = (
        "Report when and for whom the cache answered and when it did not, from the rollups in the "
        "database, and say what would help."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        when = "2026-11-24, 2026-11-24T09:30Z, 24h (ago) or now"
        parser.add_argument("--from", dest="since", default="24h", metavar="TIME", help=when)
        parser.add_argument("--to", dest="until", default="now", metavar="TIME", help=when)
        parser.add_argument(
            "--by", default="segment", metavar="A,B", help=f"some of {', '.join(rollups.BY)}"
        )
        parser.add_argument("--model", help="only this model's")
        parser.add_argument("--segment", help="only this segment's")
        parser.add_argument("--zone", help="time zone of hours and days; else TIME_ZONE")
        parser.add_argument(
            "--plot", type=Path, metavar="FILE", help="write the heat map and the trend: .png, .svg"
        )
        parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV")

    def handle(self, *args: Any, **options: Any) -> None:
        """Report.

        Raises:
            CommandError: An option is wrong, a file cannot be written, or the database is away.
        """
        figure = _new_figure(options["plot"]) if options["plot"] else None
        try:
            zone = (
                rollups.zone_of(options["zone"])
                if options["zone"]
                else timezone.get_current_timezone()
            )
            found = analyse(
                parse_time(options["since"], zone),
                parse_time(options["until"], zone),
                by=[name.strip() for name in options["by"].split(",") if name.strip()],
                model=options["model"],
                segment=options["segment"],
                zone=zone,
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {error}") from error
        self._print(found, zone)
        try:
            if options["csv"]:
                with options["csv"].open("w", newline="", encoding="utf-8") as file:
                    _write_csv(found, csv.writer(file))
                self.stdout.write(f"Wrote {options['csv']}.")
            if figure is not None:
                _draw(figure, found, zone)
                figure.savefig(options["plot"])
                self.stdout.write(f"Wrote {options['plot']}.")
        except OSError as error:
            raise CommandError(f"{error.filename} cannot be written: {error.strerror}.") from error

    def _print(self, found: Analysis, zone: tzinfo) -> None:
        period = " to ".join(
            f"{datetime.fromtimestamp(at, zone):%Y-%m-%d %H:%M}"
            for at in (found.since, found.until)
        )
        table = Table(box=box.SIMPLE_HEAD, title=f"The cache, {period}")
        for name in found.by:
            table.add_column(name)
        for name in _COLUMNS:
            table.add_column(_heading(name), justify="right")
        for row in [*found.rows, *([found.total] if found.by else [])]:
            labels = [str(row.labels.get(name, "all")) for name in found.by]
            table.add_row(*labels, *(_cell(row, name) for name in _COLUMNS))
        text = io.StringIO()
        console = Console(file=text, width=100 + 14 * len(found.by))
        console.print(table)
        for finding in found.findings:
            console.print(f"• {finding.what} {finding.help}".rstrip(), markup=False)
        self.stdout.write(text.getvalue())


def _heading(name: str) -> str:
    return {
        "hit_rate": "hit rate",
        "miss_seconds": "missed, s",
        **{each: f"{each}, ms" for each in ("mean", "p50", "p90", "p99")},
    }.get(name, name)


def _cell(row: Row, name: str) -> str:
    value = row.values.get(name)
    if value is None:
        return "-"
    if name == "hit_rate":
        return f"{100 * value:.1f} %"
    if name in {"hits", "misses"}:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if name == "miss_seconds" else f"{1000 * value:,.2f}"


def _write_csv(found: Analysis, writer: Any) -> None:
    names = list(found.rows[0].values) if found.rows else []
    writer.writerow([*found.by, *names])
    for row in found.rows:
        values = ["" if row.values[name] is None else row.values[name] for name in names]
        writer.writerow([*(_plain(row.labels[name]) for name in found.by), *values])


def _plain(label: str | int) -> str | int:
    """Return a label that no spreadsheet takes for a formula."""
    return f"'{label}" if isinstance(label, str) and label[:1] in "=+-@\t\r" else label


def _new_figure(path: Path) -> Any:
    """Return an empty figure; it is asked for first, so that nothing is computed in vain.

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
    return Figure(figsize=(11, 8), layout="constrained")


def _draw(figure: Any, found: Analysis, zone: tzinfo) -> None:
    heat, trend = figure.subplots(2, 1)
    rates = np.full((7, 24), np.nan)
    for row in found.heat:
        if row.values["hit_rate"] is not None:
            rates[int(row.labels["weekday"]), int(row.labels["hour"])] = row.values["hit_rate"]
    image = heat.imshow(100 * rates, aspect="auto", vmin=0, vmax=100, cmap="viridis")
    heat.set(title="Hit rate by weekday and hour, %", xlabel="hour of the day")
    heat.set_yticks(range(7), _DAYS)
    heat.set_xticks(range(0, 24, 2))
    figure.colorbar(image, ax=heat)
    _draw_trend(trend, found, zone)


def _draw_trend(axes: Any, found: Analysis, zone: tzinfo) -> None:
    def values(name: str, scale: float) -> list[float]:
        points = found.trend[name]
        return [np.nan if point.value is None else scale * point.value for point in points]

    at: Sequence[datetime] = [
        datetime.fromtimestamp(point.at, zone) for point in found.trend["hit_rate"]
    ]
    axes.plot(at, values("hit_rate", 100), color="tab:blue", label="hit rate, %")
    axes.set(title=f"By {found.step}", ylabel="hit rate, %", ylim=(0, 100))
    axes.grid(visible=True, alpha=0.3)
    misses = axes.twinx()
    misses.plot(at, values("misses", 1), color="tab:red", alpha=0.6, label="misses")
    misses.set(ylabel="misses", ylim=(0, None))
    axes.tick_params("x", rotation=30)
