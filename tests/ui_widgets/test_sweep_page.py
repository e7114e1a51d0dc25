"""The page of a sweep, opened from its file: what was found is seen first, and whole, at any width, light and dark."""

from __future__ import annotations

import itertools

import pytest
from seen import UNSEEN

TEXT = (
    'an answer of the model that takes more than one line wherever it is shown, with "quotes" and <b>markup</b> in it'
)
# The words of plots that reach out of their figure, and plots that do.
OUTSIDE = """() => [...document.querySelectorAll('figure')].flatMap(figure => {
  const frame = figure.getBoundingClientRect();
  return [...figure.querySelectorAll('text, .main-svg')].filter(it => {
    const box = it.getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1);
  }).map(it => it.textContent.slice(0, 40));
})"""
TOPS = (
    """() => ['.found', '.grid', 'a.get', 'table'].map(it => document.querySelector(it).getBoundingClientRect().top)"""
)


def numbers():
    for strategy, budget, seed in itertools.product(("epic", "cacheblend"), (0.05, 0.5), (0, 1, 2)):
        parameters = {"strategy": strategy, "chunks_of_a_document": 8, "budget": budget, "seed": seed}
        if (strategy, budget, seed) == ("epic", 0.5, 2):
            yield (
                parameters,
                {},
                "",
                "OutOfMemory: tried to allocate 12.3 GB, where there were 8.0 GB, of which none were free",
            )
        else:
            records = {"kl": budget * seed + len(strategy), "ttft_s": budget, "kv_bytes": 5_800_000_004, "text": TEXT}
            yield parameters, records | {"seconds": {"full": 2.41, "prefix": 0.13}}, ""


def words():
    for strategy, model in itertools.product(("prefix", "cacheblend(budget=0.15)"), ("smollm2", "qwen2.5-coder-0.5b")):
        yield {"strategy": strategy, "model": model}, {"kl": len(strategy) / 10, "hit_rate": 0.9 / len(model)}, ""


def alone():
    yield {"model": "smollm2"}, {"kl": 0.01, "speedup": 18.123456}, "On smollm2 `prefix` is **18 x** sooner than full."


def failed():
    for model in ("smollm2", "elsewhere"):
        yield {"model": model}, {}, "", f"LoadError: no folder /a/long/path/to/models/that/are/not/there/{model}"


@pytest.fixture
def shown(browser, folder):
    pages = []

    def show(runs, width=1280):
        pages.append(browser.new_page(viewport={"width": width, "height": 900}))
        pages[-1].goto(folder(*runs()).report.as_uri())
        pages[-1].wait_for_load_state("load")
        return pages[-1]

    yield show
    for page in pages:
        page.close()


@pytest.mark.parametrize("runs", [numbers, words, alone, failed])
def test_the_page_is_seen_whole(shown, runs):
    page = shown(runs)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width in (1280, 420, 280):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_function(f"({OUTSIDE})().length === 0")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(UNSEEN) == []
            assert (page.locator("thead").bounding_box() is None) or width > 280


@pytest.mark.parametrize("runs", [numbers, words])
def test_the_finding_stands_first_then_its_plot_then_the_files_then_the_runs(shown, runs):
    page = shown(runs, 420)
    tops = page.evaluate(TOPS)
    assert tops == sorted(tops)
    assert tops[1] < 900


def test_panels_stand_beside_each_other_where_there_is_room(shown):
    page = shown(numbers)
    left, right = (figure.bounding_box() for figure in page.locator(".grid figure").all())
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_function(f"({OUTSIDE})().length === 0")
    first, second = (figure.bounding_box() for figure in page.locator(".grid figure").all())
    assert first["y"] + first["height"] <= second["y"]


def test_what_failed_is_a_link_away(shown):
    page = shown(numbers)
    page.get_by_role("link", name="1 failed").click()
    assert page.locator("h2:target").inner_text() == "strategy epic, budget 0.5, seed 2"


def test_a_run_with_nothing_to_show_leads_to_its_notebook(shown):
    page = shown(words)
    assert page.locator("h2").count() == 0
    assert page.locator("td a").first.get_attribute("href").endswith(".ipynb")
