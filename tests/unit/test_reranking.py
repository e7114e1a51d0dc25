"""Re-ranking by attention: the scores of a plain two-pass reference, and what a query on known documents costs."""

from __future__ import annotations

import copy
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nbkv
from nbkv import show
from nbkv.errors import BadOption, BadPrompt, NbkvError, UnsupportedModel
from nbkv.events import Layer, Ranked, Reused
from nbkv.kv import Span
from nbkv.models.attention import weights
from nbkv.session.reranking.attention import query_attention
from nbkv.session.reranking.calibration import document_scores, remembered, token_scores
from nbkv.session.reranking.layout import ANSWER, NEUTRAL, ranking_prompt
from nbkv.session.reranking.ranking import RankFidelity
from nbkv.session.reranking.rerank import chosen_layers, read_documents

# grouped heads, biases, normed queries, windows, softcaps, K/V shared between layers, layers without positions
SERVED = ["llama", "qwen2", "qwen3", "gemma2", "gemma3n", "mistral", "cohere2"]
QUERY = "w5 w99 w7"


@pytest.fixture
def documents(words):
    return [words(n, seed=n) for n in (23, 17, 31, 1)]


def attended(model, prompt, layers):
    """Return by plain transformers what the tokens behind the documents attend to, eager, of all layers at once."""
    ids = torch.tensor([prompt.ids])
    with torch.no_grad():
        given = model(ids, output_attentions=True, use_cache=False).attentions
    rows = [given[at][0][:, prompt.context :, : prompt.context].mean(1).sum(0) for at in layers]
    return torch.stack(rows).sum(0).double().numpy()


def reference(session, documents, layers, query=QUERY):
    """Return the scores of a plain two-pass reference."""
    model = copy.deepcopy(session.adapter.model)
    model.set_attn_implementation("eager")
    ctx = session._open().for_request()
    chunks = [each if not isinstance(each, str) else session.chunk(each) for each in documents]
    asked, neutral = (ranking_prompt(chunks, text, ANSWER, ctx) for text in (query, NEUTRAL))
    found, bias = attended(model, asked, layers), attended(model, neutral, layers)
    scores = []
    for span in asked.spans:
        own = torch.tensor(found[span.start : span.stop] - bias[span.start : span.stop])
        kept = own >= own.mean() - 2 * own.std() if len(own) > 1 else torch.ones(1, dtype=torch.bool)
        scores.append(float((own * kept).sum()))
    return scores


@pytest.mark.parametrize("family", SERVED)
def test_scores_are_those_of_a_plain_two_pass_reference(session_of, family, documents):
    session = session_of(family)
    ranking = session.rerank(QUERY, documents)

    expected = reference(session, documents, range(4))
    assert ranking.scores == pytest.approx(expected, abs=1e-4)
    assert max(map(abs, expected)) > 1e-2
    assert list(ranking.order) == sorted(range(4), key=lambda at: -expected[at])


@pytest.mark.parametrize("layers", ["middle", (0, 1), (2, 4)])
def test_layers_that_count_are_the_only_ones(session_of, documents, layers):
    session = session_of()
    ranking = session.rerank(QUERY, documents, layers=layers)

    assert ranking.scores == pytest.approx(reference(session, documents, chosen_layers(layers, 4)), abs=1e-4)
    assert ranking.scores != pytest.approx(session.rerank(QUERY, documents).scores, abs=1e-3)


def test_layers_behind_the_last_that_counts_do_not_run(session_of, documents):
    session = session_of()
    session.rerank(QUERY, documents, layers=(0, 2))
    again = session.rerank(QUERY, documents, layers=(0, 2))

    fresh = again.tokens.fresh
    assert again.compute.rows * again.tokens.prompt * 4 == pytest.approx(fresh * 2)


def test_documents_run_once_and_a_second_query_runs_its_own_tokens_only(session_of, documents):
    session, heard = session_of(), []
    session.events.add(heard.append)
    first = session.rerank(QUERY, documents)
    heard.clear()
    second = session.rerank("w1 w2 w3 w4", documents)

    assert first.tokens.reused == 0
    assert first.compute.rows == pytest.approx(1.0)
    assert 0 < first.compute.select < 0.5  # the calibration
    context = second.tokens.reused
    assert context == second.tokens.prompt - second.tokens.fresh > sum(map(len, second.pieces))
    assert second.compute.select == 0
    assert second.compute.share == pytest.approx(second.tokens.fresh / second.tokens.prompt)
    assert {event.rows for event in heard if isinstance(event, Layer)} == {second.tokens.fresh}
    assert [(e.start, e.stop) for e in heard if isinstance(e, Reused)] == [(0, context)]
    told = [event for event in heard if isinstance(event, Ranked)]
    assert [(event.documents, event.best, event.reused) for event in told] == [(4, second.order[0], context)]


def test_a_known_calibration_gives_the_scores_of_a_new_one(session_of, documents):
    session = session_of()
    session.rerank("w1", documents)
    known = session.rerank(QUERY, documents)
    session.store.clear()

    anew = session.rerank(QUERY, documents)
    assert anew.compute.select > 0
    assert known.scores == pytest.approx(anew.scores, abs=1e-5)


def test_a_request_over_the_ranking_prompt_reuses_its_documents(session_of, documents):
    session = session_of()
    ranking = session.rerank(QUERY, documents)
    result = session.generate(ranking.prompt, strategy="prefix", max_new_tokens=2)

    assert result.tokens.reused == session.rerank(QUERY, documents).tokens.reused > sum(map(len, ranking.pieces))


def test_the_best_chunks_are_reused_by_the_answer(session_of, documents):
    session = session_of()
    chunks = [session.chunk(text, name=f"d{at}") for at, text in enumerate(documents)]
    ranking = session.rerank(QUERY, chunks)
    best = ranking.top(2)
    result = session.generate([*best, QUERY], strategy="epic", max_new_tokens=2)

    assert [chunk.name for chunk in best] == [f"d{at}" for at in ranking.order[:2]]
    assert result.tokens.reused + result.tokens.recomputed >= sum(map(len, best))
    assert result.tokens.reused > 0


@pytest.mark.parametrize("strategy", ["epic(budget=0)", "cacheblend(budget=0.3)", "prophet(budget=0.3)"])
def test_reused_chunks_are_approximate_and_exact_at_their_full_budget(session_of, documents, strategy):
    session = session_of()
    chunks = [session.chunk(text) for text in documents]
    near = session.rerank(QUERY, chunks, strategy=strategy, fidelity=True)
    name = strategy.partition("(")[0]
    whole = session.rerank(QUERY, chunks, strategy=f"{name}(budget=1)", fidelity=True)

    assert near.fidelity.gap > 1e-3
    assert any("approximate" in note for note in near.notes)
    assert near.tokens.reused > 0
    assert whole.fidelity.gap < 1e-3
    assert whole.fidelity.top1
    assert whole.fidelity.tau == 1


def test_text_is_encoded_where_chunks_are_reused(session_of, documents):
    ranking = session_of().rerank(QUERY, documents, strategy="epic(budget=0)")

    assert ranking.tokens.reused + ranking.tokens.recomputed >= sum(map(len, ranking.pieces))
    assert ranking.top(4) == [documents[at] for at in ranking.order]


def test_full_keeps_nothing_and_prefix_is_no_distance_away(session_of, documents):
    session = session_of()
    before = session.store.tiers["tokens"].sum()
    full = session.rerank(QUERY, documents, strategy="full")
    assert session.store.tiers["tokens"].sum() == before

    exact = session.rerank(QUERY, documents, fidelity=True)
    assert full.scores == pytest.approx(exact.scores, abs=1e-5)
    assert exact.fidelity == RankFidelity(tau=1.0, top1=True, gap=pytest.approx(0, abs=1e-5))


def test_a_store_too_small_for_the_documents_gives_the_same_scores(session_of, documents):
    session = session_of()
    expected = session.rerank(QUERY, documents).scores
    session.use_store(f"memory?device={40 * session.adapter.token_bytes}B")

    ranking = session.rerank(QUERY, documents)
    assert ranking.scores == pytest.approx(expected, abs=1e-5)
    assert ranking.compute.rows == pytest.approx(1.0)


def test_documents_behind_a_shared_branch_are_read_from_it(session_of, documents):
    session = session_of()
    session.rerank(QUERY, documents)
    ranking = session.rerank(QUERY, [*documents[:2], documents[0]], fidelity=True)

    assert 0 < ranking.tokens.reused < ranking.tokens.prompt - 20
    assert ranking.fidelity.gap < 1e-4


def test_narrow_windows_are_told(session_of, documents):
    assert any("see the last 8 tokens" in note for note in session_of("mistral").rerank(QUERY, documents).notes)
    assert not any("tokens only" in note for note in session_of("llama").rerank(QUERY, documents).notes)


def test_weights_of_a_layer_are_reduced_strip_by_strip(session_of, documents, monkeypatch):
    shapes = []
    whole = weights._weights

    def watched(seen, keys, mask, rows):
        found = whole(seen, keys, mask, rows)
        shapes.append(found.shape)
        return found

    session = session_of()
    expected = session.rerank(QUERY, documents).scores
    monkeypatch.setattr(weights, "_weights", watched)
    monkeypatch.setattr(weights, "_fitting", lambda seen: 2)
    session.store.clear()
    assert session.rerank(QUERY, documents).scores == pytest.approx(expected, abs=1e-5)
    assert {shape[1] for shape in shapes} <= {1, 2}


def test_the_cache_is_left_as_it_was(session_of, documents):
    session = session_of()
    adapter = session.adapter
    ids = tuple(range(2, 40))
    cache = adapter.growing()
    adapter.prefill(ids[:30], cache)
    before = cache.read(0, 30).compact()
    found = query_attention(adapter, ids, cache, range(4), session._open().work())

    assert cache.length == 30
    assert all(torch.equal(a, b) for a, b in zip(before.keys, cache.read(0, 30).keys, strict=True))
    assert found.sum() < 4 * 4  # what rows give each other is not the documents'
    assert (found >= 0).all()


def test_a_stop_leaves_a_session_that_ranks_as_before(session_of, documents):
    session = session_of()
    expected = session.rerank(QUERY, documents).scores
    session.store.clear()

    def stop(event):
        if isinstance(event, Layer) and event.index == 2:
            session.stop()

    session.events.add(stop)
    with pytest.raises(NbkvError, match="stopped before it was done"):
        session.rerank(QUERY, documents)
    session.events.drop(stop)
    assert session.rerank(QUERY, documents).scores == pytest.approx(expected, abs=1e-5)


def test_an_answer_is_a_document_as_well(session_of, documents):
    session = session_of()
    answer = session.generate(documents[0], max_new_tokens=5)
    ranking = session.rerank(QUERY, [answer, documents[1]])

    assert len(ranking.pieces[0]) == len(answer.chunk("answer"))
    assert set(map(id, ranking.top(2))) == {id(answer), id(documents[1])}


# from attention to scores


def test_tokens_far_below_their_document_are_dropped():
    query, neutral = np.ones(12), np.zeros(12)
    neutral[3] = 9.0
    assert np.isnan(token_scores(query, neutral, Span(0, 10))).tolist() == [at == 3 for at in range(10)]
    assert not np.isnan(token_scores(query, None, Span(0, 10))).any()
    assert document_scores([token_scores(query, neutral, Span(0, 10))]) == (9.0,)


def test_a_document_of_one_token_and_one_of_equal_tokens_keep_all():
    query, neutral = np.array([3.0, 1.0, 1.0]), np.zeros(3)
    assert token_scores(query, neutral, Span(0, 1)).tolist() == [3.0]
    assert token_scores(query, neutral, Span(1, 3)).tolist() == [1.0, 1.0]


def test_calibrations_are_remembered_up_to_a_bound():
    scratch, made = {}, []

    def measure(at):
        made.append(at)
        return np.array([float(at)])

    for at in (*range(70), 69, 0):
        remembered(scratch, at, lambda at=at: measure(at))
    assert made == [*range(70), 0]
    assert len(scratch["rerank"]) == 64


def test_without_calibration_attention_alone_counts(session_of, documents):
    session = session_of()
    plain = session.rerank(QUERY, documents, calibrate=False)
    assert plain.compute.select == 0
    assert min(plain.scores) > 0
    assert plain.scores != pytest.approx(session.rerank(QUERY, documents).scores)


def test_rankings_are_compared_by_pairs():
    full = [3.0, 2.0, 1.0]
    assert RankFidelity.between(full, full) == RankFidelity(tau=1.0, top1=True, gap=0.0)
    assert RankFidelity.between([1.0, 2.0, 3.0], full).tau == -1
    assert RankFidelity.between([3.0, 1.0, 2.0], full).tau == pytest.approx(1 / 3)
    assert RankFidelity.between([5.0], [1.0]).top1


# the result


def test_a_ranking_is_a_table_best_first(session_of, documents):
    session = session_of()
    chunks = [session.chunk(text, name=f"d{at}") for at, text in enumerate(documents)]
    ranking = session.rerank(QUERY, chunks)
    frame = ranking.to_frame()

    assert frame["score"].is_monotonic_decreasing
    assert frame["place"].tolist() == list(ranking.order)
    assert frame["document"].tolist() == [f"d{at}" for at in ranking.order]
    assert len(ranking) == 4
    assert sum(frame["tokens"]) == sum(map(len, chunks))
    assert frame["dropped"].sum() == sum(int(np.isnan(each).sum()) for each in ranking.token_scores)


@pytest.fixture
def drawn():
    """Return what a view is made of: two documents, one of them with a hostile name and a token that was dropped."""
    first = {"rank": 1, "place": 1, "document": "<b>lease</b>", "score": 2.0, "tokens": 2, "dropped": 1}
    second = {"rank": 2, "place": 0, "document": "photo", "score": -1.0, "tokens": 1, "dropped": 0}
    rows = [first | {"text": "rent\n is"}, second | {"text": "house"}]
    return {
        "query": "What is the rent?",
        "model": "m",
        "strategy": "prefix",
        "layers": [0, 4],
        "tokens": {"prompt": 10, "reused": 6, "recomputed": 0, "fresh": 4},
        "compute": {"share": 0.4, "select": 0.1, "rows": 0.3, "decode": 0.0},
        "seconds": 0.5,
        "fidelity": None,
        "notes": ["float32 on cpu"],
        "rows": rows,
        "marked": {1: [("rent", 2.0), (" is", None)], 0: [("house", 0.5)]},
    }


def test_a_ranking_reads_as_text(drawn):
    text = show.ranking_text(drawn)
    assert "What is the rent? → <b>lease</b> is first of 2 documents" in text
    assert "6 of 10 tokens reused, computed 40 % of prompt x layers (10 % to calibrate and select)" in text
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["1", "2"]
    assert "against full" not in text
    far = {"tau": 0.5, "top1": False, "gap": 0.25}
    assert "ANOTHER best document, Kendall's tau 0.50" in show.ranking_text(drawn | {"fidelity": far})


def test_a_ranking_is_drawn_with_its_tokens_on_one_scale(drawn):
    page = show.ranking_html(drawn)
    assert "&lt;b&gt;lease" in page
    assert "<b>lease" not in page
    assert "<script" not in page
    assert '<s title="dropped: an outlier"> is</s>' in page
    strong, weak = (float(each) for each in re.findall(r"rgba\(230,159,0,([\d.]+)\)", page))
    assert strong == pytest.approx(4 * weak, abs=0.02)
    widths = [float(each) for each in re.findall(r"width:([\d.]+)px;height", page)]
    assert widths == [120.0, 60.0]


def test_many_documents_are_told_of(drawn):
    many = [drawn["rows"][0] | {"rank": at, "place": at - 1, "document": f"d{at}"} for at in range(1, 31)]
    for shown in (show.ranking_text(drawn | {"rows": many}), show.ranking_html(drawn | {"rows": many})):
        assert "d20" in shown
        assert "d21" not in shown
        assert "… 10 more documents: to_frame() has all" in shown


def test_a_ranking_is_json(session_of, documents):
    ranking = session_of().rerank(QUERY, documents, fidelity=True)
    data = json.loads(json.dumps(ranking.to_dict()))

    assert data["order"] == list(ranking.order)
    assert data["fidelity"]["top1"] is True
    assert sum(stop - start for _, start, stop in data["provenance"]) == ranking.tokens.prompt
    assert "against full: the same best document" in repr(ranking)
    assert ranking._repr_html_().count("<tr>") == 5


# what is refused


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"query": ""}, BadPrompt, "query is empty"),
        ({"query": "  "}, BadPrompt, "query is empty"),
        ({"query": 5}, BadPrompt, "query is an int"),
        ({"chunks": []}, BadPrompt, "no documents"),
        ({"chunks": "one text"}, BadPrompt, "documents are a str"),
        ({"chunks": 7}, BadPrompt, "documents are an int"),
        ({"chunks": ["w1", ""]}, BadPrompt, "non-empty text"),
        ({"chunks": [b"w1"]}, BadPrompt, "non-empty text"),
        ({"chunks": [" w1" * 600]}, BadPrompt, "context"),
        ({"layers": "upper"}, BadOption, "'middle'"),
        ({"layers": (2, 2)}, BadOption, "(first, last)"),
        ({"layers": (0, 5)}, BadOption, "within 0 to 4"),
        ({"calibrate": 1}, BadOption, "calibrate"),
        ({"instruction": None}, BadOption, "instruction"),
        ({"fidelity": "yes"}, BadOption, "fidelity"),
        ({"strategy": "h2o"}, BadOption, "not ranked by h2o"),
        ({"strategy": "residual"}, BadOption, "not ranked by residual"),
        ({"strategy": "rerank"}, nbkv.UnknownName, "rerank"),
    ],
)
def test_what_cannot_be_ranked_is_said_in_a_line(session_of, options, error, said):
    given = {"query": "w1", "chunks": ["w2 w3"]} | options
    with pytest.raises(error) as caught:
        session_of().rerank(given.pop("query"), given.pop("chunks"), **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lacking", ["attention", "prefix", "causal", "per_token"])
def test_a_model_that_cannot_be_watched_is_refused_by_reason(session_of, lacking, monkeypatch):
    session = session_of()
    known = SimpleNamespace(prefix=True, attention=True, causal=True, per_token=True, n_layers=4)
    setattr(known, lacking, False)
    known.why_not = lambda need: f"no {need}"
    monkeypatch.setattr(session.adapter, "capabilities", known)
    with pytest.raises(UnsupportedModel, match=f"cannot serve.*no {lacking}"):
        session.rerank("w1", ["w2"], strategy="full")


def test_learned_positions_are_refused_by_reason(session_of):
    with pytest.raises(UnsupportedModel, match=r"rerank cannot serve .* learned positions"):
        session_of("gpt2").rerank("w1", ["w2"])


def test_what_is_given_as_documents_is_read_once():
    assert read_documents(iter(["a", "b"])) == ("a", "b")
