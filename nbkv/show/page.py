"""What all HTML views share: one style sheet, one frame, tables.

The kernel cannot know the theme of the page. So text takes the page's colour, and fills are translucent or of a middle
tone that is readable on white as on black; JupyterLab's variables are used where they exist. What a view needs to be
understood stands in ``style`` attributes: JupyterLab takes style sheets and SVG out of notebooks it does not trust yet,
such as those that were run elsewhere. Every view has the classes at which MathJax looks away: prices are no formulas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from nbkv.show.units import UNKNOWN

NO_MATHS = "tex2jax_ignore mathjax_ignore"  # MathJax 2 (exported pages, Voila) and 3 (JupyterLab)
NARROW = 560  # pixels below which a table of figures becomes a list
LETTER, EDGES, STEP = 7.4, 16, 80  # pixels: a letter's width, a cell's margins; widths are rounded up to few classes
_NAME_AND_VALUE = 2  # columns, which fit anywhere
_FITS = """@container (max-width:PXpx){.NAME thead{display:none}.NAME,.NAME :is(tbody,caption){display:block}
.NAME tr{display:flex;flex-wrap:wrap;gap:0 14px;padding:5px 0;border-bottom:1px solid var(--nbkv-line)}
.NAME td.nbkv-l:first-child{flex:1 0 100%;max-width:none;font-weight:600}
.nbkv .NAME :is(td,th){display:block;padding:0;border:0;max-width:100%;overflow-wrap:anywhere}
.nbkv .NAME .nbkv-none{display:none}
.NAME td:not(.nbkv-l:first-child)::before{content:attr(data-name) " ";opacity:.75}}"""


def fitting(name: str, width: int) -> str:
    """Return the rules by which tables of class ``name`` become lists where they have less than ``width`` pixels."""
    return _FITS.replace("NAME", name).replace("PX", str(width))


def table_width(rows: Sequence[Sequence[str]], longest: int) -> int:
    """Return about how many pixels a table of these texts takes, if none has more than ``longest`` letters in a row."""
    widest = [max(min(len(text), longest) for text in column) for column in zip(*rows, strict=True)]
    needed = sum(LETTER * letters + EDGES for letters in widest)
    return STEP * (int(needed) // STEP + 1)


STYLE = """<style>
.nbkv{--nbkv-text:var(--jp-ui-font-color1,currentColor);--nbkv-line:var(--jp-border-color2,rgba(128,128,128,.4));
--nbkv-mono:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace);
color:var(--nbkv-text);font:13px/1.5 var(--jp-ui-font-family,system-ui,'DejaVu Sans',sans-serif);max-width:64em;
margin:2px 0}
.nbkv .nbkv-answer{font:14px/1.55 var(--jp-content-font-family,system-ui,'DejaVu Sans',sans-serif)}
.nbkv-frame{max-width:none}.nbkv p{margin:4px 0}.nbkv .nbkv-dim{opacity:.75}
.nbkv table{border-collapse:collapse;margin:4px 0;font-size:13px;color:inherit;background:none;border:0}
.nbkv tr,.nbkv tr:nth-child(even),.nbkv tr:hover{background:none}
.nbkv caption,.nbkv-title{text-align:left;font-weight:600;padding:2px 0;color:inherit}
.nbkv th,.nbkv td{padding:2px 8px;text-align:right;border:0;white-space:nowrap;color:inherit;vertical-align:top}
.nbkv th{white-space:normal}
.nbkv-scroll th,.nbkv-scroll td{border-bottom:1px solid var(--nbkv-line)}
.nbkv th:first-child,.nbkv td:first-child{padding-left:2px}
.nbkv .nbkv-l{white-space:normal;max-width:34em;overflow-wrap:break-word}
.nbkv-scroll{overflow-x:auto;container-type:inline-size}
FITS
.nbkv summary{cursor:pointer}.nbkv details{margin:4px 0}
.nbkv-plots{gap:8px 28px;container-type:inline-size}
@container (max-width:420px){.nbkv .nbkv-bars td{padding:2px;white-space:normal;max-width:60cqw;overflow-wrap:anywhere}
.nbkv-bars span{width:calc(var(--w)*.16cqw)!important}.nbkv-bars i{display:none}}
.nbkv-bars i{font-style:normal}
.nbkv-map{font-family:var(--nbkv-mono);font-size:12px;border-color:var(--nbkv-line)}
.nbkv-map small{font:600 10px var(--jp-ui-font-family,sans-serif);opacity:.85;padding:0 4px;user-select:none}
.nbkv-map .nbkv-gap{font-size:11px;font-style:italic;opacity:1}
</style>""".replace("FITS", fitting("nbkv-fits", NARROW))


def view(body: str, kind: str) -> str:
    """Return ``body`` in the common frame; ``kind`` names the view in its class."""
    return f'{STYLE}<div class="nbkv nbkv-{kind} {NO_MATHS}">{body}</div>'


def plots(*drawings: str) -> str:
    """Return drawings side by side, or below each other where there is no room."""
    style = "display:flex;flex-wrap:wrap;align-items:flex-start;overflow-x:auto"
    return f'<div class="nbkv-plots" style="{style}">{"".join(drawings)}</div>'


class Drawn(str):
    """A table's cell that is markup already: a bar beside its figure."""

    __slots__ = ()


def emphasised(row: Sequence[str]) -> tuple[str, ...]:
    """Return a table's row in bold: the one that was looked for; what there is no value for stays as it is."""
    return tuple(cell if cell in {"", UNKNOWN} else Drawn(f"<b>{_broken(cell)}</b>") for cell in row)


def table_html(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    left: Sequence[int] = (0,),
    width: int = 0,
) -> str:
    """Return a table without the frame; the columns ``left`` hold words and are aligned to the left.

    Where there is no room for its columns, or less than ``width`` pixels, each row becomes a few lines in which every
    value has its name. Cells are text, but for those that are ``Drawn``.
    """
    name = f"nbkv-fits-{width}" if width else "nbkv-fits" if len(columns) > _NAME_AND_VALUE else "nbkv-pairs"
    rules = f"<style>{fitting(name, width)}</style>" if width else ""

    def cells(tag: str, values: Sequence[object]) -> str:
        more = [' scope="col"' if tag == "th" else f' data-name="{escape(str(each))}"' for each in columns]
        return "".join(
            f"<{tag}{more[i]}{_kind(v, in_words=i in left)}>{v if isinstance(v, Drawn) else _broken(str(v))}</{tag}>"
            for i, v in enumerate(values)
        )

    head = f"<thead><tr>{cells('th', columns)}</tr></thead>"
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'{rules}<div class="nbkv-scroll"><table class="{name}">{title}{head}<tbody>{body}</tbody></table></div>'


def _kind(value: object, *, in_words: bool) -> str:
    """Return a cell's class and side; what there is no value for is left out of a list."""
    classes = [name for name, true in (("nbkv-l", in_words), ("nbkv-none", value in {"", UNKNOWN})) if true]
    named = f' class="{" ".join(classes)}"' if classes else ""
    return f'{named} style="text-align:left"' if in_words else named


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


def _broken(text: str) -> str:
    """Return ``text`` escaped, with places where ``name(option=value, …)`` may be broken."""
    return re.sub(r"\((?=\w+=)", "(<wbr>", escape(text))


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
