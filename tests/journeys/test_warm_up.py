"""A schedule from the form to the hits it earned: real server, real browser, real requests."""

import json
import shutil

import pytest

from tests.journeys.test_admin_in_browser import in_browser
from tests.servers import wait_for

pytestmark = [
    pytest.mark.xdist_group("journey"),
    pytest.mark.contract("W3"),
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="chromium is not on the PATH; scripts/install-test-servers installs it on Debian",
    ),
]


def test_a_schedule_is_made_tried_dry_run_and_earns_hits(server):
    known = [str(n) for n in range(1, 41)]
    listed = {"users": known, "context": {"page": "warmed"}}
    seen = {}

    def visit(page):
        page.goto(f"{server.url}/admin/serving_app/warmupschedule/add/")
        page.fill("input[name=name]", "by-list")
        page.locator("select[name=model]").select_option(label="default")
        page.fill("input[name=rate]", "20")
        page.locator("select[name=strategies-0-strategy]").select_option("from_list")
        options = page.locator("textarea[name=strategies-0-options]")
        options.fill('{"userz": []}')
        page.locator("button[name=_continue]").first.click()
        page.get_by_text("'userz' is no option").wait_for()
        options.fill(json.dumps(listed))
        page.locator("button[name=_continue]").first.click()
        page.get_by_role("link", name="Dry run").click()
        seen["planned"] = page.locator("#planned tbody tr").all_inner_texts()
        page.get_by_role("button", name="Run now").click()
        bar = page.get_by_role("progressbar")
        bar.wait_for()
        page.wait_for_function(
            "() => 0 < Number(document.querySelector('[role=progressbar]').ariaValueNow)"
        )
        seen["running"] = page.locator("#warmup-run").inner_text()
        page.locator("#warmup-run [data-shows=state]", has_text="done").wait_for()
        seen["done"] = page.locator("#warmup-run").inner_text()
        seen["percent"] = bar.get_attribute("aria-valuenow")

    assert in_browser(visit, server) == []
    assert len(seen["planned"]) == len(known)
    assert "from_list: on the list" in seen["planned"][0]
    assert "Stop" in seen["running"]
    assert f"warmed, not asked for: {len(known)}" in seen["done"]
    assert "Stop" not in seen["done"]
    assert seen["percent"] == "100"
    with server.administrator() as client:
        (run,) = client.get("warmup-runs?schedule=by-list").json()["results"]
        for user in known[:10]:
            body = {"user_id": user, "context": {"page": "warmed"}}
            assert client.post("predict", json=body).json()["cached"]
        earned = wait_for(
            lambda: (
                (found := client.get(f"warmup-runs/{run['id']}").json())["earned"] >= 10 and found
            ),
            seconds=60,
            what="activity is written",
        )
        assert (earned["earned"], earned["warmed"]) == (10, len(known))
        assert 0 < earned["seconds_saved"] < earned["model_seconds"]
        assert client.delete("warmup-schedules/by-list").status_code == 204
