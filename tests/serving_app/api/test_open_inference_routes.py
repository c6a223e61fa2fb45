"""What is asked at /v2 is told apart in metrics, and no refusal is an error in the log."""

import logging

import pytest

from serving_app.api.open_inference.door import route_of
from serving_app.request_log import HTTP

pytestmark = [pytest.mark.contract("A6"), pytest.mark.contract("A7")]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2", "v2"),
        ("/v2/", "v2"),
        ("/v2/health/ready", "v2/health/ready"),
        ("/v2/models/stats", "v2/models/stats"),
        ("/v2/models/shop", "v2/models/<model>"),
        ("/v2/models/a b/infer", "v2/models/<model>/infer"),
        ("/v2/models/shop/versions/12/infer", "v2/models/<model>/versions/<version>/infer"),
        ("/v2/models/shop/generate_stream", "v2/models/<model>/generate(_stream)?"),
        (
            "/v2/cudasharedmemory/region/x/register",
            "v2/(system|cuda)sharedmemory/region/<name>/register",
        ),
        ("/v2/repository/mine/index", "v2/repository/<name>/(index|models/<name>/(load|unload))"),
        ("/v2/models/shop/versions/x/infer", ""),
        ("/v2/nothing", ""),
    ],
)
def test_a_path_has_the_label_of_its_pattern(path, route):
    assert route_of(path) == route


def test_requests_are_counted_by_their_route(client_as, live_model, caplog):
    client = client_as("operate")
    asked = {
        "/v2/models/default/ready": ("GET", "v2/models/<model>/ready", "200"),
        "/v2/models/default/versions/1/ready": (
            *("GET", "v2/models/<model>/versions/<version>/ready", "200"),
        ),
        "/v2/logging": ("GET", "v2/logging", "501"),
        "/v2/no/such": ("GET", "v2/<path:rest>", "404"),
    }
    before = HTTP.counts()
    with caplog.at_level(logging.DEBUG, "django.request"):
        for path in asked:
            client.get(path)
    counted = HTTP.counts()
    for key in asked.values():
        assert counted.get(key, 0) == before.get(key, 0) + 1, key
