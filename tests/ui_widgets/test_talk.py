"""``%kvchat`` in JupyterLab: a box to go on in, questions put otherwise, and the static picture where no kernel is."""

import nbformat
import pytest
from waiting import HOLD

SETUP = (
    """%load_ext nbkv
%kvload tiny
session = get_ipython().magics_manager.registry['KVMagics'].sessions.current
config = session.adapter.model.generation_config
config.suppress_tokens = [config.eos_token_id]  # answers are as long as they are asked to be
"""
    + HOLD
    + "\nhold(session, 1000);"
)
FIRST = "%%kvchat -n 8\nNina pays in krona . Who pays ?"
CELLS = [SETUP, FIRST, "%kvchat", "print(len(_kv.token_ids))"]
NAME, TALK = "talk.ipynb", ".nbkv-talk"


@pytest.fixture(scope="module")
def notebook(lab, empty):
    empty.open(lab, NAME, CELLS)
    for index in range(3):
        empty.run(index)
    empty.page.wait_for_selector(f"{TALK} textarea")
    yield empty
    assert empty.errors == []


def asked(page):
    return page.locator(f"{TALK} .turns .asked span").all_inner_texts()


def turns(page, count):
    page.wait_for_function(f"document.querySelectorAll('{TALK} .turns .asked').length === {count}")
    page.wait_for_function(f"document.querySelector('{TALK} .live').childElementCount === 0")


def test_a_turn_is_typed_and_answered_below_the_others(notebook, page):
    turns(page, 1)
    page.locator(f"{TALK} input[type=number]").fill("6")
    page.locator(f"{TALK} textarea").fill("And the lamp ?")
    page.locator(f"{TALK} textarea").press("Enter")
    turns(page, 2)
    assert asked(page) == ["Nina pays in krona . Who pays ?", "And the lamp ?"]
    assert "tokens reused" in page.locator(f"{TALK} .turn").nth(1).inner_text()
    assert page.locator(f"{TALK} .turns .nbkv-markdown").count() == 2
    assert page.locator(f"{TALK} textarea").input_value() == ""
    assert page.locator("[class^=nbkv-record] >> visible=true").count() == 0
    assert page.locator(".jp-CodeCell").nth(2).locator(f"{TALK}").count() == 1


@pytest.mark.parametrize(("shade", "width"), [("light", 1280), ("dark", 1280), ("light", 500), ("dark", 420)])
def test_nothing_sticks_out(notebook, page, shade, width):
    notebook.theme(shade)
    notebook.shot(f"chat-{shade}-{width}", TALK, width)
    box = page.locator(TALK).bounding_box()
    for part in page.locator(f"{TALK} :is(textarea, button, select, .asked, .nbkv-markdown, .saved)").all():
        if (at := part.bounding_box()) is not None:
            assert at["x"] >= box["x"] - 1
            assert at["x"] + at["width"] <= box["x"] + box["width"] + 1


def test_an_earlier_turn_is_put_otherwise(notebook, page):
    page.locator(f"{TALK} textarea").fill("How many ?")
    page.get_by_role("button", name="Send", exact=True).click()
    turns(page, 3)
    page.get_by_role("button", name="edit turn 2").click()
    assert page.locator(f"{TALK} textarea").input_value() == "And the lamp ?"
    assert "In place of turn 2 and the turn after it" in page.locator(f"{TALK} .editing").inner_text()
    page.locator(f"{TALK} textarea").press("Escape")
    assert page.locator(f"{TALK} .editing").inner_text() == ""
    page.get_by_role("button", name="edit turn 2").click()
    page.locator(f"{TALK} textarea").fill("And the blue box ?")
    page.locator(f"{TALK} textarea").press("Enter")
    page.wait_for_function(f"document.querySelectorAll('{TALK} .turns .asked')[1]?.textContent.includes('blue box')")
    turns(page, 2)


def test_stop_leaves_the_conversation_and_gives_the_question_back(notebook, page):
    page.locator(f"{TALK} input[type=number]").fill("3000")
    page.locator(f"{TALK} textarea").fill("Omar keeps what ?")
    page.locator(f"{TALK} textarea").press("Enter")
    page.wait_for_function(f"document.querySelector('{TALK} .live .nbkv-answer')?.textContent.length > 20")
    page.get_by_role("button", name="Stop", exact=True).last.click()
    page.wait_for_function(f"document.querySelector('{TALK} .said').textContent.includes('stopped')")
    turns(page, 2)
    assert page.locator(f"{TALK} textarea").input_value() == "Omar keeps what ?"


def test_a_page_without_a_kernel_shows_the_turns(notebook, page, lab):
    notebook.run(3)
    notebook.do("docmanager:save")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    saved = nbformat.read(lab[2] / NAME, as_version=4)
    saved.metadata.pop("widgets", None)
    saved.metadata["kernelspec"]["name"] = "no-such-kernel"
    nbformat.write(saved, lab[2] / "foreign.ipynb")
    notebook.goto(lab, "foreign.ipynb")
    record = page.locator("[class^=nbkv-record]").first
    record.wait_for()
    assert "blue box" in record.inner_text()
    assert "saved" in record.inner_text()
