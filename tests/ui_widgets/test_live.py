"""The live views in JupyterLab, as a reader sees them."""

import json

import nbformat
import pytest

LOAD = "%load_ext nbkv\n%kvload tiny"
CHUNKS = "%%kvchunk rules\nNina pays in krona . The lamp cost her 48 ."
LONG = "%%kvchunk a_name_that_is_far_too_long_to_fit_into_the_narrow_list_of_chunks\nThe rate is 3 ."
KEEP = "session = get_ipython().magics_manager.registry['KVMagics'].sessions.current"
ANSWERS_RUN_ON = "session.adapter.model.generation_config.suppress_tokens = [session.adapter.model.generation_config.eos_token_id]"
ASK = (
    "import itertools\n"
    "for n, name in zip(range(9), itertools.cycle(['full', 'prefix', 'cacheblend'])):\n"
    "    session.generate([session.chunks['rules'], ' Who pays ?' * (1 + n % 4)],"
    " strategy=name, max_new_tokens=12, fidelity=n % 3 == 2)"
)
READY = [LOAD, KEEP, ANSWERS_RUN_ON, CHUNKS, LONG]
HIDDEN = "selector => [...document.querySelectorAll(selector)].every(e => getComputedStyle(e).display === 'none')"


def tile(page, title):
    return page.locator(".nbkv-dash .tile", has_text=title).first


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_dashboard_follows_the_session_and_steers_it(lab, notebook, theme):
    page, shade = notebook.page, theme.split()[-1].lower()
    notebook.open(lab, f"dash-{shade}.ipynb", [*READY, "%kvdash", ASK, "session.strategy.spec"], theme=theme)
    notebook.run_all()
    page.wait_for_function("document.querySelector('.nbkv-dash')?.textContent.includes('all 9:')")
    assert page.locator(".nbkv-dash svg[aria-label^='hit rate'] rect").count() == 9
    assert "tokens/s" in tile(page, "Speed").inner_text()
    assert "not measured" not in tile(page, "Distance").inner_text()
    assert "memory" in tile(page, "Store").inner_text()
    assert page.evaluate(HIDDEN, "[class^=nbkv-record]")  # the static picture is there, but not beside the live one
    assert page.locator("[class^=nbkv-record]").count() == 1
    notebook.shot(f"dashboard-{shade}", ".nbkv-dash")
    assert overlapping(page, ".nbkv-dash") == []
    page.set_viewport_size({"width": 420, "height": 1600})
    page.wait_for_timeout(300)
    notebook.shot(f"dashboard-{shade}-narrow", ".nbkv-dash")
    assert overlapping(page, ".nbkv-dash") == []
    page.set_viewport_size({"width": 1300, "height": 1000})

    page.locator(".nbkv-dash select").select_option("cacheblend")
    page.locator(".nbkv-dash input[type=range]").fill("0.4")
    notebook.run_cell(len(READY) + 2)
    page.wait_for_function("[...document.querySelectorAll('.jp-OutputArea-output')].some(o => o.textContent.includes('cacheblend(budget=0.4)'))")
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function("document.querySelector('.nbkv-dash').textContent.includes('all 0:')")
    assert notebook.errors == []


def test_a_busy_cell_is_seen_live_and_paused_views_rest(lab, notebook):
    page = notebook.page
    cells = [*READY, "%kvdash", "for _ in range(4):\n    session.generate('Who pays ?', max_new_tokens=300)"]
    notebook.open(lab, "busy.ipynb", cells)
    notebook.do("notebook:run-all-cells")
    page.wait_for_function("/request \\d+, prefix: \\d+ tokens, .*tokens\\/s/.test(document.querySelector('.nbkv-dash')?.textContent)", timeout=60_000)
    seen = page.evaluate(
        """async () => { const seen = new Set(), end = Date.now() + 2000; while (Date.now() < end) {
        seen.add(document.querySelector('.nbkv-dash .row').textContent); await new Promise(r => setTimeout(r, 20)); }
        return seen.size; }"""
    )
    assert 5 <= seen <= 24  # ten a second, and what a pace of its own thread may be late by
    page.wait_for_function("document.querySelector('.nbkv-dash').textContent.includes('all 4:')", timeout=60_000)
    page.wait_for_function("document.querySelector('.nbkv-dash .row').textContent.includes('idle')")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for()
    notebook.run_cell(len(READY) + 1)
    page.wait_for_function("document.querySelectorAll('.jp-CodeCell .jp-InputPrompt').item(6).textContent === '[*]:'")
    page.wait_for_function("/\\d/.test(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt').item(6).textContent)", timeout=60_000)
    assert "all 4:" in page.locator(".nbkv-dash").inner_text()
    page.get_by_role("button", name="Resume").click()
    page.wait_for_function("document.querySelector('.nbkv-dash').textContent.includes('all 8:')")


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_playground_shows_runs_side_by_side(lab, notebook, theme):
    page, shade = notebook.page, theme.split()[-1].lower()
    notebook.open(lab, f"play-{shade}.ipynb", [*READY, "%kvplay"], theme=theme)
    notebook.run_all()
    page.locator(".nbkv-play textarea").fill("Who pays ?")
    page.get_by_label("measure against full").check()
    for count, (name, budget) in enumerate((("cacheblend", "0.5"), ("epic", None), ("full", None)), 1):
        page.locator(".nbkv-play select").select_option(name)
        if budget:
            page.locator(".nbkv-play input[type=range]").fill(budget)
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_function("n => document.querySelectorAll('.nbkv-play .card:not(.live)').length === n", arg=count)
    cards = page.locator(".nbkv-play .card")
    assert cards.nth(0).locator("h4").inner_text().startswith("cacheblend(budget=0.5): rules, a_name")
    assert cards.locator(".nbkv-map").count() == 3
    assert "KL" in cards.nth(1).inner_text()
    left = [cards.nth(i).bounding_box() for i in (0, 1)]
    assert left[0]["y"] == left[1]["y"]
    assert left[0]["x"] < left[1]["x"]
    notebook.shot(f"playground-{shade}", ".nbkv-play")
    assert overlapping(page, ".nbkv-play") == []
    page.get_by_label("move rules down").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_function("document.querySelectorAll('.nbkv-play .card h4')[3]?.textContent.startsWith('full: a_name')")
    page.set_viewport_size({"width": 420, "height": 1600})
    page.wait_for_timeout(300)
    notebook.shot(f"playground-{shade}-narrow", ".nbkv-play")
    assert overlapping(page, ".nbkv-play") == []
    assert notebook.errors == []


def test_a_run_is_stopped_and_one_on_a_busy_session_is_refused_in_a_line(lab, notebook):
    page = notebook.page
    held = "stream = session.stream('Who pays ?', max_new_tokens=9); print(next(stream))"
    notebook.open(lab, "stop.ipynb", [*READY, "%kvplay", held, "stream.close()"])
    for index in range(len(READY) + 2):
        notebook.run_cell(index)
    page.locator(".nbkv-play textarea").fill("Who pays ?")
    page.wait_for_function("/\\d/.test(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt').item(6).textContent)")
    page.locator(".nbkv-play button.main").click()
    page.wait_for_function("document.querySelector('.nbkv-play .said').textContent.startsWith('the session is busy')")
    notebook.run_cell(len(READY) + 2)
    page.wait_for_function("/\\d/.test(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt').item(7).textContent)")
    page.locator(".nbkv-play input[type=number]").fill("2000")
    page.locator(".nbkv-play button.main").click()
    page.wait_for_function("document.querySelector('.nbkv-play .live pre')?.textContent.length > 20")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_function("document.querySelector('.nbkv-play .card:not(.live)')?.textContent.includes('interrupted')", timeout=5_000)


def test_a_reopened_notebook_has_the_last_figures_without_a_kernel(lab, notebook, browser):
    page = notebook.page
    notebook.open(lab, "kept.ipynb", [*READY, "%kvdash", ASK])
    notebook.run_all()
    page.wait_for_function("document.querySelector('.nbkv-dash')?.textContent.includes('all 9:')")
    notebook.do("docmanager:save")
    path = lab[2] / "kept.ipynb"
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    saved = nbformat.read(path, as_version=4)
    outputs = [o for cell in saved.cells for o in cell.outputs if "text/html" in o.get("data", {})]
    assert "9 requests" in outputs[-1].data["text/html"]
    for cell in saved.cells:  # as someone else would get it: another kernel, not trusted
        cell.metadata.pop("trusted", None)
    saved.metadata["kernelspec"]["name"] = "no-such-kernel"
    nbformat.write(saved, lab[2] / "foreign.ipynb")
    notebook.goto(lab, "foreign.ipynb", wait=False)
    record = page.locator(".nbkv-dashboard").first
    record.wait_for(timeout=20_000)
    assert "9 requests" in record.inner_text()
    page.keyboard.press("Escape")
    notebook.shot("reopened", ".nbkv-dashboard")
    assert json.dumps(saved).count("<script") == 0


def overlapping(page, selector):
    """Return pairs of texts in ``selector`` whose lines lie over each other, and texts that stick out."""
    return page.evaluate(
        """selector => {
      const frame = document.querySelector(selector).getBoundingClientRect(), found = [], lines = [];
      const walk = document.createTreeWalker(document.querySelector(selector), NodeFilter.SHOW_TEXT);
      for (let node; (node = walk.nextNode()); ) {
        if (!node.textContent.trim() || node.parentElement.closest('select, style, .cut, details:not([open]) > :not(summary)')) continue;
        const range = document.createRange(); range.selectNodeContents(node);
        for (const box of range.getClientRects()) lines.push([node, box]);
      }
      for (const [i, [node, a]] of lines.entries()) {
        if (a.right > frame.right + 2) found.push(['sticks out', node.textContent]);
        for (const [other, b] of lines.slice(0, i))
          if (node !== other && a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 4 && b.top < a.bottom - 4)
            found.push([node.textContent, other.textContent]);
      }
      return found;
    }""",
        selector,
    )
