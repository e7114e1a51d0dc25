import re

import pytest

from nbkv.show import coming_html
from nbkv.show.answer import answer_html, markdown_html

NASTY = (
    "<script>alert(1)</script>",
    "![x](http://a/b.png)",
    "[x](javascript:alert(1))",
    "<http://a.b>",
    "`<b>`",
    "<!-- x -->",
    "&lt;b&gt;",
    "[a]: http://b\n\n[a]",
)


@pytest.mark.parametrize("text", NASTY)
def test_markdown_makes_no_element_that_loads_or_links(text):
    html = markdown_html(text)
    assert not re.search(r"<(?!/?(p|code|br /)>)", html)


@pytest.mark.parametrize(
    ("text", "element"),
    [
        ("**bold**", "<strong>bold</strong>"),
        ("- one\n- two", "<li>one</li>"),
        ("```\nx = 1\n```", "<pre><code>x = 1\n</code></pre>"),
        ("|a|b|\n|-|-|\n|1|2|", "<td>1</td>"),
        ("one\ntwo", "one<br />\ntwo"),
        ("## Prices", "<h2>Prices</h2>"),
    ],
)
def test_markdown_of_chat_answers_is_drawn_and_of_others_not(text, element):
    assert element in answer_html(text, markdown=True)
    assert element not in answer_html(text, markdown=False)
    assert text.replace("\n", "") in answer_html(text, markdown=False).replace("\n", "")


@pytest.mark.parametrize("text", ["$12 and $5", r"\(x\) and \[y\]", "$$z$$", "**$1** to `$2`"])
@pytest.mark.parametrize("markdown", [False, True])
def test_no_part_of_an_answer_is_mathematics(text, markdown):
    html = coming_html(text, markdown=markdown)
    assert re.search(r'<div class="nbkv [^"]*\btex2jax_ignore mathjax_ignore"', html)
    assert not re.search(r"<math|MathJax|\\begin", html)


@pytest.mark.parametrize(
    "text", ["word " * 20_000, "# a\n\n" * 20_000, "<" * 100_000, "|a|b|\n|-|-|\n" + "|1|2|\n" * 9_000]
)
@pytest.mark.parametrize("markdown", [False, True])
def test_long_answers_are_cut_in_their_middle_and_say_so(text, markdown):
    html = answer_html(text, markdown=markdown)
    assert len(html.encode()) < 34_000
    assert re.search(r"… \[[\d,]+ characters\] …", html)


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("text", ["", "So the lamp", "- one\n- tw", "```\nx = "])
def test_an_answer_that_comes_begins_as_the_complete_one(text, markdown):
    assert answer_html(text, markdown=markdown) in coming_html(text, markdown=markdown)
