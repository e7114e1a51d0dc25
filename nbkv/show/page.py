"""What all HTML views share: one style sheet, one frame, tables.

The kernel cannot know the theme of the page. So text takes the page's colour, and fills are translucent or of a middle
tone that is readable on white as on black; JupyterLab's variables are used where they exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

SVG_WIDTH = 380
STYLE = """<style>
.nbkv{--nbkv-text:var(--jp-ui-font-color1,currentColor);--nbkv-line:var(--jp-border-color2,rgba(128,128,128,.4));
--nbkv-mono:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace);
color:var(--nbkv-text);font:13px/1.5 var(--jp-ui-font-family,system-ui,'DejaVu Sans',sans-serif);max-width:64em;
margin:2px 0}
.nbkv pre.nbkv-text{font:13px/1.5 var(--nbkv-mono);white-space:pre-wrap;overflow-wrap:anywhere;color:inherit;
background:none;margin:0 0 6px;padding:0}
.nbkv p{margin:4px 0}.nbkv .nbkv-dim{opacity:.75}
.nbkv table{border-collapse:collapse;margin:4px 0;font-size:13px;color:inherit;background:none;border:0}
.nbkv tr,.nbkv tr:nth-child(even),.nbkv tr:hover{background:none}
.nbkv caption{text-align:left;font-weight:600;padding:2px 0;color:inherit}
.nbkv th,.nbkv td{padding:2px 10px;text-align:right;border:0;border-bottom:1px solid var(--nbkv-line);
white-space:nowrap;color:inherit;vertical-align:top}
.nbkv th:first-child,.nbkv td:first-child{padding-left:2px}
.nbkv th.nbkv-l,.nbkv td.nbkv-l{text-align:left;white-space:normal;max-width:34em;overflow-wrap:break-word}
.nbkv-scroll{overflow-x:auto}
.nbkv summary{cursor:pointer}.nbkv details{margin:4px 0}
.nbkv svg{display:block;max-width:100%}
.nbkv svg text{fill:currentColor;font:11px var(--jp-ui-font-family,system-ui,'DejaVu Sans',sans-serif)}
.nbkv-plots{display:flex;flex-wrap:wrap;gap:8px 28px;margin-top:8px;align-items:flex-start}
.nbkv-map{font:12px/2 var(--nbkv-mono);white-space:pre-wrap;overflow-wrap:anywhere;max-height:28em;overflow-y:auto;
border:1px solid var(--nbkv-line);padding:4px 8px;margin:4px 0}
.nbkv i{font-style:normal;padding:1px 0}.nbkv-legend span{white-space:nowrap;margin-right:1.1em}
.nbkv-legend i{font:600 11px var(--nbkv-mono);padding:0 5px}
.nbkv i.f{background:rgba(128,128,128,.13)}
.nbkv i.p{background:rgba(38,120,210,.26);border-bottom:2px solid #2f7fd0}
.nbkv i.c{background:rgba(20,150,90,.26);border-bottom:3px double #1f9d64}
.nbkv i.a{background:rgba(150,80,200,.27);border-bottom:2px dashed #9a5cc9}
.nbkv i.r{background:rgba(230,130,0,.32);border-bottom:2px dotted #d98100}
.nbkv i.x{text-decoration:line-through;opacity:.6}
.nbkv i.m{background-image:repeating-linear-gradient(45deg,transparent 0 5px,rgba(128,128,128,.35) 5px 7px)}
.nbkv b.t{font:600 10px var(--jp-ui-font-family,sans-serif);opacity:.8;padding:0 4px;user-select:none}
.nbkv .sf{fill:#8a8f98}.nbkv .sp{fill:#2f7fd0}.nbkv .sc{fill:#1f9d64}.nbkv .sa{fill:#9a5cc9}.nbkv .sr{fill:#d98100}
.nbkv svg text.on{fill:#111;font-weight:600}.nbkv .axis{stroke:currentColor;stroke-opacity:.35;fill:none}
</style>"""


def view(body: str, kind: str) -> str:
    """Return ``body`` in the common frame; ``kind`` names the view in its class."""
    return f'{STYLE}<div class="nbkv nbkv-{kind}">{body}</div>'


def svg_html(body: str, height: int, title: str) -> str:
    """Return a drawing ``SVG_WIDTH`` wide with its title; ids are not used, as they would be shared by a whole page."""
    heading = f'<text x="0" y="12" style="font-weight:600">{escape(title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" width="{SVG_WIDTH}"'
        f' viewBox="0 0 {SVG_WIDTH} {height}">{heading}{body}</svg>'
    )


def table_html(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    left: Sequence[int] = (0,),
) -> str:
    """Return a table without the frame; the columns ``left`` hold words and are aligned to the left."""

    def cells(tag: str, values: Sequence[object]) -> str:
        words = dict.fromkeys(left, ' class="nbkv-l"')
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(f"<{tag}{scope}{words.get(i, '')}>{escape(str(v))}</{tag}>" for i, v in enumerate(values))

    head = f"<thead><tr>{cells('th', columns)}</tr></thead>"
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="nbkv-scroll"><table>{title}{head}<tbody>{body}</tbody></table></div>'


def table_text(columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: Sequence[int] = (0,)) -> str:
    """Return the table in columns of fixed width."""
    lines = [list(columns), *([str(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def notes_html(notes: Sequence[str], limit: int = 20, length: int = 300) -> str:
    """Return notes as a list, bounded in number and length."""
    shown = [f"<li>{escape(note if len(note) <= length else note[:length] + '…')}</li>" for note in notes[:limit]]
    if len(notes) > limit:
        shown.append(f"<li>… {len(notes) - limit} more</li>")
    return f'<ul class="nbkv-dim" style="margin:4px 0;padding-left:1.4em">{"".join(shown)}</ul>' if shown else ""


def bounded(text: str, limit: int) -> str:
    """Return ``text`` escaped, cut in its middle so that it takes at most about ``limit`` bytes."""
    escaped = escape(text, quote=False)
    n_bytes = len(escaped.encode())
    if n_bytes <= limit:
        return escaped
    half = int(len(text) * limit / n_bytes / 2)
    left_out = len(text) - 2 * half
    return f"{escape(text[:half], quote=False)}… [{left_out:,} characters] …{escape(text[-half:], quote=False)}"
