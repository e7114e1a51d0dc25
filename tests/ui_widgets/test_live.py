"""The live views in JupyterLab, as a reader sees them: one notebook with both, light and dark, wide and narrow."""

import re
from itertools import pairwise

import nbformat
import pytest
from waiting import HOLD as RESTING

SETUP = (
    """%load_ext nbkv
%kvload tiny
session = get_ipython().magics_manager.registry['KVMagics'].sessions.current
config = session.adapter.model.generation_config
config.suppress_tokens = [config.eos_token_id]  # answers are as long as they are asked to be
"""
    + RESTING
    + "\nhold(session, 600);"
)
CHUNKS = "%%kvchunk rules\nNina pays in krona . The lamp cost her 48 ."
LONG = "%%kvchunk a_name_that_is_far_too_long_to_fit_into_the_narrow_list_of_chunks\nThe rate is 3 ."
ASK = """for n in range(9):
    prompt = [session.chunks['rules'], ' Who pays ?' * (1 + n % 4)]
    strategy = ('full', 'prefix', 'cacheblend')[n % 3]
    session.generate(prompt, strategy=strategy, max_new_tokens=12, fidelity=n % 3 == 2)"""
BUSY = "for _ in range(2):\n    session.generate('Who pays ?', max_new_tokens=400)"
HOLD = "stream = session.stream('Who pays ?', max_new_tokens=9); print(next(stream))"
CELLS = [SETUP, CHUNKS, LONG, "%kvdash", "%kvplay", ASK, BUSY, HOLD, "stream.close()", "print(session.strategy.spec)"]
AT = {
    name: index
    for index, name in enumerate(("setup", "chunks", "long", "dash", "play", "ask", "busy", "hold", "close", "spec"))
}
SIZES = [("light", 1300), ("dark", 1300), ("light", 420), ("dark", 420)]
NAME, DASH, PLAY = "live.ipynb", ".nbkv-dash", ".nbkv-play"
# Takes down what the dashboard says of requests from now on.
SEEN = """() => {
    const dash = document.querySelector('.nbkv-dash');
    const note = () => window.seen.add(dash.querySelector('.row').textContent);
    window.seen = new Set(); window.begun = Date.now();
    new MutationObserver(note).observe(dash, { subtree: true, childList: true, characterData: true });
}"""


@pytest.fixture(scope="module")
def notebook(lab, empty):
    empty.open(lab, NAME, CELLS)
    for name in ("setup", "chunks", "long", "dash", "play", "ask"):
        empty.run(AT[name])
    yield empty
    assert empty.errors == []


def shows(page, selector, text):
    page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.textContent.includes(text)", arg=[selector, text]
    )


def tile(page, title):
    return page.locator(f"{DASH} .tile", has_text=title).first.inner_text()


def runs(page, strategy, count):
    page.locator(f"{PLAY} select").select_option(strategy)
    page.locator(f"{PLAY} button.main").click()
    page.wait_for_function("n => document.querySelectorAll('.nbkv-play .card:not(.live)').length === n", arg=count)
    page.wait_for_function("!document.querySelector('.nbkv-play .live')")


def test_the_dashboard_has_a_point_for_each_request(notebook, page):
    shows(page, DASH, "all 9:")
    for figure in ("hit rate", "ttft", "tokens per s"):
        assert page.locator(f"{DASH} svg[aria-label^='{figure}'] rect").count() == 9
    assert page.locator(f"{DASH} svg[aria-label^='kl'] rect").count() == 3
    assert "tokens/s" in tile(page, "Speed")
    assert "memory" in tile(page, "Store")


def test_the_static_picture_is_hidden_while_the_view_is_live(notebook, page):
    assert page.locator("[class^=nbkv-record]").count() == 2
    assert not page.locator("[class^=nbkv-record] >> visible=true").count()


def test_the_playground_shows_runs_side_by_side(notebook, page):
    page.locator(f"{PLAY} textarea").fill("Who pays ?")
    page.get_by_label("measure against full").check()
    runs(page, "cacheblend", 1)
    runs(page, "full", 2)
    cards = page.locator(f"{PLAY} .card")
    assert cards.nth(0).locator("h4").inner_text().startswith("cacheblend: rules, a_name")
    assert cards.locator(".nbkv-map").count() == 2
    assert "top-1" in cards.nth(0).inner_text()
    left, right = (cards.nth(i).bounding_box() for i in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] < right["x"]
    page.get_by_label("move rules down").click()
    runs(page, "full", 3)
    assert cards.nth(2).locator("h4").inner_text().startswith("full: a_name")


@pytest.mark.parametrize("width", [1300, 640, 420])
def test_answers_stay_beside_each_other_at_any_width(notebook, page, width):
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(200)
    boxes = [card.bounding_box() for card in page.locator(f"{PLAY} .card").all()]
    assert len(boxes) == 3
    assert len({box["y"] for box in boxes}) == 1
    assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))
    page.set_viewport_size({"width": 1300, "height": 1000})


def test_a_run_after_prefix_finds_nothing_of_it(notebook, page):
    page.get_by_role("button", name="Clear", exact=True).click()
    page.wait_for_function("!document.querySelector('.nbkv-play .card')")
    page.locator(f"{PLAY} textarea").fill("Which box did Omar keep ?")
    shown = []
    for count, strategy in enumerate(("prefix", "prefix", "full"), 1):
        runs(page, strategy, count)
        text = page.locator(f"{PLAY} .card").nth(count - 1).inner_text()
        shown.append(re.search(r"(\d+) of (\d+)", text)[0] if strategy != "full" else text)
    assert shown[0] == shown[1]
    page.locator(f"{PLAY} textarea").fill("Who pays ?")


@pytest.mark.parametrize(("shade", "width"), SIZES)
def test_nothing_lies_over_anything_else(notebook, page, shade, width):
    notebook.theme(shade)
    for name, selector in (("dashboard", DASH), ("playground", PLAY)):
        notebook.shot(f"{name}-{shade}-{width}", selector, width)
        assert overlapping(page, selector) == []


def test_strategy_and_budget_act_on_the_session(notebook, page):
    page.locator(f"{DASH} select").select_option("cacheblend")
    page.locator(f"{DASH} input[type=range]").fill("0.4")
    page.locator(f"{DASH} input[type=range]").dispatch_event("change")
    page.wait_for_timeout(300)
    notebook.run(AT["spec"])
    assert "cacheblend(budget=0.4)" in page.locator(".jp-OutputArea-output").last.inner_text()
    page.locator(f"{DASH} select").select_option("prefix")


def test_a_run_on_a_busy_session_is_refused_in_one_line(notebook, page):
    notebook.run(AT["hold"])
    page.locator(f"{PLAY} button.main").click()
    shows(page, f"{PLAY} .said", "the session is busy with a request")
    notebook.run(AT["close"])


def test_a_run_is_stopped_and_keeps_its_text(notebook, page):
    page.locator(f"{PLAY} input[type=number]").fill("2000")
    page.locator(f"{PLAY} button.main").click()
    page.wait_for_function("document.querySelector('.nbkv-play .live pre')?.textContent.length > 20")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_function(
        "[...document.querySelectorAll('.nbkv-play .card')].at(-1).textContent.includes('interrupted')"
    )


def test_a_busy_cell_is_seen_live_ten_times_a_second_at_most(notebook, page):
    page.get_by_role("button", name="Reset").click()
    shows(page, DASH, "all 0:")
    page.evaluate(SEEN)
    notebook.start(AT["busy"])
    page.wait_for_function(
        "/request \\d+, prefix: \\d+ tokens, .*tokens\\/s/.test(document.querySelector('.nbkv-dash').textContent)"
    )
    shows(page, DASH, "all 2:")
    shows(page, f"{DASH} .row", "idle")
    seen, seconds = page.evaluate("() => [window.seen.size, (Date.now() - window.begun) / 1000]")
    assert 4 <= seen <= 10 * seconds + 2  # at least one of each request and its end; those at both ends count as well


def test_a_paused_view_rests_and_catches_up(notebook, page):
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for()
    notebook.run(AT["busy"])
    assert "all 2:" in page.locator(DASH).inner_text()
    page.get_by_role("button", name="Resume").click()
    shows(page, DASH, "all 4:")


def test_a_saved_notebook_keeps_the_last_figures_for_pages_without_a_kernel(notebook, page, lab):
    notebook.do("docmanager:save")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    saved = nbformat.read(lab[2] / NAME, as_version=4)
    assert "<script" not in nbformat.writes(saved)
    for cell in saved.cells:  # as someone else would get it: not trusted, and no such kernel
        cell.metadata.pop("trusted", None)
    saved.metadata["kernelspec"]["name"] = "no-such-kernel"
    nbformat.write(saved, lab[2] / "foreign.ipynb")
    notebook.goto(lab, "foreign.ipynb")
    record = page.locator("[class^=nbkv-record]").first
    record.wait_for()
    assert "4 requests" in record.inner_text()
    page.keyboard.press("Escape")
    notebook.shot("reopened", ".jp-Notebook")


def overlapping(page, selector):
    """Return pairs of texts in ``selector`` whose lines lie over each other, and texts that stick out."""
    return page.evaluate(
        """selector => {
      const frame = document.querySelector(selector), right = frame.getBoundingClientRect().right;
      const unseen = 'select, style, .cut, details:not([open]) > :not(summary)', found = [], lines = [];
      const walk = document.createTreeWalker(frame, NodeFilter.SHOW_TEXT), range = document.createRange();
      for (let node; (node = walk.nextNode()); ) {
        if (!node.textContent.trim() || node.parentElement.closest(unseen)) continue;
        range.selectNodeContents(node);
        const row = node.parentElement.closest('.cards')?.getBoundingClientRect(); // it scrolls
        for (const { left, right, top, bottom } of range.getClientRects()) {
          const box = { left: Math.max(left, row?.left ?? left), right: Math.min(right, row?.right ?? right) };
          if (box.left < box.right) lines.push([node, { ...box, top, bottom }]);
        }
      }
      const along = (a, b) => a.left < b.right - 2 && b.left < a.right - 2;
      const meet = (a, b) => along(a, b) && a.top < b.bottom - 4 && b.top < a.bottom - 4;
      for (const [i, [node, box]] of lines.entries()) {
        if (box.right > right + 2) found.push(['sticks out', node.textContent]);
        for (const [other, taken] of lines.slice(0, i))
          if (node !== other && meet(box, taken)) found.push([node.textContent, other.textContent]);
      }
      return found;
    }""",
        selector,
    )
