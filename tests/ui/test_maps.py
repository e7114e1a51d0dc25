"""Token maps and answers in a real JupyterLab: every token in its own colour, and nothing read as mathematics."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

LOAD = r"""%load_ext nbkv
from dataclasses import replace
from IPython.display import HTML, display
from nbkv import show
session = %kvload tiny
names = [f"prices of the {thing}: $12 to $5" for thing in ("lamp", "lute")]
chunks = [session.chunk(f"Ana bought the {name[14:18]} for 12 pesos. " * 40, name=name) for name in names]
prices = ("$5 ", "**$x^2$** ", "from $1 ", "<b>to</b> ", r"\(y\) ", "_$$z$$_ ")"""
# The bundled reader has no word for prices: they are put where its own words were.
ASK = """result = session.generate(["Noted. ", *chunks, "Who bought it?"], strategy="blend", max_new_tokens=8)
pieces = tuple(prices[at % len(prices)] for at in range(len(result.prompt_ids)))
result = replace(result, prompt_pieces=pieces, text="from $12 to $5")
result"""
HTML_OF_IT = "display(HTML(result._repr_html_()))"
FRAME = """table = session.compare(["Noted. ", chunks[0], "Who bought it?"], ["prefix"], max_new_tokens=4)
table.to_frame().assign(text="between $12 and $5")"""
CHAT = r"""text = '''## Prices

- **$12** to $5
- a <script>window.bad = 1</script><img src=x onerror="window.bad = 1">

`$x$`'''
for shown in (show.answer_bundle(text, markdown=True), replace(result, text=text, markdown=True)._repr_mimebundle_()):
    display({**shown, "text/html": show.coming_html(text, markdown=True)}, raw=True)"""
CONTROL = 'display(HTML("<p>$x^2$</p>"))'
# The sources of the tokens that a map shows, and how many cells of each colour its picture has.
SEEN = """async cell => {
    const output = cell.querySelector('.nbkv-lab-output'), found = {};
    for (const mark of output.querySelectorAll('.nbkv-lab-mark'))
        found[/nbkv-lab-([PCARF])/.exec(mark.className)[1]] =
            (found[/nbkv-lab-([PCARF])/.exec(mark.className)[1]] ?? 0) + mark.querySelectorAll('span').length;
    const image = output.querySelector('.nbkv-lab-strip img'), canvas = document.createElement('canvas');
    await image.decode();
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const lines = Math.ceil(image.naturalHeight / Math.round(image.naturalHeight / Math.ceil(TOKENS / 200)));
    const high = image.naturalHeight / lines, colours = {};
    for (let line = 0; line < lines; line++)
        for (let x = 0; x < canvas.width; x++) {
            const [red, green, blue, alpha] = context.getImageData(x, (line + 1) * high - 1, 1, 1).data;
            if (alpha) colours[[red, green, blue]] = (colours[[red, green, blue]] ?? 0) + 1;
        }
    return [found, colours];
}"""
COLOURS = {"P": "0,114,178", "C": "0,158,115", "A": "204,121,167", "R": "213,94,0", "F": "123,126,133"}


@pytest.fixture(scope="module")
def maps(server, chromium):
    import browser
    from conftest import SHOTS

    SHOTS.mkdir(exist_ok=True)
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    lab = browser.Lab(server, page, SHOTS)
    lab.open(
        server.write("maps.ipynb", LOAD, ASK, HTML_OF_IT, FRAME, CHAT, CONTROL, "result.tokens, result.tokens.prompt")
    )
    lab.run(*range(7))
    yield lab
    page.close()
    server.end_kernels()
    assert lab.errors == []


def cell(maps, index):
    found = maps.page.locator(".jp-Notebook .jp-CodeCell").nth(index)
    found.scroll_into_view_if_needed()
    return found


def formulas(maps, index):
    return cell(maps, index).locator("mjx-container, .MathJax")


def test_mathjax_runs_here(maps):
    expect(formulas(maps, 5)).to_have_count(1)


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_nothing_of_ours_is_mathematics(maps, index):
    expect(formulas(maps, 5)).to_have_count(1)  # whatever it was to read, it has read by now
    for summary in cell(maps, index).locator("summary").all():
        if not summary.evaluate("it => it.parentElement.open"):
            summary.click()
    assert "$5" in cell(maps, index).locator(".jp-OutputArea").inner_text()
    assert formulas(maps, index).count() == 0
    maps.shot(f"maps_{index}", cell(maps, index))


def test_prices_stand_in_the_panel_as_they_are(maps):
    maps.panel.locator(".nbkv-lab-request summary").first.click()
    expect(maps.panel.locator(".nbkv-lab-chunks").first).to_contain_text("prices of the lamp: $12 to $5")
    assert maps.panel.locator("mjx-container").count() == 0


def test_every_token_has_its_own_colour_in_text_and_picture(maps):
    told = cell(maps, 6).locator(".jp-OutputArea-output").inner_text()
    counts = {name: int(n) for name, n in re.findall(r"(prompt|reused|recomputed|fresh)=(\d+)", told)}
    assert counts["prompt"] > 600
    assert counts["recomputed"] > 20
    shown = cell(maps, 1)
    summary = shown.locator("summary", has_text="Token map")
    if not summary.evaluate("it => it.parentElement.open"):
        summary.click()
    expect(shown.locator(".nbkv-lab-map")).to_be_visible()
    found, colours = shown.evaluate(SEEN.replace("TOKENS", str(counts["prompt"])))
    assert found["R"] == counts["recomputed"] == colours[COLOURS["R"]]
    assert found["F"] == counts["fresh"] == colours[COLOURS["F"]]
    assert sum(found.values()) == sum(colours.values()) == counts["prompt"]
    labels = shown.locator(".nbkv-lab-mark > b").all_inner_texts()
    for name in ("lamp", "lute"):
        assert any(f"prices of the {name}" in label for label in labels)


def test_markdown_of_answers_is_drawn_and_harmless(maps):
    answers = cell(maps, 4).locator(".nbkv-lab-markdown")
    expect(answers).to_have_count(2)
    expect(answers.first.locator("h2")).to_have_text("Prices")
    expect(answers.first.locator("strong")).to_have_text("$12")
    expect(answers.first.locator("li").nth(1)).to_contain_text("<script>window.bad = 1</script><img")
    assert maps.page.evaluate("window.bad") is None


def test_nothing_moves_when_an_answer_is_complete(maps):
    boxes = [answer.bounding_box() for answer in cell(maps, 4).locator(".nbkv-lab-answer").all()]
    first, second = ({name: box[name] for name in ("x", "width", "height")} for box in boxes)
    assert first == second
    look = "it => ['wordBreak', 'fontSize', 'overflowWrap', 'whiteSpace'].map(name => getComputedStyle(it)[name])"
    plain = cell(maps, 1).locator(".nbkv-lab-answer")
    assert plain.evaluate(look) == ["normal", "14px", "break-word", "pre-wrap"]


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("width", [280, 420])
def test_nothing_is_cut_beside_the_panel(maps, theme, width):
    maps.theme(f"JupyterLab {theme}")
    maps.width(width)
    for index in (1, 4):
        wide = cell(maps, index).locator(".nbkv-lab-output").first.evaluate("it => [it.scrollWidth, it.clientWidth]")
        assert wide[0] <= wide[1]
        maps.shot(f"map_{index}_{theme.lower()}_{width}", cell(maps, index))
