import re
from html import unescape
from itertools import pairwise

import numpy as np
import pytest

from nbkv.result import Provenance
from nbkv.show.excerpt import shown
from nbkv.show.tokenmap import legend_html, map_html, runs, told

TAGS = {"u": "PREFIX", "i": "CHUNK", "em": "CORRECTED", "b": "RECOMPUTED"}
LEFT_OUT = re.compile(r"\[… ([\d,]+) tokens? left out here: (.*?) …\]")
MEANING = {
    "reused as prefix": "PREFIX",
    "reused from a chunk": "CHUNK",
    "reused and adjusted": "CORRECTED",
    "recomputed": "RECOMPUTED",
    "fresh": "FRESH",
}


def result(provenance, chunks=(), dropped=(), word="w{} "):
    provenance = np.asarray(provenance)
    edges = [0, *(np.flatnonzero(np.diff(provenance)) + 1).tolist(), len(provenance)]
    return {
        "tokens": {"prompt": len(provenance)},
        "provenance": [
            {"source": Provenance(int(provenance[start])).name, "start": start, "stop": stop}
            for start, stop in pairwise(edges)
        ],
        "chunks": [{"name": name, "start": start, "stop": stop} for name, start, stop in chunks],
        "dropped": [list(span) for span in dropped],
        "prompt_pieces": [word.format(at) for at in range(len(provenance))],
    }


def drawn(given):
    """Return for each token of a long map its source or None, and the texts of gaps and labels."""
    html = map_html(given)
    body = html[html.index('<div class="nbkv-map"') :]
    found, source, texts = {}, "FRESH", []
    body = re.sub(r"<style>.*?</style>", "", body)
    for tag, text in re.findall(r"<(/?\w+)[^>]*>([^<]*)", body):
        if tag == "small":
            texts.append(unescape(text))
            continue
        source = TAGS.get(tag, "FRESH" if tag.startswith("/") else source)
        for number in re.findall(r"w(\d+) ", text):
            found[int(number)] = source
    return found, texts


def scattered(n, seed=0):
    return np.random.default_rng(seed).choice([1, 2, 2, 2, 3, 4, 0], n)


@pytest.mark.parametrize("n", [161, 300, 500])
def test_each_token_of_a_long_prompt_has_its_own_colour(n):
    provenance = scattered(n)
    found, texts = drawn(result(provenance))
    assert found == {at: Provenance(int(source)).name for at, source in enumerate(provenance)}
    assert not [text for text in texts if LEFT_OUT.search(text)]


@pytest.mark.parametrize(("n", "seed"), [(3_000, 0), (9_000, 1), (40_000, 2)])
def test_what_is_left_out_is_said_with_its_sources(n, seed):
    provenance = scattered(n, seed)
    found, texts = drawn(result(provenance))
    sources = [Provenance(int(source)).name for source in provenance]
    assert all(sources[at] == source for at, source in found.items())
    gaps = [LEFT_OUT.search(text) for text in texts]
    left = dict.fromkeys(MEANING.values(), 0)
    for gap in filter(None, gaps):
        for number, meaning in re.findall(r"([\d,]+) ([a-z ]+)", gap[2]):
            left[MEANING[meaning]] += int(number.replace(",", ""))
    for name, number in left.items():
        assert number == sources.count(name) - list(found.values()).count(name)


@pytest.mark.parametrize("n", [2_000, 9_000, 100_000])
def test_of_long_runs_the_middle_goes_and_both_ends_stay(n):
    provenance = np.full(n, 2)
    provenance[n // 2] = 4  # one recomputed token in a sea of reused ones
    found, texts = drawn(result(provenance, chunks=(("first", 0, n // 2), ("second", n // 2, n))))
    assert found[n // 2] == "RECOMPUTED"
    assert {0, n // 2 - 1, n // 2 + 1, n - 1} <= {*found}
    assert [LEFT_OUT.search(text)[2] for text in texts if "left out" in text] == ["all reused from a chunk"] * 2
    assert f"{n - len(found):,} of them left out" in map_html(result(provenance))


@pytest.mark.parametrize("share", [0, 0.1, 0.6])
@pytest.mark.parametrize("n", [40, 600, 3_000])
def test_labels_of_chunks_stay_however_their_tokens_are_scattered(n, share):
    rng = np.random.default_rng(n)
    provenance = np.where(rng.random(n) < share, 4, 2)
    third = n // 3
    html = map_html(result(provenance, chunks=(("one", 0, third), ("two", third, 2 * third))))
    labels = [label.removeprefix("C ").removeprefix("R ") for label in re.findall(r"<small>([^<]*) </small>", html)]
    gaps = re.findall(r"; in it begin ([^<]*) …\]", html)
    for name in ("one", "two"):
        assert name in labels or any(name in gap.split(", ") for gap in gaps)


@pytest.mark.parametrize("n", [100, 1_000])
def test_dropped_tokens_are_struck_through(n):
    given = result([2] * n, dropped=((10, 30), (50, 51)))
    html = map_html(given)
    struck = re.findall(r"<s>([^<]*)</s>", html) or re.findall(
        r"line-through[^>]*>(?:<small>.*?</small>)?(.*?)</span></span>", html
    )
    assert [len(re.findall(r"w\d+ ", part)) for part in struck] == [20, 1]
    assert "dropped by all layers and heads 21" in legend_html(given)
    assert told(given).endswith(f"{n} reused from a chunk, 21 dropped by all layers and heads".replace("1000", "1,000"))


@pytest.mark.parametrize("text", ["costs $1 ", "<b>&amp; ", "**bold** `code`\n", "\x00\u200b ", "語"])
@pytest.mark.parametrize("n", [20, 800])
def test_texts_stay_the_characters_they_are(text, n):
    given = result([2] * n, word=text.replace("{", "{{"))
    html = map_html(given)
    shown_text = unescape(re.sub(r"<small.*?</small>|<[^>]*>", "", re.sub(r"<(style|summary)>.*?</\1>", "", html)))
    piece = text.replace("\n", "↵\n").replace("\x00", "·").replace("\u200b", "·")
    assert piece in shown_text
    assert not shown_text.replace(piece, "").strip()


def test_runs_are_cut_where_chunk_source_or_dropping_change():
    given = result([1] * 5 + [2] * 20, chunks=(("a", 5, 15), ("b", 15, 25)), dropped=((12, 17),))
    assert [(run.start, run.stop, run.chunk, run.dropped) for run in runs(given)] == [
        (0, 5, "", False), (5, 12, "a", False), (12, 15, "a", True), (15, 17, "b", True), (17, 25, "b", False),
    ]  # fmt: skip


@pytest.mark.parametrize("most", [10, 1_000, 100_000])
def test_what_is_shown_fits_and_is_in_order(most):
    of = runs(result(scattered(2_000)))
    ranges = shown(of, [5] * 2_000, most, 7)
    assert sum(5 * (stop - start) for start, stop in ranges) <= most
    flat = [edge for span in ranges for edge in span]
    assert flat == sorted(flat)
    assert (ranges == [(0, 2_000)]) == (most == 100_000)
