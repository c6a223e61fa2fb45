"""Every page of the admin in a real browser: accessible, quiet, in light and dark, on a phone.

Pictures of all are left in ``screenshots/``, to be looked at.
"""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import axe_playwright_python
import pytest
from django.contrib import admin
from django.urls import reverse

from tests.journeys.conftest import ROOT
from tests.journeys.test_admin_in_browser import FLAGS

pytestmark = [
    pytest.mark.xdist_group("journey"),
    pytest.mark.contract("O1"),
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="chromium is not on the PATH; scripts/install-test-servers installs it on Debian",
    ),
]

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
PICTURES = ROOT / "screenshots"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1300, "height": 1000}
OWN = {
    "first": "/admin/",
    "dashboard": "/admin/dashboard/",
    "cache": "/admin/cache/",
    "entries": "/admin/cache/entries/?user_id=1",
    "plugins": "/admin/plugins/",
    "settings": "/admin/settings/",
    "history": "/admin/history/",
}


def pages(server):
    """Return the path of every page by a name: those of our own, lists, and empty forms."""
    found = dict(OWN)
    for each in admin.site.get_urls():
        name = getattr(each, "name", None)
        own = name and not each.pattern.converters and name not in {"index", "logout", "search"}
        if own and "<" not in str(each.pattern) and str(each.pattern).endswith("/"):
            where = reverse(f"admin:{name}")
            if where not in {path.partition("?")[0] for path in found.values()}:
                found[name] = where
    for model in admin.site._registry:
        label = f"{model._meta.app_label}_{model._meta.model_name}"
        found[f"{label}-list"] = reverse(f"admin:{label}_changelist")
        found[f"{label}-add"] = reverse(f"admin:{label}_add")
    skipped = re.compile(r"dashboard/(data|stream|past)|jsi18n|login|autocomplete|change/done")
    return {name: path for name, path in found.items() if not skipped.search(path)}


class Visit:
    """Looks at pages, and writes down what is wrong with them."""

    def __init__(self, page, server):
        self.page, self.server = page, server
        self.wrong = []
        self.seen = []
        axe = AXE.read_text("utf-8")
        page.add_init_script(f"window.loadAxe = () => {{ {axe} }};")
        page.on("pageerror", lambda error: self.wrong.append((page.url, str(error))))
        page.on(
            "console",
            lambda m: self.wrong.append((page.url, m.text)) if m.type == "error" else None,
        )

    def look(self, name, path):
        page = self.page
        if name.endswith("-add") and page.request.get(self.server.url + path).status == 403:
            return  # rows of this kind come by themselves
        page.set_viewport_size(DESK)
        answer = page.goto(self.server.url + path)
        assert answer.status == 200, (answer.status, path)
        self.seen.append(name)
        shown = not name.endswith("-add")  # forms look alike: one picture does
        self._picture(name, "light")
        self._audit(name, "light")
        page.evaluate("document.documentElement.classList.add('dark')")
        if shown:
            self._picture(name, "dark")
        self._audit(name, "dark")
        page.evaluate("document.documentElement.classList.remove('dark')")
        page.set_viewport_size(PHONE)
        if shown:
            self._picture(name, "phone")
        # Scripts of the theme follow the new width with the next picture.
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            self.wrong.append((path, f"is {width} pixels wide on a phone"))

    def _picture(self, name, kind):
        self.page.screenshot(path=PICTURES / f"{name}-{kind}.png", full_page=True)

    def _audit(self, name, kind):
        rules = "runOnly: ['color-contrast']," if kind == "dark" else ""
        run = f"""async () => {{
            if (!window.axe) window.loadAxe();
            const found = await axe.run(document, {{{rules} resultTypes: ["violations"]}});
            return found.violations.filter((v) => ["serious", "critical"].includes(v.impact))
                .map((v) => v.id + ": " + v.nodes.map((n) => n.html.slice(0, 150)).join(" | "));
        }}"""
        self.wrong += [(f"{name} ({kind})", violation) for violation in self.page.evaluate(run)]


def test_every_page_is_accessible_and_fits(server):
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(exist_ok=True)
    wanted = pages(server)

    def run():
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=FLAGS
            )
            page = browser.new_page(viewport=DESK, reduced_motion="reduce")
            page.goto(f"{server.url}/")
            page.fill("input[name=username]", server.demo["username"])
            page.fill("input[name=password]", server.demo["password"])
            page.click("button[type=submit]")
            page.wait_for_selector("text=Site administration")
            visit = Visit(page, server)
            for name, path in wanted.items():
                visit.look(name, path)
            for model in ("servedmodel", "modelversion", "alias"):
                page.goto(f"{server.url}/admin/serving_app/{model}/")
                row = page.locator("#result_list tbody tr a").first.get_attribute("href")
                visit.look(f"{model}-change", row)
            browser.close()
        return visit

    with ThreadPoolExecutor(1) as pool:
        visit = pool.submit(run).result(300)
    assert not visit.wrong, json.dumps(visit.wrong, indent=1)
    assert len(visit.seen) > 20
