"""Metrics as Prometheus reads them, over several processes, and the files that name them."""

import dataclasses
import json
import re
from datetime import timedelta

import pytest
import yaml
from django.db import OperationalError
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from serving_app import access, metrics, wiring
from serving_app.core.batcher import Batcher
from serving_app.core.http_counts import HttpCounts
from serving_app.core.metrics import Buckets
from serving_app.core.run_counts import RunCounts, SizeCounts
from serving_app.core.statistics import Statistics, VersionStats
from serving_app.metric_families import FAMILIES, collected, of_engines_elsewhere
from serving_app.metric_models import ProcessMetrics
from tests.journeys.conftest import ROOT

pytestmark = [pytest.mark.contract("A7"), pytest.mark.django_db]

QUESTION = {"user_id": "u", "features": [1.0, 2.0, 3.0]}


def parsed(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(client):
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain")
    return parsed(answer.content.decode())


def test_an_engine_that_processes_share_counts_once():
    def statistics(works):
        batcher = Batcher(lambda batch: batch, name="m@1")
        for n in range(works):
            batcher.submit(n).result(10)
        batcher.close()
        stats = dataclasses.replace(batcher.stats(), runs=RunCounts({1: SizeCounts(works)}))
        return Statistics(versions={"m": {1: VersionStats("f", 1, {"host:9/1": stats})}})

    older, newer = statistics(2), statistics(5)
    for process, own in [("host:1", older), ("host:2", newer), ("host:1", older)]:
        teller = metrics.Teller()
        for name, samples in of_engines_elsewhere(own, process=process).items():
            teller.tell_engine(name, samples)
        teller.tell(collected(own, {}, HttpCounts(), process=process))
    found = parsed(metrics.render(metrics.of_all()).decode())
    labels = (("model", "m"), ("version", "1"))
    assert found["nv_inference_count", *labels] == 5
    assert found["recserve_batches_total", *labels] == 5
    assert found["recserve_live_processes", *labels] == 3


def test_what_was_asked_is_counted_and_parses(client_as, live_model):
    client = client_as("operate")
    for _ in range(3):
        client.post("/api/v1/predict", QUESTION, format="json")
    client.post("/api/v1/predict", {**QUESTION, "features": [1]}, format="json")
    found = scrape(client)
    model, version = ("model", "default"), ("version", "1")
    assert found["recserve_requests_total", model, ("source", "l1")] == 2
    assert found["recserve_requests_total", model, ("source", "model")] == 1
    assert found["recserve_request_errors_total", ("error", "InvalidInput"), model] == 1
    assert found["recserve_request_duration_seconds_count", model] == 4
    assert found["recserve_request_duration_seconds_bucket", ("le", "+Inf"), model] == 4
    assert found["recserve_live_processes", model, version] == 1
    assert found["recserve_batch_size_sum", model, version] == 1
    assert found["recserve_cache_hits_total", ("level", "l1")] == 2
    assert found["recserve_processes",] == 1
    assert found["nv_inference_request_success", model, version] == 1
    assert found["nv_inference_count", model, version] == 1
    assert found["nv_inference_exec_count", model, version] == 1
    for name in ("request", "queue", "compute_infer"):
        assert found[f"nv_inference_{name}_duration_us", model, version] > 0
    assert found["nv_inference_request_failure", model, ("reason", "REJECTED"), version] == 0
    http = ("recserve_http_requests_total", ("method", "POST"), ("route", "api/v1/predict"))
    assert found[(*http, ("status", "200"))] >= 3
    assert found[(*http, ("status", "422"))] >= 1
    names = {name for name, *_ in found}
    for family in FAMILIES.values():
        if family.kind == "histogram":
            assert f"{family.name}_bucket" in names, family.name


def test_buckets_are_cumulative_and_all_there_from_the_first():
    text = metrics.render(
        {"recserve_request_duration_seconds": {("m",): Buckets({1e-3: 2, float("inf"): 1}, 9.0)}}
    ).decode()
    buckets = [value for (name, *_), value in parsed(text).items() if name.endswith("_bucket")]
    assert len(buckets) == len(FAMILIES["recserve_request_duration_seconds"].bounds) + 1
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3


def told(requests, **more):
    return {
        "recserve_requests_total": {("default", "model"): requests},
        "recserve_processes": {(): 1},
        **more,
    }


def total():
    return metrics.of_all()["recserve_requests_total"]["default", "model"]


def test_processes_add_up_and_no_count_falls_when_one_ends_or_dies():
    one, two, three = metrics.Teller(), metrics.Teller(), metrics.Teller()
    one.tell(told(5))
    two.tell(told(7))
    three.tell(told(11))
    assert total() == 23
    assert metrics.of_all()["recserve_processes"][()] == 3
    two.leave()
    assert total() == 23
    assert metrics.of_all()["recserve_processes"][()] == 2
    ProcessMetrics.objects.filter(process=three._name).update(
        seen=timezone.now() - timedelta(seconds=metrics.GONE + 1)
    )
    assert total() == 23
    assert metrics.of_all()["recserve_processes"][()] == 1
    ProcessMetrics.objects.filter(process=three._name).update(
        seen=timezone.now() - timedelta(seconds=metrics.KEPT + 1)
    )
    one.tell(told(6))
    assert total() == 24
    assert ProcessMetrics.objects.count() == 2, "the living, and all that are gone"
    two.tell(told(1))  # a process of the same host and id, later
    assert total() == 25


def test_a_version_that_leaves_and_comes_back_keeps_its_count():
    one = metrics.Teller()
    labels = ("default", "1")
    for now, expected in ((5, 5), (None, 5), (2, 7)):
        one.tell({"recserve_batches_total": {} if now is None else {labels: now}})
        assert metrics.of_all()["recserve_batches_total"][labels] == expected


def test_only_operators_and_listed_networks_may_read(client_as, fresh, settings):
    assert client_as(None).get("/metrics").status_code == 401
    refused = client_as("predict").get("/metrics")
    assert (refused.status_code, refused["Content-Type"]) == (403, "application/problem+json")
    _, text = access.create_token("prometheus", role="operate")
    program = client_as(None)
    program.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    accepts = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"
    assert program.get("/metrics", HTTP_ACCEPT=accepts).status_code == 200
    settings.RECSERVE = {**settings.RECSERVE, "ACCESS": {"METRICS_NETWORKS": ["10.1.0.0/16"]}}
    inside, outside = {"REMOTE_ADDR": "10.1.2.3"}, {"REMOTE_ADDR": "10.2.0.1"}
    assert client_as(None).get("/metrics", **inside).status_code == 200
    assert client_as(None).get("/metrics", **outside).status_code == 401
    assert client_as(None).get("/metrics", REMOTE_ADDR="").status_code == 401


def test_the_reconciler_tells_and_signs_off(live_model):
    ProcessMetrics.objects.all().delete()
    wiring.tell_metrics()
    assert ProcessMetrics.objects.get().samples["recserve_live_processes"]
    wiring.get_serving().reconciler._sign_off()
    assert ProcessMetrics.objects.get().process == ""


EXPORTED = {
    name
    for family in FAMILIES.values()
    for name in (
        [f"{family.name}_{part}" for part in ("bucket", "sum", "count")]
        if family.kind == "histogram"
        else [family.name]
    )
}


def named(expressions):
    return {name for each in expressions for name in re.findall(r"\b(?:recserve|nv)_\w+", each)}


def test_the_dashboard_names_only_metrics_that_exist():
    dashboard = json.loads((ROOT / "examples/monitoring/grafana-dashboard.json").read_text())
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    expressions += [v["query"] for v in dashboard["templating"]["list"]]
    assert len(named(expressions)) >= 12
    assert named(expressions) <= EXPORTED
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_alert_rules_name_only_metrics_that_exist():
    rules = yaml.safe_load((ROOT / "examples/monitoring/alerts.yml").read_text())
    found = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(found) >= 6
    assert named(rule["expr"] for rule in found) <= EXPORTED
    assert yaml.safe_load((ROOT / "examples/monitoring/prometheus.yml").read_text())


def test_every_metric_is_documented():
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    for family in FAMILIES.values():
        assert f"`{family.name}`" in page, family.name


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/models"])
def test_without_its_database_it_is_503_and_says_so(client_as, live_model, monkeypatch, path):
    client = client_as("operate")
    assert client.get(path).status_code == 200

    def away(*args, **kwargs):
        raise OperationalError("no such table")

    monkeypatch.setattr(SQLCompiler, "execute_sql", away)
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer["Content-Type"] == "application/problem+json"
    assert "database" in answer.json()["detail"]
