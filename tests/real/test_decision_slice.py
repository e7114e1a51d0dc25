"""A few decisions of a real model: what holds whatever method is better; skipped where model or data are not."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch

import nbkv
from nbkv.errors import LoadError
from nbkv.session.reranking.layout import ANSWER, NEUTRAL, ranking_prompt
from nbkv.studies.decisions.option_odds import decisions
from nbkv.studies.decisions.table import DATA, NAIVE, moved, paragraphs
from nbkv.tasks import tool_choice

pytestmark = pytest.mark.xdist_group("decisions")  # one worker loads the model
FOLDER = Path(os.environ.get("NBKV_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(scope="module")
def session():
    try:
        opened = nbkv.load("smollm2", strategy="full")
    except LoadError as error:
        pytest.skip(f"no smollm2 here: {error}")
    with opened:
        yield opened


def test_the_whole_budget_decides_as_full_and_naive_reuse_moves_the_odds(session):
    far = []
    for item in tool_choice(n=3, options=3):
        made = decisions(session, item, [("none", NAIVE), ("none", "epic(budget=1.0)")])
        full = made["full"]
        assert made["none epic(budget=1.0)"].odds == pytest.approx(full.odds, abs=1e-2)
        assert moved(made["none epic(budget=1.0)"], full) < 1e-3
        far.append(moved(made[f"none {NAIVE}"], full))
    assert max(far) > 0.01


def test_real_paragraphs_score_as_in_a_plain_two_pass_reference(session):
    if not (FOLDER / DATA).is_file():
        pytest.skip(f"no {DATA} in $NBKV_DATA, nor in shared/data beside the repository")
    (item,) = paragraphs(FOLDER / DATA, 1)
    texts = item.chunks[:2]
    ranking = session.rerank(item.name, texts)
    model = copy.deepcopy(session.adapter.model)
    model.set_attn_implementation("eager")
    ctx, chunks = session._open().for_request(), [session.chunk(text, sink="none") for text in texts]

    def attended(query):
        prompt = ranking_prompt(chunks, query, ANSWER, ctx)
        with torch.no_grad():
            given = model(torch.tensor([prompt.ids]), output_attentions=True, use_cache=False).attentions
        rows = torch.stack([layer[0][:, prompt.context :, : prompt.context].mean(1).sum(0) for layer in given])
        return rows.sum(0).double(), prompt.spans

    (found, spans), (bias, _) = attended(item.name), attended(NEUTRAL)
    scores = []
    for span in spans:
        own = found[span.start : span.stop] - bias[span.start : span.stop]
        scores.append(float((own * (own >= own.mean() - 2 * own.std())).sum()))
    assert ranking.scores == pytest.approx(scores, abs=1e-4)
