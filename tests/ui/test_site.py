"""The documentation's pages, opened from a file: they fetch nothing, and their search finds what is there."""

from __future__ import annotations

import os
import subprocess
import sys

import browser
import pytest


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder / "built")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "NBKV_CACHE": str(folder / "remembered"), "HF_HUB_OFFLINE": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(browser.ROOT), str(browser.ROOT / "kernels")])
    done = subprocess.run(command, cwd=browser.ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "built"


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    opened = context.new_page()
    opened.asked = []
    opened.on("request", lambda request: opened.asked.append(request.url))
    yield opened
    context.close()


@pytest.mark.parametrize("name", ["index", "strategies/cacheblend", "reference"])
def test_a_page_opens_from_a_file_and_asks_for_files_alone(site, page, name):
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_load_state("load")
    assert page.asked
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("[...document.images].every(image => !image.complete || image.naturalWidth > 0)")


def test_the_search_finds_what_is_there_and_nothing_else(site, page):
    page.goto((site / "index.html").as_uri())
    box, found = page.locator("input[name=query]"), page.locator(".md-search-result__link")
    box.click()
    page.keyboard.type("RadixAttention")
    found.first.wait_for(state="attached")
    assert any("strategies/" in link.get_attribute("href") for link in found.all())
    page.keyboard.press("Control+A")
    page.keyboard.type("zzyzxqq")
    found.first.wait_for(state="detached")
    assert "No matching" in page.locator(".md-search-result__meta").text_content()


def test_formulas_take_room_in_both_themes(site, chromium):
    for scheme, dark in (("light", False), ("dark", True)):
        context = chromium.new_context(color_scheme=scheme, offline=True)
        opened = context.new_page()
        opened.goto((site / "strategies" / "prophet.html").as_uri())
        boxes = [formula.bounding_box() for formula in opened.locator("math[display=block]").all()]
        assert boxes
        assert all(box["width"] > 100 and box["height"] > 20 for box in boxes)
        assert (opened.locator("body").get_attribute("data-md-color-scheme") == "slate") is dark
        context.close()
