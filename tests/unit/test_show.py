import base64
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from nbkv import show
from nbkv.result import Chunk, Comparison, Compute, Fidelity, Provenance, Result, Timing
from nbkv.show import units
from nbkv.show.columns import outline

KL_PLOT = "KL to full (nats) against computed share"


class Tree(HTMLParser):
    """Checks that tags are balanced and collects what a test wants to know."""

    def __init__(self, html):
        super().__init__()
        self.stack, self.tags, self.attributes, self.text = [], [], [], ""
        self.marks = []  # titles in the token map
        self.in_map = False
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag in {"img", "wbr", "br", "hr"}:
            return
        self.stack.append(tag)
        self.in_map = self.in_map or dict(attrs).get("class") == "nbkv-map"
        if self.in_map and "title" in dict(attrs):
            self.marks.append(dict(attrs)["title"])

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag
        self.in_map = self.in_map and tag != "div"

    def handle_data(self, data):
        if not self.stack or self.stack[-1] != "style":
            self.text += data


def result(provenance, **changed):
    n = len(provenance)
    given = {
        "text": "forty-two",
        "token_ids": (7, 8, 9),
        "prompt_ids": tuple(range(n)),
        "finish_reason": "stop",
        "strategy": "prefix",
        "model": "tiny",
        "fingerprint": "f",
        "timing": Timing(ttft_s=0.0312, load_s=0.01, prefill_s=0.02, decode_s=0.2, total_s=0.24, tpot_s=0.01),
        "provenance": np.array(provenance, np.uint8),
        "kept": np.ones(n, bool),
        "compute": Compute(share=0.1, rows=0.1),
        "prompt_pieces": tuple(f"w{i} " for i in range(n)),
    }
    return Result(**(given | changed))


def row(name, **changed):
    figures = {"ttft_s": 0.3, "load_s": 0.1, "select_s": 0.05, "prefill_s": 0.1, "decode_s": 1.0, "tpot_s": 0.01}
    counts = {"hit_rate": 0.5, "reused": 5, "recomputed": 0, "fresh": 5, "compute_share": 0.4}
    quality = {
        "speedup": 2.0,
        "kl": 0.01,
        "kl_max": 0.1,
        "top1": 0.9,
        "diverges_at": 3,
        "same_text": True,
        "text": "forty-two",
        "notes": "",
    }
    return {"strategy": name} | figures | counts | quality | changed


def comparison(*rows):
    return Comparison(model="tiny", prompt_tokens=10, repeat=3, rows=rows, results=())


STATS = {
    "kind": "stats",
    "session": "a<b",
    "model": "tiny",
    "strategy": "prefix",
    "requests": 2,
    "prompt_tokens": 4096,
    "reused": 2048,
    "recomputed": 1,
    "fresh": 2047,
    "generated": 10,
    "hit_rate": 0.5,
    "ttft_s": {"mean": 0.1, "p50": 0.1, "p90": 0.2, "last": 0.0123},
    "tokens_per_s": 100.0,
    "fallbacks": 0,
    "evictions": 3,
    "tiers": [
        {"tier": "memory", "entries": 2, "bytes": 1500, "limit": None, "hits": 1, "misses": 1, "evictions": 3},
    ],
}


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        (units.seconds, 0.0312, "31.2 ms"),
        (units.seconds, 2.054, "2.05 s"),
        (units.seconds, 200, "3 min 20 s"),
        (units.seconds, 0.00005, "50 µs"),
        (units.seconds, None, "–"),
        (units.size, 1536, "1.54 kB"),
        (units.size, 12, "12 B"),
        (units.share, 1.0, "100 %"),
        (units.share, 0.9999, ">99.9 %"),
        (units.share, 0.996, "99.6 %"),
        (units.share, 0.00001, "<0.1 %"),
        (units.share, float("nan"), "–"),
        (units.times, 11.2, "11×"),
        (units.nats, 3e-9, "0"),
        (units.nats, 0.0123, "0.012"),
    ],
)
def test_numbers_read_like_numbers(unit, value, expected):
    assert unit(value) == expected


def test_text_of_a_result_says_what_was_reused():
    lines = repr(result([1] * 6 + [4] + [0] * 3, notes=("float32 on cpu",))).splitlines()
    assert lines[0] == "forty-two"
    for part in ("prefix", "6 of 10 prompt tokens reused (60 %)", "1 recomputed", "3 fresh", "TTFT 31.2 ms"):
        assert part in lines[1]
    assert "100 tokens/s" in lines[1]
    assert "3 tokens, stopped by itself" in lines[1]
    assert lines[2] == "[note: float32 on cpu]"


def test_html_of_a_result_shows_each_token_with_its_source():
    provenance = [Provenance.PREFIX, Provenance.CHUNK, Provenance.CORRECTED, Provenance.RECOMPUTED, Provenance.FRESH]
    tree = Tree(result(provenance, chunks=(("notes", 1, 3),))._repr_html_())
    assert tree.marks == [
        "token 0, PREFIX",
        "token 1, CHUNK, notes",
        "token 2, CORRECTED, notes",
        "token 3, RECOMPUTED",
        "token 4, FRESH",
    ]
    for meaning in ("reused as prefix 1", "reused from a chunk 1", "reused and adjusted 1", "recomputed 1", "fresh 1"):
        assert meaning in tree.text


def test_html_is_escaped_and_has_no_scripts():
    nasty = "<script>alert('x')</script>&amp;"
    views = [
        result(
            [2] * 4, text=nasty, strategy=nasty, model=nasty, notes=(nasty,), prompt_pieces=(nasty,) * 4,
            chunks=((nasty, 0, 4),), kv_bytes={nasty: 3},
        )._repr_html_(),
        comparison(row(nasty, text=nasty, notes=nasty))._repr_html_(),
        Chunk(name=nasty, text=nasty, token_ids=(1,), sink=(), model="m")._repr_html_(),
        show.stats_html(STATS | {"session": nasty, "tiers": [STATS["tiers"][0] | {"tier": nasty}]}),
        show.table_html([nasty], [[nasty]], caption=nasty),
    ]  # fmt: skip
    for html in views:
        tree = Tree(html)
        assert not {"script", "svg", "iframe", "a"} & set(tree.tags)
        assert not [name for a in tree.attributes for name in a if name.startswith("on") or name == "href"]
        pictures = [a["src"] for a in tree.attributes if "src" in a]
        assert all(re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", picture) for picture in pictures)
        assert nasty in tree.text


def test_views_take_no_colour_of_their_own_for_text():
    html = result([0, 1])._repr_html_()
    assert "var(--jp-ui-font-color1,currentColor)" in html
    assert not re.search(r"[;{\"]color:(?!#111111|inherit|var)", html)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [160, 161, 4_000, 40_000])
def test_html_of_a_result_is_bounded(n, seed):
    rng = np.random.default_rng(seed)
    shown = result(
        rng.integers(0, 5, n),
        text="<&>\n" * 100_000,
        prompt_pieces=("<\"'&語",) * n,
        notes=("<" * 5_000,) * 100,
        kept=rng.random(n) < 0.5,
        chunks=tuple((f"chunk<{i}>" * 20, i, i + 1) for i in range(0, n, 3)),
    )._repr_html_()
    Tree(shown)
    assert len(shown.encode()) < 200_000


def test_hovering_tells_how_far_a_token_deviated_where_that_was_measured():
    deviation = np.array([np.nan, 0.031, 2.5, np.nan], np.float32)
    found = result([1, 2, 4, 0], chunks=(("notes", 1, 3),), deviation=deviation)
    assert json.loads(json.dumps(found.to_dict()))["deviation"] == [None, 0.031, 2.5, None]
    assert Tree(found._repr_html_()).marks == [
        "token 0, PREFIX",
        "token 1, CHUNK, notes, deviation 0.031",
        "token 2, RECOMPUTED, notes, deviation 2.5",
        "token 3, FRESH",
    ]
    long = result([2] * 1_000, deviation=np.linspace(0, 1, 1_000, dtype=np.float32))
    assert Tree(long._repr_html_()).marks[-1] == "tokens 900–999, CHUNK, deviation at most 1"


@pytest.mark.parametrize("n", [160, 4_000])
def test_fifty_results_fit_into_a_notebook_of_two_megabytes(n):
    import nbformat
    from IPython.core.formatters import DisplayFormatter

    words = np.random.default_rng(n)
    notebook = nbformat.v4.new_notebook()
    for number in range(50):
        shown = result(
            words.choice([1, 2, 2, 2, 4], n),  # as scattered as a blend leaves it
            text="So the lamp is hers. " * 40,
            deviation=words.random(n, np.float32),
            chunks=tuple((f"document {i}", i, i + 100) for i in range(0, n - 100, 100)),
            notes=("float32 on cpu", "chunks encoded behind a primer"),
        )
        bundle, _ = DisplayFormatter().format(shown)
        assert {"text/html", "text/plain"} <= set(bundle)
        output = nbformat.v4.new_output("execute_result", bundle, execution_count=number)
        notebook.cells.append(nbformat.v4.new_code_cell("%%kvgen", outputs=[output]))
    assert len(nbformat.writes(notebook).encode()) < 2_000_000


def test_long_prompts_are_folded_and_short_ones_open():
    folded = [("open" in a) for n in (20, 300) for a in Tree(result([0] * n)._repr_html_()).attributes if "open" in a]
    assert folded == [True]


def test_a_result_without_pieces_still_shows_its_figures():
    html = result([0, 1], prompt_pieces=())._repr_html_()
    assert "Token map" not in html
    assert "1 of 2 prompt tokens reused" in Tree(html).text


def test_fidelity_is_shown_where_it_was_measured():
    known = Fidelity(kl=0.003, kl_max=0.02, top1=0.97, n=32, diverges_at=6, floor=1e-4)
    approximate = result([0], fidelity=known, lineage="approx:blend")
    assert "· approximate, KL 0.003, differs at token 7 ·" in repr(approximate)
    assert "largest KL 0.02, top-1 97 %]" in repr(approximate)
    assert "KL 0.003 (noise)" in repr(replace(approximate, fidelity=replace(known, floor=0.004)))
    assert "KL" not in repr(result([0]))


def test_comparison_text_and_html_say_the_same():
    found = comparison(row("full", kl=0.0, top1=1.0, compute_share=1.0), row("epic(first_k=8)", same_text=False))
    cells = ["epic(first_k=8)", "300 ms", "2.00×", "50 %", "40 %", "0.01", "0.1", "90 %", "4"]
    assert re.split(r"\s{2,}", repr(found).splitlines()[-1]) == cells
    tree = Tree(found._repr_html_())
    for cell in cells:
        assert cell in tree.text
    assert [a["aria-label"] for a in tree.attributes if "aria-label" in a] == [KL_PLOT] * 2  # one where it is narrow
    assert "Time to first token" in tree.text
    assert [a["title"] for a in tree.attributes if "KL" in a.get("title", "")] == [
        "full: KL 0, 100 % computed",
        "epic(first_k=8): KL 0.01, 40 % computed",
    ] * 2


def test_comparison_without_fidelity_has_dashes_and_one_plot():
    found = comparison(row("full", kl=None, kl_max=None, top1=None))
    assert repr(found).split()[-3:] == ["–", "–", "–"]
    assert KL_PLOT not in found._repr_html_()


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_labels_of_the_scatter_do_not_overlap(width):
    rows = [row(f"strategy{i}", kl=0.01 * (1 + i / 50), compute_share=0.3 + i / 200) for i in range(12)]
    wide, narrow = show.comparison_html(comparison(*rows).to_dict()).split(KL_PLOT)[-2:]
    drawing = narrow if width == "narrow" else wide
    found = re.findall(r"left:([\d.]+)px;top:([\d.]+)px;\">strategy", drawing)
    spots = [(float(x), float(y)) for x, y in found]
    assert len(spots) >= 4
    assert max(x for x, _ in spots) < (256 if width == "narrow" else 380) - 50
    for i, (x, y) in enumerate(spots):
        for other_x, other_y in spots[:i]:
            assert abs(y - other_y) >= 12 or abs(x - other_x) >= 50


def test_answers_are_grouped_and_notes_not_repeated():
    rows = [
        row("full", notes="float32"),
        row("a", notes="float32; mine"),
        row("b", text="x", notes="float32"),
    ]
    text = Tree(comparison(*rows)._repr_html_()).text
    assert "2 different answers" in text
    assert text.count("float32") == 1
    assert "a: mine" in text


def test_parts_of_a_bar_sum_to_the_ttft():
    from nbkv.show.bars import parts

    timing = {"ttft_s": 0.4, "load_s": 0.1, "select_s": 0.05, "prefill_s": 0.2}
    assert {p.name: round(p.value, 6) for p in parts(timing)} == {
        "load": 0.1, "select": 0.05, "compute": 0.2, "decode": 0.05,
    }  # fmt: skip
    assert [p.value for p in parts({"ttft_s": 0.4})] == [0.4]


def test_stats_show_figures_and_tiers():
    for shown in (show.stats_text(STATS), Tree(show.stats_html(STATS)).text):
        for part in (
            "a<b: tiny with prefix, 2 requests",
            "4,096",
            "2,048 (50 %)",
            "12.3 ms",
            "100 tokens/s",
            "1.50 kB",
        ):
            assert part in shown


def test_stats_show_each_strategy():
    figures = {"requests": 2, "hit_rate": 0.5, "compute_share": 0.25, "ttft_s": 0.0123}
    seen = figures | {"measured": 1, "kl": 0.031, "kl_max": 0.062, "top1": 0.875}
    unseen = figures | {"measured": 0, "kl": None, "kl_max": None, "top1": None}
    stats = STATS | {"strategies": {"blend(budget=0.2)": seen, "a<b": unseen}}
    lines = show.stats_text(stats).splitlines()
    assert next(line for line in lines if line.startswith("blend")).split() == (
        "blend(budget=0.2) 2 50 % 25 % 12.3 ms 1 0.031 0.062 88 %".split()
    )
    assert next(line for line in lines if line.startswith("a<b "))[3:].split()[-4:] == ["0", "–", "–", "–"]
    shown = Tree(show.stats_html(stats)).text
    for part in ("Strategies", "blend(budget=0.2)", "a<b", "0.062", "88 %"):
        assert part in shown


def test_stats_of_a_session_without_requests():
    empty = STATS | dict.fromkeys(("requests", "prompt_tokens", "reused", "fresh", "hit_rate", "tokens_per_s"), 0)
    empty["ttft_s"] = {"mean": None, "p50": None, "p90": None, "last": None}
    assert "0 requests" in show.stats_text(empty)
    assert "last –" in show.stats_text(empty)


def test_plots_carry_three_forms():
    history = [
        {"request": 1, "strategy": "full", "hit_rate": 0.0, "ttft_s": 0.3},
        {"request": 2, "strategy": "prefix", "hit_rate": 0.9, "ttft_s": 0.03},
    ]
    for plot in (show.comparison_plot(comparison(row("full"), row("a")).to_dict()), show.history_plot(history)):
        bundle = plot._repr_mimebundle_()
        json.dumps(bundle)
        figure = bundle["application/vnd.plotly.v1+json"]
        assert figure["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
        assert len(figure["data"]) >= 2
        assert "Time to first token" in bundle["text/html"]
        assert bundle["text/plain"] == repr(plot)
    assert [trace["y"] for trace in figure["data"]] == [[300.0, 30.0], [0.0, 0.9]]
    assert "30.0 ms" in repr(plot)


def test_the_comparison_figure_splits_the_ttft():
    figure = show.comparison_figure(comparison(row("full"), row("a", load_s=0.0, select_s=0.0)).to_dict())
    bars = {trace.name: list(trace.y) for trace in figure.data if trace.type == "bar"}
    assert bars["load"] == [100.0, 0.0]
    (spots,) = (trace for trace in figure.data if trace.type == "scatter")
    assert list(spots.text) == ["full<br>a", ""]  # both lie at the same place
    idle = show.comparison_figure(comparison(row("full", load_s=0.0)).to_dict())
    assert "load" not in [trace.name for trace in idle.data]
    assert [round(sum(ys), 6) for ys in zip(*bars.values(), strict=True)] == [300.0, 300.0]
    assert figure.layout.xaxis2.ticktext == ("0 %", "25 %", "50 %", "75 %", "100 %")
    assert figure.layout.yaxis2.ticktext[0] == "≤ 1e-06"


@pytest.mark.parametrize("count", [1, 3, 40])
def test_requests_are_counted_in_whole_numbers_and_hits_from_0_to_100(count):
    rows = [{"request": n, "strategy": "full", "ttft_s": 0.1, "hit_rate": 0.5} for n in range(1, count + 1)]
    layout = show.history_figure(rows).layout
    assert all(float(at).is_integer() for at in layout.xaxis.tickvals)
    assert (layout.yaxis2.ticktext[0], layout.yaxis2.ticktext[-1]) == ("0 %", "100 %")
    assert layout.yaxis.title.font.color != layout.yaxis2.title.font.color


def test_a_table_keeps_its_columns_apart():
    lines = show.table_text(("name", "n"), [("a", 1), ("longer", 22)]).splitlines()
    assert lines == ["name     n", "a        1", "longer  22"]


def test_the_package_that_shows_imports_neither_plotly_nor_torch():
    import subprocess
    import sys

    code = "import nbkv.show, sys; print([m for m in ('plotly', 'torch', 'IPython') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def unpacked(text):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def drawn(shown):
    return shown._repr_mimebundle_()[show.MIME]


def test_what_the_extension_draws_is_what_the_page_shows():
    shown = result([1, 1, 2, 2, 4, 0], chunks=(("notes", 2, 4),), notes=("float32 on cpu",))
    data = drawn(shown)
    assert json.loads(json.dumps(data)) == data
    assert (data["map"]["totals"], data["map"]["chunks"]) == ("P2 C2 R1 F1", "notes")
    told = unpacked(data["map"]["text"])
    assert (told["sources"], told["chunks"]) == ("P2C2RF", [[2, 4, "notes"]])
    assert told["pieces"] == list(shown.prompt_pieces)
    summary = show.result_summary(result([1, 1, 2, 2, 4, 0]).to_dict()).split(" · ")
    assert [data["strategy"], data["honesty"], *data["figures"]] == summary
    assert data["notes"] == ["float32 on cpu"]


def test_columns_say_what_is_dropped_and_deviates():
    deviation = np.array([np.nan, 0.5, np.nan], np.float32)
    data = drawn(result([1, 2, 2], kept=np.array([True, True, False]), deviation=deviation))["map"]
    told = unpacked(data["text"])
    assert (told["sources"], told["deviation"], told["dropped"]) == ("PCC", ["", "0.5", ""], [[2, 3]])
    assert data["totals"] == "P1 C2 D1"


@pytest.mark.parametrize("n", [3, 800, 9_000, 40_000])
def test_columns_name_the_source_of_every_token_of_any_prompt(n):
    provenance = np.random.default_rng(n).integers(0, 5, n)
    told = unpacked(drawn(result(provenance))["map"]["text"])
    letters = "".join(letter * int(length or 1) for letter, length in re.findall(r"([A-Z])(\d*)", told["sources"]))
    assert letters == "".join("FPCAR"[source] for source in provenance)
    shown = [at for start, stop in told["shown"] for at in range(start, stop)]
    assert told["pieces"] == [f"w{at} " for at in shown]
    assert (len(shown) == n) == (n <= 4_000)


@pytest.mark.parametrize(("n", "most"), [(50, 600), (600, 1_200), (3_000, 3_000)])
def test_what_the_panel_is_told_of_a_prompt_is_small(n, most):
    scattered = np.random.default_rng(n).choice([1, 2, 2, 2, 4], n)
    assert len(json.dumps(outline(result(scattered, chunks=(("contract", 3, n // 2),)).to_dict()))) < most


def test_a_comparison_draws_a_map_for_each_strategy():
    full, other = result([0, 0, 0], strategy="full"), result([1, 1, 0])
    rows = tuple(
        {
            "strategy": each.strategy, "ttft_s": 0.03, "load_s": 0.0, "select_s": 0.0, "prefill_s": 0.02,
            "speedup": 1.0, "hit_rate": each.hit_rate, "compute_share": each.compute.share, "kl": 0.0, "top1": 1.0,
            "same_text": True, "text": each.text, "notes": "",
        }
        for each in (full, other)
    )  # fmt: skip
    data = drawn(Comparison(model="tiny", prompt_tokens=3, repeat=1, rows=rows, results=(full, other)))
    assert [row["map"]["totals"] for row in data["rows"]] == ["F3", "P2 F1"]
    assert [row["honesty"] for row in data["rows"]] == ["exact", "exact"]
    assert len(data["columns"]) == len(data["rows"][0]["cells"])
    assert "text" not in data["rows"][0]["map"]
