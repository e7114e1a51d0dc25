"""The quickstart as a person sees it: in light and dark, narrow, with the keyboard, and reopened without a kernel."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

MIME = "application/vnd.nbkv.result+json"
# Boxes of the panel's texts; those on one line may not overlap, and none may stick out to the right.
OVERLAPS = """() => {
    const panel = document.querySelector('#nbkv-panel'), edge = panel.getBoundingClientRect().right + 0.5;
    const walker = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT), boxes = [];
    while (walker.nextNode()) {
        const node = walker.currentNode, range = document.createRange(), owner = node.parentElement;
        if (!node.textContent.trim() || owner.closest('.nbkv-lab-spoken, svg') || !owner.checkVisibility()) continue;
        range.selectNodeContents(node);
        const clip = owner.closest('.nbkv-lab-cut')?.getBoundingClientRect();
        for (const box of range.getClientRects())
            boxes.push({
                text: node.textContent, left: box.left, right: Math.min(box.right, clip?.right ?? Infinity),
                top: box.top, bottom: box.bottom
            });
    }
    const found = boxes.filter(box => box.right > edge).map(box => `${box.text} sticks out`);
    boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
        const apart = a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 3 || b.bottom <= a.top + 3;
        if (!apart) found.push(`${a.text} | ${b.text}`);
    }));
    return found;
}"""


@pytest.fixture(scope="module")
def ran(server, chromium):
    """The quickstart, run and saved."""
    import browser
    from conftest import SHOTS

    name = "00_quickstart.ipynb"
    (server.notebooks / name).write_bytes((browser.ROOT / "notebooks" / name).read_bytes())
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    SHOTS.mkdir(exist_ok=True)
    lab = browser.Lab(server, page, SHOTS).open(name)
    lab.command("notebook:run-all-cells")
    lab.wait("document.querySelectorAll('#nbkv-panel .nbkv-lab-request').length === 3")
    lab.wait(
        "/\\[\\d+\\]/.test([...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].at(-1).textContent)",
    )
    lab.idle()
    lab.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    yield lab
    page.close()
    server.end_kernels()
    assert lab.errors == []


def test_quickstart_in_the_panel(ran):
    hit_rate, ttft, requests = ran.panel.locator(".nbkv-lab-figures dd").all_inner_texts()
    assert re.fullmatch(r"\d+(\.\d)? %", hit_rate)
    assert re.fullmatch(r"[\d.]+ (s|m?s)", ttft)
    assert requests in {"3", "6"}  # the chat at the end asks the same session where no real model is installed
    expect(ran.page.locator(".nbkv-lab-status")).to_have_text(f"KV {hit_rate}")
    saved = json.loads((ran.server.notebooks / "00_quickstart.ipynb").read_text(encoding="utf-8"))
    kinds = [
        out["data"][MIME]["kind"]
        for cell in saved["cells"]
        for out in cell.get("outputs", ())
        if MIME in out.get("data", {})
    ]
    assert kinds == ["result", "result", "result", "comparison"]


def test_a_screen_reader_is_told_politely(ran):
    spoken = ran.panel.locator("[role=status][aria-live=polite]")
    expect(spoken).to_have_text(re.compile(r"Request [36]: .* reused, first token after"))


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("width", [280, 420])
def test_no_text_covers_another(ran, theme, width):
    ran.theme(f"JupyterLab {theme}")
    ran.width(width)
    assert abs(ran.panel.bounding_box()["width"] - width) < 8
    requests = ran.panel.locator(".nbkv-lab-request summary")
    requests.first.click()
    ran.shot(f"panel_{theme.lower()}_{width}", ran.panel)
    ran.shot(f"quickstart_{theme.lower()}_{width}")
    found = ran.page.evaluate(OVERLAPS)
    requests.first.click()
    assert found == []


def test_colours_follow_the_theme(ran):
    colours = []
    for theme in ("Light", "Dark"):
        ran.theme(f"JupyterLab {theme}")
        colours.append(
            ran.panel.evaluate("node => [getComputedStyle(node).color, getComputedStyle(node).backgroundColor]")
        )
    (ink, paper), (ink_dark, paper_dark) = [
        [sum(map(int, re.findall(r"\d+", c)[:3])) for c in pair] for pair in colours
    ]
    assert ink < paper
    assert ink_dark > paper_dark


def test_kv_cells_are_coloured_and_prompts_are_not_python(ran):
    cell = ran.page.locator(".jp-CodeCell", has_text="%%kvgen").first
    cell.scroll_into_view_if_needed()
    expect(cell.locator(".nbkv-lab-magic")).to_have_text("%%kvgen")
    # By what the editor holds: a cell that JupyterLab has out of sight has text, but none that shows.
    expect(cell.locator(".nbkv-lab-option")).to_have_text(["-n", "--out"])
    expect(cell.locator(".nbkv-lab-name", has_text="{{ first_half }}")).not_to_have_count(0)


def test_palette_and_toolbar_show_the_panel(ran):
    names = ran.page.evaluate("jupyterapp.commands.listCommands().filter(id => id.startsWith('nbkv:'))")
    assert sorted(names) == ["nbkv:clear", "nbkv:show-panel", "nbkv:stop"]
    ran.command("application:toggle-right-area")
    expect(ran.panel).to_be_hidden()
    ran.page.locator(".jp-NotebookPanel-toolbar [data-command='nbkv:show-panel']").first.click()
    expect(ran.panel).to_be_visible()


def test_settings_hide_the_status(ran):
    setting = (
        "(wanted) => jupyterapp.serviceManager.settings.save('nbkv-lab:plugin', JSON.stringify({ showStatus: wanted }))"
    )
    item = ran.page.locator(".nbkv-lab-status")
    expect(item).to_be_visible()
    ran.page.evaluate(setting, False)
    ran.open("00_quickstart.ipynb", kernel=False)
    expect(item).to_be_hidden()
    ran.page.evaluate(setting, True)


def test_saved_notebook_shows_its_maps_without_a_kernel(ran, lab, server):
    saved = json.loads((server.notebooks / "00_quickstart.ipynb").read_text(encoding="utf-8"))
    (server.notebooks / "saved.ipynb").write_text(json.dumps(saved | {"metadata": {}}), encoding="utf-8")
    lab.open("saved.ipynb", kernel=False, panel=False)
    lab.page.locator(".jp-Dialog button", has_text="No Kernel").click()
    shown = lab.page.locator(".nbkv-lab-output").first
    shown.scroll_into_view_if_needed()
    summary = shown.locator("summary", has_text="Token map of the prompt")
    summary.click()
    assert shown.locator(".nbkv-lab-map .nbkv-lab-mark").count() >= 2
    expect(shown.locator(".nbkv-lab-map")).to_contain_text("peso")
    assert shown.locator(".nbkv-lab-mark [title*='chunk first_half']").count() >= 1
    shown.get_by_role("button", name=re.compile("fresh")).click()
    expect(shown.locator(".nbkv-lab-mark.nbkv-lab-F").first).to_have_attribute("data-faint", "false")
    expect(shown.locator(".nbkv-lab-mark.nbkv-lab-P").first).to_have_attribute("data-faint", "true")
    lab.shot("without_kernel")
    assert lab.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session") is None
