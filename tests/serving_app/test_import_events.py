"""``manage.py import_events``: sound files only, each row once, however often it is stopped."""

import gzip
import json
import lzma
import time

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Sum

from serving_app import event_file
from serving_app.activity_models import ActivityCount, Event, EventImport
from serving_app.models import ServedModel

pytestmark = [pytest.mark.contract("W1"), pytest.mark.django_db]

HEADER = "user,item,rating,timestamp"


@pytest.fixture(autouse=True)
def shop(db):
    return ServedModel.objects.create(name="default")


@pytest.fixture
def written(tmp_path):
    def written(lines, name="events.csv"):
        text = "\n".join([HEADER, *lines]) + "\n"
        path = tmp_path / name
        opened = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
        with opened(path, "wt", encoding="utf-8") as file:
            file.write(text)
        return path

    return written


@pytest.fixture
def recent(written):
    """Thirty visits of three lines each, a minute apart, the last a minute ago."""
    start = int(time.time()) - 30 * 60
    return written(
        f"u{visit % 7},i{line},2,{start + visit * 60}" for visit in range(30) for line in range(3)
    )


def imported(capsys, *arguments):
    call_command("import_events", "--json", *map(str, arguments))
    return json.loads(capsys.readouterr().out)


def visits():
    return ActivityCount.objects.aggregate(n=Sum("count"))["n"] or 0


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz"])
def test_events_are_recorded_once(written, capsys, suffix):
    now = int(time.time())
    path = written([f"a,i1,6,{now}", f"a,i2,1,{now}", f"b,i1,2,{now - 7}"], f"e.csv{suffix}")
    done = imported(capsys, path)
    assert (done["rows"], done["imported"], done["skipped"]) == (3, 3, 0)
    told = {(e.user_id, e.item, e.kind, e.value) for e in Event.objects.all()}
    assert told == {
        ("a", "i1", "purchase", 6.0),
        ("a", "i2", "purchase", 1.0),
        ("b", "i1", "purchase", 2.0),
    }
    assert visits() == 2, "two lines of one invoice are one visit"
    assert imported(capsys, path)["imported"] == 0
    assert (Event.objects.count(), visits()) == (3, 2)
    assert imported(capsys, path, "--kind", "view")["imported"] == 3


@pytest.mark.parametrize("stops", [1, 2, 4])
def test_an_import_that_is_stopped_goes_on_where_it_was(recent, capsys, monkeypatch, stops):
    monkeypatch.setattr(event_file, "_PART", 10)
    record, calls = event_file.record_events, []

    def stopping(events):
        calls.append(1)
        done = record(events)
        if len(calls) == stops:
            raise KeyboardInterrupt  # the events of this part are taken back
        return done

    monkeypatch.setattr(event_file, "record_events", stopping)
    with pytest.raises(CommandError, match="goes on there") as stopped:
        call_command("import_events", recent)
    assert stopped.value.returncode == 130
    assert Event.objects.count() == EventImport.objects.get().done < 90
    done = imported(capsys, recent)
    assert done["imported"] + 12 * (stops - 1) == 90, "parts end where a visit ends"
    assert (Event.objects.count(), visits()) == (90, 30)
    assert EventImport.objects.get().finished


def test_two_processes_do_not_import_a_row_twice(recent, monkeypatch):
    monkeypatch.setattr(event_file, "_PART", 10)
    record = event_file.record_events

    def overtaken(events):
        if EventImport.objects.get().done > 30:
            EventImport.objects.update(done=60)  # another process, between two parts
        return record(events)

    monkeypatch.setattr(event_file, "record_events", overtaken)
    with pytest.raises(CommandError, match="Another process"):
        call_command("import_events", recent)


def test_times_are_moved_and_the_old_left_out(written, capsys, settings):
    settings.RECSERVE = {**settings.RECSERVE, "ACTIVITY": {"EVENT_DAYS": 1}}
    path = written([f"u,i,1,{1_300_000_000 + n * 3600}" for n in range(48)])
    with pytest.raises(CommandError, match="older"):
        call_command("import_events", path)
    done = imported(capsys, path, "--until", "now")
    assert (done["imported"], done["skipped"]) == (48, 24)
    assert abs(Event.objects.latest("at").at.timestamp() - time.time()) < 60
    assert Event.objects.count() == 24


RUBBISH = [
    ("u,,1,1", "column item"),
    (",i,1,1", "column user"),
    (f"{'u' * 257},i,1,1", "column user"),
    ("u,i,x,1", "column rating"),
    ("u,i,nan,1", "column rating"),
    ("u,i,1,soon", "column timestamp"),
    ("u,i,1,-5", "column timestamp"),
    ("u,i", "no value for rating"),
]


@pytest.mark.parametrize(("line", "said"), RUBBISH)
def test_a_file_with_rubbish_is_not_imported_at_all(written, line, said):
    path = written([f"u,i,1,{int(time.time())}", line])
    with pytest.raises(CommandError, match=f"line 3.*{said}"):
        call_command("import_events", path)
    assert not Event.objects.exists()


def test_what_cannot_be_imported_is_said(tmp_path, recent, written):
    later = written([f"u,i,1,{int(time.time()) + 7200}"], "later.csv")
    for arguments, said in (
        ((tmp_path / "none.csv",), "cannot be read"),
        ((recent, "--model", "nope"), "no model 'nope'"),
        ((recent, "--until", "noon"), "--until"),
        ((recent, "--until", "2026-01-01T00:00:00"), "zone"),
        ((later,), "future"),
    ):
        with pytest.raises(CommandError, match=said):
            call_command("import_events", *map(str, arguments))
    call_command("import_events", str(recent))
    call_command("import_events", str(recent))


def test_a_real_shops_purchases(data, capsys, settings):
    settings.RECSERVE = {**settings.RECSERVE, "ACTIVITY": {"EVENT_DAYS": 10, "DAYS": 400}}
    path = data / "recs" / "online-retail" / "interactions.csv.xz"
    done = imported(capsys, path, "--until", "now")
    assert done["rows"] == done["imported"] == 308_023
    assert Event.objects.count() == done["rows"] - done["skipped"] > 1000
    assert visits() == Event.objects.values("user", "at").distinct().count()
