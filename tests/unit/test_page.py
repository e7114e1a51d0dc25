from __future__ import annotations

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbkv.sweep.page.html_report import PLOTLY, figures
from nbkv.sweep.records import MIME


def shown(*data):
    return figures(new_notebook(cells=[new_code_cell(outputs=[new_output("display_data", one) for one in data])]))


def test_the_richest_form_of_an_output_is_taken():
    plot = {PLOTLY: {"data": [], "layout": {"title": {"text": "</script>"}}}, "text/html": "<script>x</script>"}
    ((_, markup),) = shown(plot)
    assert "Plotly.newPlot(" in markup
    assert markup.count("</script>") == 1
    assert shown({"image/svg+xml": "<svg/>", "image/png": "AAAA"}) == [("", "<svg/>")]
    assert shown({"image/png": "AA\nAA\n", "text/plain": "x"}) == [
        ("", '<img alt="" src="data:image/png;base64,AAAA">')
    ]


def test_text_records_and_scripts_are_left_out():
    assert (
        shown({"text/plain": "x"}, {MIME: [["a", 1]], "text/plain": "a"}, {"text/html": "<b><SCRIPT>x</SCRIPT></b>"})
        == []
    )


def test_figures_stand_under_the_headings_of_the_notebook():
    out = [new_output("display_data", {"text/html": "<p>x</p>"})]
    cells = [
        new_markdown_cell("# Title\n\ntext\n\n## One"),
        new_code_cell(outputs=out),
        new_markdown_cell("no heading"),
        new_code_cell(outputs=out),
        new_markdown_cell("## Two\n# of them"),
        new_code_cell(outputs=out),
    ]
    assert [heading for heading, _ in figures(new_notebook(cells=cells))] == ["One", "One", "of them"]
