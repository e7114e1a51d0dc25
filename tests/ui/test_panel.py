"""The panel in a real browser, beside kernels that are busy, stopped, restarted, and after a reload of the page."""

from __future__ import annotations

import re

from playwright.sync_api import expect

LONG = "%%kvgen -n 1500 --out long\n{{ notes }}{{ question }}"
SHORT = "%%kvgen -n 40 --out short\n{{ notes }}Who bought the lamp?"
# Takes down what the panel says of a cell while it runs.
WATCH = """() => {
    const panel = document.querySelector('#nbkv-panel');
    const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
    const said = () => ['.nbkv-lab-now', '.nbkv-lab-figures'].map(it => panel.querySelector(it)?.textContent).join();
    let last = said();
    window.seen = {};
    kernel.iopubMessage.connect((_, message) => {
        if (message.header.msg_type === 'execute_input') window.seen = { texts: [] };
    });
    new MutationObserver(() => {
        if (!window.seen.texts || said() === last) return;
        last = said();
        window.seen.first = true;
        const now = panel.querySelector('.nbkv-lab-now');
        if (now?.dataset.running === 'true' && kernel.status === 'busy')
            window.seen.texts.push(now.querySelector('.nbkv-lab-number')?.textContent ?? '');
    }).observe(panel, { subtree: true, childList: true, characterData: true, attributes: true });
}"""


def generating(lab, tokens):
    """Wait for the panel to have shown more than ``tokens`` tokens of the cell that runs now, and not at one stroke."""
    shown = "(window.seen.texts ?? []).map(text => Number(/^([\\d,]+) tokens,/.exec(text)?.[1]?.replace(',', '') ?? 0))"
    lab.wait(f"(all => new Set(all).size > 5 && Math.max(...all) > {tokens})({shown})")


def figures(lab):
    return lab.panel.locator(".nbkv-lab-figures dd")


def output(lab, cell):
    return lab.page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".jp-OutputArea-output").first.inner_text()


def test_panel_follows_a_busy_cell_and_stop_ends_it(lab, notebook):
    show = "print(long.finish_reason, len(long.token_ids), len(long.text) > 0)"
    lab.open(notebook(SHORT, LONG, show, SHORT, more="hold(session, 450);")).run(0)
    lab.page.evaluate(WATCH)
    for _ in range(3):
        lab.run(1)
        lab.wait("window.seen.first")
    for _ in range(2):
        lab.page.evaluate("() => { window.seen = {} }")  # the panel shows the cell before until it hears of this one
        lab.run(2, wait=False)
        generating(lab, 400)
        lab.shot("busy")
        lab.panel.get_by_role("button", name="Stop").click()
        lab.done()
    # the last state is shown, whatever came just before
    expect(figures(lab).nth(2)).to_have_text("5")
    expect(lab.panel.locator(".nbkv-lab-now")).to_have_attribute("data-running", "false")
    lab.run(3, 4)
    reason, tokens, has_text = output(lab, 3).split()
    assert (reason, has_text) == ("interrupted", "True")
    assert 400 < int(tokens) < 1500
    assert "interrupted" in output(lab, 2)
    assert "40 tokens" in output(lab, 4)
    lab.width(280)
    lab.panel.locator(".nbkv-lab-request summary").nth(1).click()
    expect(lab.panel.locator(".nbkv-lab-request").nth(1)).to_contain_text(re.compile("tokens generated.*interrupted"))
    name = lab.panel.locator(".nbkv-lab-request").nth(1).locator(".nbkv-lab-chunks .nbkv-lab-cut")
    cut = "node => node.scrollWidth > node.clientWidth"
    lab.page.wait_for_function(cut, arg=name.element_handle())  # once the panel has its new width
    assert name.get_attribute("title").endswith("taken by all who were there")
    lab.shot("long_name_280", lab.panel)


COMPARE = (
    "%%kvcompare full, prefix, epic, cacheblend, prophet -n 200 --repeat 40 --out table\n{{ notes }}{{ question }}"
)
# Takes down what a cell and the panel show while the comparison runs.
ROWS = """(cell) => {
    const node = document.querySelectorAll('.jp-Notebook .jp-CodeCell')[cell];
    window.rows = []; window.named = [];
    new MutationObserver(() => {
        const now = document.querySelector('#nbkv-panel .nbkv-lab-now');
        window.rows.push(node.querySelectorAll('.nbkv-progress tbody tr').length);
        if (now?.dataset.running === 'true') window.named.push(now.innerText);
    }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


def test_a_comparison_shows_rows_as_they_finish_and_stop_keeps_them(lab, notebook):
    show = "print(table.stopped if 'table' in dir() else _kv.stopped, [row['strategy'] for row in _kv.rows])"
    lab.open(notebook(COMPARE, show, more="hold(session, 450, steps=12);")).run(0)
    lab.page.evaluate(ROWS, 1)
    lab.run(1, wait=False)
    stop = lab.panel.get_by_role("button", name="Stop")
    lab.wait("window.rows.some(n => n >= 3) && window.named.length > 3")
    expect(stop).to_be_enabled()
    lab.shot("comparing")
    seen = [n for n in lab.page.evaluate("window.rows") if n]
    assert seen == sorted(seen)
    assert any("compare: " in text and " of 206" in text for text in lab.page.evaluate("window.named"))
    stop.click()
    lab.done()
    expect(lab.panel.locator(".nbkv-lab-now")).to_have_attribute("data-running", "false")
    lab.run(2)
    said = output(lab, 2)
    assert said.startswith("stopped after ")
    assert "'full', 'prefix'" in said
    cell = lab.page.locator(".jp-Notebook .jp-CodeCell").nth(1)
    expect(cell).to_contain_text("stopped after")
    expect(cell.locator(".jp-OutputArea-output")).to_have_count(1)
    lab.shot("compared")


def test_reload_clear_and_restart(lab, notebook):
    name = notebook(SHORT)
    lab.open(name).run(0, 1)
    expect(figures(lab).nth(2)).to_have_text("1")
    before = figures(lab).all_inner_texts()
    lab.open(name, reset=False)
    expect(figures(lab)).to_have_text(before)

    expect(lab.panel.locator(".nbkv-lab-tier")).to_contain_text(re.compile(r"[1-9]\d* tokens · "))
    lab.panel.get_by_role("button", name="Clear").click()
    expect(lab.panel.locator(".nbkv-lab-tier")).to_contain_text("0 tokens · ")
    assert not re.search(r"[1-9]\d* tokens", lab.panel.locator(".nbkv-lab-tier").inner_text())

    lab.command("notebook:clear-all-cell-outputs")
    lab.page.evaluate("() => { void jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart() }")
    expect(figures(lab)).to_have_count(0)
    lab.shot("restarted")
    lab.run(0)  # waits its turn: a kernel may say that it is starting until it is asked something
    expect(figures(lab).nth(2)).to_have_text("0")
    lab.run(1)
    expect(figures(lab).nth(2)).to_have_text("1")


def test_two_notebooks_each_with_its_own_sessions(lab, notebook):
    one, two = notebook(SHORT, name="one"), notebook("other = %kvload tiny --as second", SHORT, name="two")
    lab.open(one).run(0, 1)
    expect(figures(lab).nth(2)).to_have_text("1")
    lab.command("docmanager:open", path=two)
    lab.wait("jupyterapp.shell.currentWidget?.title.label === 'two.ipynb'")
    lab.idle()
    expect(lab.panel).to_contain_text("nbkv is not in use here")
    expect(lab.page.locator(".nbkv-lab-status")).to_have_count(0)
    for cell in range(3):
        lab.page.evaluate(f"jupyterapp.shell.currentWidget.content.activeCellIndex = {cell}")
        lab.page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")
    sessions = lab.panel.locator(".nbkv-lab-sessions button")
    expect(sessions).to_have_count(2)
    expect(lab.panel.locator("h2")).to_have_text("second")
    sessions.first.focus()
    lab.page.keyboard.press("Enter")
    expect(lab.panel.locator("h2")).to_have_text("tiny-1")
    expect(figures(lab).nth(2)).to_have_text("0")
    lab.shot("two_sessions")
    lab.command("docmanager:open", path=one)
    expect(lab.panel.locator("header")).to_contain_text("one.ipynb")
    expect(figures(lab).nth(2)).to_have_text("1")


# A session's long work and one of the process, each in the very cell that loads the extension or right behind it.
WORK = """%load_ext nbkv
from nbkv.roster import loading, process_work
from nbkv.stopping import Stopped
import time
def work(name):
    with process_work(name, 5000) as under_way:
        try:
            while under_way.done < 5000:
                under_way.step(f"part {under_way.done}")
                time.sleep(0.02)
        except Stopped:
            print("stopped")
work(loading("/a/path/to/models/that/is/rather/long/qwen2.5-coder-0.5b"))"""


def test_work_of_the_first_cell_is_shown_and_stopped(lab, server):
    lab.open(server.write("first.ipynb", WORK, "work('run')", "work('export')"))
    for cell, name in enumerate(("load qwen2.5-coder-0.5b", "run", "export")):
        lab.run(cell, wait=False)
        shown = lab.panel.get_by_role("region", name=name)
        expect(shown).to_contain_text(f"{name}: part", timeout=20000)
        expect(lab.panel.locator(".nbkv-lab-kernel")).to_have_text("busy")
        expect(lab.panel).not_to_contain_text("No session is open")
        for theme in ("Light", "Dark"):
            lab.theme(f"JupyterLab {theme}")
            for width in (280, 500):
                lab.width(width)
                lab.shot(f"work_{width}_{theme.lower()}", lab.panel)
                button = shown.get_by_role("button", name=f"Stop {name}")
                assert button.evaluate("it => it.scrollWidth <= it.clientWidth && it.innerText === 'Stop'")
        shown.get_by_role("button", name=f"Stop {name}").click()
        lab.done()
        expect(shown).to_have_count(0)
        expect(lab.page.locator(".jp-Notebook .jp-CodeCell").nth(cell)).to_contain_text("stopped")


def test_an_order_beside_a_busy_cell_leaves_stop_in_reach(lab, notebook):
    lab.open(notebook(SHORT, LONG, LONG)).run(0, 1)
    for cell, again in ((2, False), (3, True)):
        lab.run(cell, wait=False)
        stop = lab.panel.get_by_role("button", name="Stop")
        expect(stop).to_be_enabled(timeout=20000)
        lab.panel.locator(".nbkv-lab-request summary").last.click()  # asks the busy kernel why
        lab.page.wait_for_timeout(600)
        expect(stop).to_be_enabled()
        if again:
            lab.panel.locator(".nbkv-lab-request summary").first.click()
            expect(stop).to_be_enabled()
        stop.click()
        lab.done()
        assert "interrupted" in output(lab, cell)
