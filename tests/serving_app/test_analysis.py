"""Analysis over the API, by the command, and in the admin."""

import csv
import sys
from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from serving_app import analysis, rollups
from serving_app.activity import add_counts
from serving_app.core.activity import Asked, Counted
from serving_app.core.rollups import Series
from serving_app.rollup_writer import add

pytestmark = [pytest.mark.contract("O4"), pytest.mark.django_db]

DAY = 1_700_006_400


@pytest.fixture
def counted():
    """Two days, of which the last ends now: new users miss at seven."""
    end = int(datetime.now(UTC).timestamp()) // 86400 * 86400
    for hour in range(48):
        counts = {Series("told"): 60}
        for segment, hits, misses in (("new", 10, 90 if hour % 24 == 7 else 5), ("old", 90, 5)):
            for level, n in (("l1", hits), ("miss", misses)):
                counts[Series("lookups", "m", segment, level)] = n
                counts[Series("latency", "m", segment, level, 60)] = n
                counts[Series("latency_seconds", "m", segment, level)] = n * 0.001
            counts[Series("answers", "m", level=segment)] = hits + misses
        add({end - 48 * 3600 + hour * 3600: counts})
    return {"from": _text(end - 48 * 3600), "to": _text(end)}


def _text(at):
    return datetime.fromtimestamp(at, UTC).isoformat()


def test_the_api_tells_apart_filters_and_says_what_would_help(client_as, counted):
    client = client_as("operate")
    answer = client.get("/api/v1/analysis", {**counted, "by": "segment,hour"}).json()
    assert len(answer["rows"]) == 48
    row = next(r for r in answer["rows"] if (r["segment"], r["hour"]) == ("new", 7))
    assert (row["hits"], row["misses"], row["hit_rate"]) == (20, 180, 0.1)
    assert row["p50_ms"] == 1.0
    assert answer["total"]["requests"] == answer["total"]["hits"] + answer["total"]["misses"]
    assert sum(r["hits"] for r in answer["rows"]) == answer["total"]["hits"] == 4800
    assert len(answer["trend"]["hit_rate"]) == 48
    assert sum(point["value"] for point in answer["trend"]["misses"]) == answer["total"]["misses"]
    assert len(answer["heat"]) == 48
    worst = next(f for f in answer["findings"] if f["code"] == "worst")
    assert worst["what"].startswith("Segment new between 7:00 and 8:00: 90 % of 200 look-ups")
    new = client.get("/api/v1/analysis", {**counted, "segment": "new", "by": "level"}).json()
    assert {r["level"]: r["hits"] for r in new["rows"]} == {"l1": 480, "miss": 0}
    none = client.get("/api/v1/analysis", {**counted, "model": "other"}).json()
    assert (none["total"], none["findings"][0]["code"]) == ({}, "too-few")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "now", "to": "1h"}, "from"),
        ({"to": "9999999999d"}, "to"),
        ({"to": "0001-01-01"}, "from"),
        ({"by": "user"}, "by"),
        ({"by": "hour", "from": "2001-01-01"}, "by"),
        ({"zone": "Mars/Olympus"}, "zone"),
        ({"users": "1"}, "users"),
    ],
)
def test_what_is_wrong_with_a_query_is_named(client_as, query, field):
    answer = client_as("operate").get("/api/v1/analysis", query)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_only_operators_may_look(client_as):
    assert client_as("predict").get("/api/v1/analysis").status_code == 403
    assert client_as(None).get("/api/v1/analysis").status_code == 401


def test_activity_says_which_misses_come_back_every_day():
    end = DAY + 3 * 86400
    for day in range(3):
        for user in range(30):
            asked = Asked(DAY + day * 86400, "request", "m", "", f"u{user}", "{}", False)
            add_counts({asked: Counted(1, float(asked.hour))})
        add({DAY + day * 86400: {Series("lookups", "m", "all", "miss"): 30, Series("told"): 60}})
    found = analysis.analyse(DAY, end, now=end)
    (first,) = [f for f in found.findings if f.code == "first-of-day"]
    assert first.what.startswith("60 times a question was asked for the first time on a day")
    assert "at most 60 misses" in first.help


def test_times_are_dates_instants_or_ago():
    zone = rollups.zone_of("Europe/Berlin")
    assert analysis.parse_time("now", zone, now=5.0) == 5.0
    assert analysis.parse_time("2d", zone, now=200_000.0) == 200_000 - 2 * 86400
    assert analysis.parse_time("2023-11-15", zone) == DAY - 3600
    assert analysis.parse_time("2023-11-15T00:00Z", zone) == DAY
    for wrong in ("", "d", "٣d", "2023-13-01", "-1h", "1y"):
        with pytest.raises(ValueError, match="is no time"):
            analysis.parse_time(wrong, zone)


def test_the_command_prints_and_writes(counted, tmp_path, capsys):
    table = tmp_path / "t.csv"
    add({DAY: {Series("lookups", "m", "=1+1", "l1"): 1}})
    call_command(
        *("cachereport", "--from", counted["from"], "--to", counted["to"]),
        *("--by", "segment,hour", "--csv", str(table), "--zone", "UTC"),
    )
    said = capsys.readouterr().out
    assert "Segment new between 7:00 and 8:00" in said
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    assert sum(float(row["hits"]) for row in rows) == 4800
    call_command("cachereport", "--from", "2023-11-15", "--to", "2023-11-16", "--csv", str(table))
    assert "'=1+1" in table.read_text(), "no spreadsheet runs it"


def test_the_plot(counted, tmp_path):
    pytest.importorskip("matplotlib")
    given = ("--from", counted["from"], "--to", counted["to"])
    for name in ("plot.png", "plot.svg"):
        call_command("cachereport", *given, "--plot", str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--by", "user"), "tell apart"),
        (("--from", "x"), "is no time"),
        (("--from", "now", "--to", "1h"), "before it ends"),
        (("--zone", "x"), "time zone"),
        (("--plot", "x.pdf"), "ends in .png"),
        (("--plot", "/nowhere/x.png"), "no folder"),
        (("--csv", "/nowhere/x.csv"), "cannot be written"),
    ],
)
def test_the_command_says_what_is_wrong(options, said):
    with pytest.raises(CommandError, match=said):
        call_command("cachereport", *options)


def test_without_matplotlib_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CommandError, match=r"needs matplotlib: pip install"):
        call_command("cachereport", "--plot", str(tmp_path / "x.png"))


def test_the_page_shows_findings_table_and_heat_map(admin_client, counted, fresh):
    url = reverse("admin:analysis")
    page = admin_client.get(url, {"period": "7d", "by": "segment,hour"}).content.decode()
    assert "Segment new between 7:00 and 8:00" in page
    assert 'id="heat"' in page
    assert "7:00" in page
    empty = admin_client.get(url, {"period": "1h", "by": "nonsense", "model": "none"})
    assert "Nothing was asked in this period" in empty.content.decode()


def test_the_page_is_for_staff_who_may_operate(client, django_user_model):
    user = django_user_model.objects.create_user("viewer", password="x", is_staff=True)
    client.force_login(user)
    assert client.get(reverse("admin:analysis")).status_code == 403
