"""The admin in a real browser, against the demo's server."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.conftest import write_catalogue, write_linear

pytestmark = [
    pytest.mark.xdist_group("journey"),
    pytest.mark.contract("O1"),
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="chromium is not on the PATH; scripts/install-test-servers installs it on Debian",
    ),
]

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


def failed(request):
    """Return the URL of a request that failed; none if the page was left before its answer."""
    return [] if "ERR_ABORTED" in (request.failure or "") else [request.url]


def in_browser(visit, server):
    """Run ``visit(page)``, signed in, and return what the page complained of meanwhile.

    On a thread of its own: Playwright leaves an event loop behind, which Django would refuse.
    """
    from playwright.sync_api import sync_playwright

    def run():
        complaints = []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=FLAGS
            )
            page = browser.new_page(viewport={"width": 1300, "height": 1000})
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("requestfailed", lambda request: complaints.extend(failed(request)))
            page.on(
                "response",
                lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None,
            )
            page.on(
                "request",
                lambda r: complaints.append(r.url) if not r.url.startswith(server.url) else None,
            )
            page.goto(f"{server.url}/")
            page.fill("input[name=username]", server.demo["username"])
            page.fill("input[name=password]", server.demo["password"])
            page.click("button[type=submit]")
            page.wait_for_selector("text=Site administration")
            visit(page)
            browser.close()
        return complaints

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result(300)


def act(page, server, rows, action, where="modelversion"):
    page.goto(f"{server.url}/admin/serving_app/{where}/")
    for row in rows:
        page.locator("tr", has_text=row).locator("input[name=_selected_action]").check()
    page.locator("select[name=action]").select_option(action)
    page.locator("button[name=index]").first.click()
    page.wait_for_load_state()
    if action in {"make_live", "roll_back"}:
        page.locator("button[name=confirm]").click()
        page.wait_for_load_state()


def test_a_stranger_sees_the_live_model_tries_it_swaps_it_and_rolls_it_back(server):
    seen = {}

    def visit(page):
        page.get_by_role("link", name="Models").first.click()
        page.locator("tr", has_text="default@2").get_by_role("link", name="Try it").click()
        page.fill("input[name=user_id]", "1")
        page.get_by_role("button", name="Run", exact=True).click()
        seen["rows"] = page.locator("#answer tbody tr").all_inner_texts()
        act(page, server, ["default@1"], "make_live")
        seen["live"] = page.content()
        act(page, server, ["default@1"], "roll_back", where="servedmodel")
        seen["rolled back"] = page.content()
        page.goto(f"{server.url}/admin/plugins/")
        seen["plugins"] = page.content()
        page.get_by_role("link", name="Cache").first.click()
        page.locator("select[name=kind]").select_option("user_id")
        page.fill("input[name=name]", "1")
        page.get_by_role("button", name="Forget").click()
        page.locator("select[name=kind]").select_option("all")
        page.get_by_role("button", name="Forget").click()
        page.get_by_role("button", name="Yes, forget everything").click()
        seen["forgotten"] = page.locator("#history tbody tr").all_inner_texts()
        page.goto(f"{server.url}/api/v1/docs")
        page.get_by_text("/api/v1/predict/batch").first.wait_for()

    assert in_browser(visit, server) == []
    assert len(seen["rows"]) == 10
    assert all(len(row.split("\t")) == 4 for row in seen["rows"])
    assert "default@1 is live." in seen["live"]
    assert "default@2 is live." in seen["rolled back"]
    assert "numpy_linear" in seen["plugins"]
    assert [row.split("\t")[-1] for row in seen["forgotten"]] == ["everything", "a user 1"]


def test_a_version_is_uploaded_validated_and_made_live(server, tmp_path):
    write_linear(tmp_path, "mine.npz")
    write_catalogue(tmp_path, "mine.csv")
    (tmp_path / "broken.npz").write_bytes(np.random.default_rng(0).bytes(1000))
    seen = {}

    def register(page, artifact):
        page.goto(f"{server.url}/admin/serving_app/modelversion/add/")
        page.locator("select[name=model]").select_option(label="uploaded")
        page.locator("select[name=framework]").select_option("numpy_linear")
        page.set_input_files("input[name=artifact_upload]", tmp_path / artifact)
        page.set_input_files("input[name=catalogue_upload]", tmp_path / "mine.csv")
        page.fill("textarea[name=feature_names]", "age, visits, spend")
        page.locator("button[name=_save]").click()
        page.wait_for_load_state()
        return page.content()

    def visit(page):
        page.goto(f"{server.url}/admin/serving_app/servedmodel/add/")
        page.fill("input[name=name]", "uploaded")
        page.locator("button[name=_save]").click()
        page.wait_for_load_state()
        seen["broken"] = register(page, "broken.npz")
        seen["added"] = register(page, "mine.npz")
        act(page, server, ["uploaded@1"], "make_live")
        seen["live"] = page.content()

    assert in_browser(visit, server) == []
    assert "no .npz file" in seen["broken"]
    assert "was added successfully" in seen["added"]
    assert "uploaded@1 is live." in seen["live"]
    with server.client() as client:
        question = {"user_id": "u", "model_name": "uploaded", "features": [1, 2, 3]}
        assert client.post("predict", json=question).json()["model_version"] == 1


@pytest.mark.contract("S14")
def test_a_version_is_rolled_out_raised_and_aborted(server):
    seen = {}

    def confirm(page, **fields):
        seen.setdefault("changes", []).append(page.locator("#changes").inner_text())
        for name, value in fields.items():
            page.fill(f"input[name={name}]", value)
        page.locator("button[name=confirm]").click()
        page.wait_for_load_state()

    def visit(page):
        act(page, server, ["default@1"], "start_roll_out")
        confirm(page, percents="20, 60")
        act(page, server, ["default@1 (running)"], "raise_share", where="rollout")
        confirm(page, reason="So far, so good.")
        page.goto(f"{server.url}/admin/serving_app/servedmodel/")
        page.locator("tr", has_text="default@2").get_by_role("link", name="default").first.click()
        page.locator("#content, main").get_by_text("Aliases").first.click()
        page.get_by_text("60.00").first.wait_for()
        seen["model"] = page.content()
        act(page, server, ["default@1 (running)"], "abort", where="rollout")
        confirm(page, reason="Only a trial.")
        page.get_by_role("link", name="default@1 (aborted)").first.click()
        page.get_by_text("Only a trial.").first.wait_for()
        seen["history"] = page.content()

    assert in_browser(visit, server) == []
    start, raised, aborted = seen["changes"]
    assert "default@2: 100 % of the users" in start
    assert "default@1: 20 % of the users" in raised
    assert "default@1: 60 % of the users" in raised
    assert "default@2: 100 % of the users" in aborted
    assert "canary" in seen["model"]
    assert "60.00" in seen["model"]
    assert "So far, so good." in seen["history"]
    assert "Only a trial." in seen["history"]


@pytest.mark.contract("O3")
@pytest.mark.contract("O4")
def test_a_rule_that_is_made_here_fires_and_resolves(server):
    def visit(page):
        page.goto(f"{server.url}/admin/serving_app/alertrule/add/")
        for name, value in (("name", "Anyone asks"), ("threshold", "0"), ("calm", "0")):
            page.fill(f"input[name={name}]", value)
        page.fill("input[name=window]", "120")
        page.select_option("select[name=metric]", "requests")
        page.click("button[name=_save]")
        with server.client() as client:
            assert client.post("predict", json={"user_id": "alarmed"}).status_code == 200
        listed = f"{server.url}/admin/serving_app/alert/?q=Anyone"
        _reload_until(page, listed, "firing")
        page.goto(f"{server.url}/admin/serving_app/alertrule/?q=Anyone")
        page.click("text=Try it")
        page.wait_for_selector("text=minutes there was something to look at")
        page.goto(f"{server.url}/admin/serving_app/alertrule/?q=Anyone")
        page.click("text=Anyone asks")
        page.fill("input[name=threshold]", "1000000")
        page.click("button[name=_save]")
        _reload_until(page, listed, "resolved")
        page.goto(f"{server.url}/admin/analysis/?period=1h&by=model")
        page.wait_for_selector("#findings li")
        assert page.locator("#rows tbody tr").count() >= 1
        assert page.locator("canvas.chart").count() == 2

    complaints = in_browser(visit, server)
    assert not complaints


def _reload_until(page, url, text):
    """Look at a page again and again until it shows a text in its list."""
    deadline = time.monotonic() + 60
    while True:
        page.goto(url)
        if page.locator(f"#result_list >> text={text}").count():
            return
        assert time.monotonic() < deadline, page.content()
        time.sleep(0.5)
