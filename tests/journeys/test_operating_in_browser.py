"""An operator's day in a real browser: the dashboard moves, an answer is dropped, a fresh start."""

import json
import shutil

import pytest

from tests.journeys.conftest import free_port, manage, start, stop
from tests.journeys.test_admin_in_browser import in_browser
from tests.journeys.test_dashboard import ask

pytestmark = [
    pytest.mark.xdist_group("journey"),
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="chromium is not on the PATH; scripts/install-test-servers installs it on Debian",
    ),
]


@pytest.mark.contract("O2")
def test_the_dashboard_moves_under_load_without_a_reload(server):
    seen = {}

    def visit(page):
        page.goto(f"{server.url}/admin/dashboard/")
        page.wait_for_selector("#dashboard[data-ready=yes]")
        page.select_option("select[name=model]", "popular")
        ask(server, 100, name="watched")
        page.wait_for_function(
            "Number(document.getElementById('rate').textContent.replace(',', '')) > 0"
        )
        page.wait_for_function("document.getElementById('hit_rate').textContent.includes('%')")
        page.wait_for_function(
            "Chart.getChart('chart-rate').data.datasets[0].data.some((p) => p.y > 0)"
        )
        seen["levels"] = page.evaluate(
            "Chart.getChart('chart-levels').data.datasets.map((each) => each.label)"
        )
        seen["batches"] = page.evaluate("Chart.getChart('chart-batches').data.datasets[0].data")
        seen["workers"] = page.locator("#processes tr").all_inner_texts()
        seen["pools"] = page.locator("#pools tr").all_inner_texts()
        seen["link"] = page.locator("#link").inner_text()
        page.select_option("select[name=minutes]", "60")
        page.select_option("select[name=model]", "default")
        page.wait_for_function("document.getElementById('pools').innerText.includes('default@')")
        # Without streams the page asks, and the figures go on.
        page.route("**/dashboard/stream/**", lambda route: route.fulfill(status=406))
        page.select_option("select[name=model]", "popular")
        page.wait_for_function("document.getElementById('link').textContent.includes('every 2 s')")

    complaints = [each for each in in_browser(visit, server) if "/dashboard/stream/" not in each]
    assert complaints == []
    assert "l1" in seen["levels"]
    assert sum(seen["batches"]) > 0
    assert any("up" in row for row in seen["workers"])
    assert all(row.startswith("popular@") for row in seen["pools"])
    assert seen["link"] == "live"


@pytest.mark.contract("O1")
def test_a_users_answer_is_found_refreshed_and_dropped(server):
    question = {"user_id": "browsed", "context": {"page": "home"}}
    with server.client() as client:
        assert client.post("predict", json=question).is_success
        seen = {}

        def visit(page):
            page.get_by_role("link", name="Cache").first.click()
            page.get_by_label("Find the answers of user").fill("browsed")
            page.get_by_role("button", name="Find").click()
            # Activity is written every few seconds; then the question is known.
            for _ in range(20):
                if page.get_by_role("button", name="Refresh").count():
                    break
                page.wait_for_timeout(500)
                page.reload()
            seen["row"] = page.locator("#entries tbody tr").first.inner_text()
            page.get_by_role("button", name="Refresh").first.click()
            page.get_by_text("Computed anew").first.wait_for()
            page.get_by_role("button", name="Drop").first.click()
            page.get_by_role("link", name="No, keep it").click()
            page.get_by_role("button", name="Drop").first.click()
            page.get_by_role("button", name="Yes, drop it").click()
            page.get_by_text("Dropped: the answer of user browsed").first.wait_for()
            page.goto(f"{server.url}/admin/history/")
            seen["history"] = page.locator("#history tbody tr").first.inner_text()

        assert in_browser(visit, server) == []
        assert '"page": "home"' in seen["row"]
        assert "L2" in seen["row"]
        assert "an answer of user browsed" in seen["history"]
        assert client.post("predict", json=question).json()["source"] == "model"


@pytest.mark.contract("O1")
def test_a_fresh_installation_guides(tmp_path, monkeypatch):
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "a fresh start")
    manage(tmp_path, "migrate", "--verbosity", "0")
    manage(
        tmp_path, "createsuperuser", "--noinput", "--username", "ada", "--email", "ada@example.com"
    )
    demo = {"username": "ada", "password": "a fresh start", "token": ""}
    (tmp_path / "demo.json").write_text(json.dumps(demo))
    running = start(tmp_path, free_port())
    seen = {}

    def states(page):
        return page.locator("#first-steps li").evaluate_all("each => each.map(e => e.dataset.done)")

    def visit(page):
        seen["first"] = states(page)
        page.get_by_role("link", name="Add a model").first.click()
        page.fill("input[name=name]", "default")
        page.locator("button[name=_save]").click()
        page.goto(f"{running.url}/admin/")
        seen["named"] = states(page)
        page.locator("#first-steps").get_by_role("link", name="Add a service token").click()
        page.fill("input[name=name]", "shop")
        page.locator("button[name=_save]").click()
        page.get_by_text("It is not shown again").first.wait_for()
        page.goto(f"{running.url}/admin/")
        seen["given"] = states(page)
        seen["command"] = page.locator("#first-steps pre").last.inner_text()
        page.goto(f"{running.url}/admin/serving_app/activation/")
        seen["empty"] = page.content()

    try:
        assert in_browser(visit, running) == []
    finally:
        stop(running)
    assert set(seen["first"]) == {"no"}
    assert seen["named"][:2] == ["yes", "no"]
    assert seen["given"].count("yes") == 2
    assert seen["command"].startswith(f"curl -s {running.url}/api/v1/predict")
    assert "No activations yet" in seen["empty"]
    assert "manage.py serve" in seen["empty"]
