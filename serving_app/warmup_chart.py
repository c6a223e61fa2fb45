"""Small pictures of runs, as SVG: no script and no other host is needed to see them."""

from __future__ import annotations

from collections.abc import Sequence

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from serving_app.warmup_models import WarmupRun

__all__ = ["parts", "progress_bar", "runs"]

_COLOURS = {
    "earned": "#16a34a",
    "warmed": "#60a5fa",
    "fresh": "#cbd5e1",
    "refused": "#f59e0b",
    "errors": "#dc2626",
}
_WIDTH, _HEIGHT = 480, 80


def progress_bar(run: WarmupRun) -> SafeString:
    """Return how far a run is, as a bar with its percentage."""
    percent = round(100 * run.progress)
    return format_html(
        '<span style="display:inline-block;width:6rem;height:.5rem;border-radius:.25rem;'
        'background:{};overflow:hidden;vertical-align:middle">'
        '<span style="display:block;height:100%;width:{}%;background:{}"></span></span> {} %',
        _COLOURS["fresh"],
        percent,
        _COLOURS["warmed"],
        percent,
    )


def parts(run: WarmupRun) -> list[tuple[str, int, str, float]]:
    """Return name, number, colour and percentage of what became of a run's questions."""
    counts = {
        "earned": run.earned,
        "warmed": run.warmed - run.earned,
        "fresh": run.fresh,
        "refused": run.refused,
        "errors": run.errors,
    }
    names = {
        "earned": _("warmed, and asked for"),
        "warmed": _("warmed, not asked for"),
        "fresh": _("fresh already"),
        "refused": _("refused"),
        "errors": _("errors"),
    }
    whole = max(1, run.candidates)
    return [(names[key], n, _COLOURS[key], 100 * n / whole) for key, n in counts.items()]


def runs(rows: Sequence[WarmupRun]) -> SafeString:
    """Return runs, the latest last, as bars: what each warmed, and how much of it was asked for."""
    if not rows:
        return SafeString("")
    most = max(1, *(row.warmed for row in rows))
    step = min(_WIDTH / len(rows), 40.0)

    def tall(n: int) -> float:
        return _HEIGHT * n / most

    bars = format_html_join(
        "\n",
        '<g><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" fill="{}"/>'
        '<rect x="{}" y="{}" width="{}" height="{}" fill="{}"/></g>',
        (
            (
                _("%(at)s: %(warmed)s warmed, %(earned)s hits earned")
                % {
                    "at": f"{row.requested:%Y-%m-%d %H:%M}",
                    "warmed": row.warmed,
                    "earned": row.earned,
                },
                *(f"{i * step:.1f}", f"{_HEIGHT - tall(row.warmed):.1f}"),
                *(f"{step * 0.8:.1f}", f"{tall(row.warmed):.1f}", _COLOURS["warmed"]),
                *(f"{i * step:.1f}", f"{_HEIGHT - tall(row.earned):.1f}"),
                *(f"{step * 0.8:.1f}", f"{tall(row.earned):.1f}", _COLOURS["earned"]),
            )
            for i, row in enumerate(rows)
        ),
    )
    return format_html(
        '<svg id="runs" role="img" aria-label="{}" viewBox="0 0 {} {}" width="{}" height="{}">'
        "{}</svg>",
        _("Warmed, and hits earned, by run"),
        _WIDTH,
        _HEIGHT,
        _WIDTH,
        _HEIGHT,
        bars,
    )
