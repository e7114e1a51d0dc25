"""An answer as text to read: as it was written, or, where a chat model wrote it, with its Markdown drawn.

The same elements show an answer while it comes and when it is complete, so that nothing moves in between.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from nbkv.show.page import bounded

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

MOST = 30_000  # bytes shown; ``result.text`` has all of it
_STYLE = """<style>
.nbkv .nbkv-markdown>*{margin:0 0 8px}.nbkv .nbkv-markdown li>p{margin:0}
.nbkv .nbkv-markdown :is(h1,h2,h3,h4,h5,h6){font-size:1.05em;font-weight:600;margin:10px 0 4px}
.nbkv .nbkv-markdown :is(ul,ol){padding-left:1.6em}
.nbkv .nbkv-markdown :is(code,pre){font:12px/1.5 var(--nbkv-mono);background:rgba(128,128,128,.14);color:inherit}
.nbkv .nbkv-markdown code{padding:1px 3px;border-radius:3px}
.nbkv .nbkv-markdown pre{padding:6px 10px;border:0;overflow-x:auto}
.nbkv .nbkv-markdown pre code{background:none;padding:0}
.nbkv .nbkv-markdown blockquote{border-left:3px solid var(--nbkv-line);padding-left:10px;margin-left:0}
</style>"""
_PLAIN = "white-space:pre-wrap;word-break:normal;overflow-wrap:break-word;margin:0px 0px 6px"


def answer_html(text: str, *, markdown: bool, most: int = MOST) -> str:
    """Return ``text`` in about ``most`` bytes, with HTML in it as the characters it is made of, never as elements."""
    if not markdown:
        return f'<div class="nbkv-answer" style="{_PLAIN}">{bounded(text, most)}</div>'
    drawn = markdown_html(text, most)
    return f'{_STYLE}<div class="nbkv-answer nbkv-markdown" style="margin:0px 0px 6px">{drawn}</div>'


def markdown_html(text: str, most: int = MOST) -> str:
    """Return Markdown as HTML: paragraphs, lists, tables, code. Links and pictures stay the text they were."""
    whole = _parser().render(text)
    if len(whole.encode()) <= most:
        return str(whole)
    half = most // 4  # marks take room as well
    left_out = len(text) - 2 * half
    cut = f"\n\n… [{left_out:,} characters] …\n\n"
    shorter = _parser().render(text[:half] + cut + text[-half:])
    return str(shorter) if len(shorter.encode()) <= most else f"<p>{bounded(text, most)}</p>"


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt  # noqa: PLC0415  (only where an answer is shown)

    found = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    return found.disable(["link", "image", "autolink", "reference", "html_block", "html_inline"])
