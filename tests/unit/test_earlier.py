"""Runs of earlier prompts: found where they stand now, moved, blended; what stands before the change is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbkv.context import Request
from nbkv.errors import BadOption
from nbkv.families.blend.earlier import EarlierPrompt, remembered
from nbkv.kv import KV, Space
from nbkv.prompts.earlier import SHORTEST, chosen_runs, in_sequence
from nbkv.prompts.matching import Match
from nbkv.result import Chunk, Provenance
from nbkv.strategy import parse

SPECS = ["epic(first_k=0)", "cacheblend(budget=0.2)", "passage(budget=0.1)"]
WHOLE = Space("model", "float32", lineage="approx:some")


def rows(result, *kinds):
    return np.flatnonzero(np.isin(result.provenance, kinds)).tolist()


def prefilled(session, prompt, spec, *, match="earlier"):
    ctx = session._ctx.for_request()
    request = Request(session._prompt(prompt, match), 4, keep=False)
    return parse(spec).prefill(request, ctx)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("change", ["edited", "inserted", "removed"])
def test_what_stands_behind_a_change_is_not_computed_again(session_of, words, spec, change):
    session = session_of(strategy=spec)
    head, odd, rest = words(20, seed=1), words(9, seed=2), words(60, seed=3)
    before = session.generate(head + odd + rest + words(3, seed=4), max_new_tokens=2, strategy="prefix")
    now = {"edited": words(7, seed=5), "inserted": odd + words(8, seed=5), "removed": ""}[change]
    prompt = head + now + rest + words(4, seed=6)
    result = session.generate(prompt, match="earlier", max_new_tokens=2)

    start = len(result.prompt_ids) - 64
    assert result.prompt_ids[start : start + 60] == before.prompt_ids[30:90]
    assert set(result.provenance[:21].tolist()) == {Provenance.PREFIX}
    moved = result.provenance[start : start + 60]
    assert set(moved.tolist()) <= {Provenance.CHUNK, Provenance.RECOMPUTED}
    assert (moved == Provenance.RECOMPUTED).sum() <= 12
    assert result.lineage.startswith("approx:")
    assert ("request 1", start, start + 60) in [(name, a, max(b, start + 60)) for name, a, b in result.chunks]


@pytest.mark.parametrize("shift", [-5, 3, 11])
def test_what_is_moved_is_what_was_computed_there(session_of, words, shift):
    session, rest = session_of(), words(40, seed=3)
    session.generate(words(10, seed=1) + rest + words(2, seed=4), max_new_tokens=1, strategy="prefix")
    ctx = session._ctx.for_request()
    (path,) = [ids for _, ids in session.store.paths()]
    was = session.store.copied(ctx.space(), path, 11)
    made = prefilled(session, words(10 + shift, seed=9) + rest + words(3, seed=6), "epic(first_k=0)")
    at = torch.arange(40)
    moved = session.adapter.rope.move(was[:40], at + 11, at + 11 + shift)
    held = made.cache.read(11 + shift, 51 + shift)

    for layer in range(session.adapter.n_layers):
        assert torch.equal(held.keys[layer], moved.keys[layer])
        assert torch.equal(held.values[layer], was.values[layer][:, :40])


@pytest.mark.parametrize("spec", SPECS)
def test_the_unchanged_beginning_is_as_full_has_it(session_of, words, spec):
    session, head, rest = session_of(), words(30, seed=1), words(40, seed=2)
    session.generate(head + words(5, seed=3) + rest, max_new_tokens=1, strategy="prefix")
    prompt = head + words(6, seed=4) + rest + words(3, seed=5)
    blended, full = prefilled(session, prompt, spec), prefilled(session, prompt, "full")
    mine, its = blended.cache.read(0, 31), full.cache.read(0, 31)

    for layer in range(session.adapter.n_layers):
        assert torch.allclose(mine.keys[layer], its.keys[layer], atol=1e-5)
        assert torch.allclose(mine.values[layer], its.values[layer], atol=1e-5)
    whole = parse(spec).at_full_budget()
    assert torch.allclose(prefilled(session, prompt, whole).logits, full.logits, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_where_nothing_is_to_be_moved_a_request_is_exact_and_kept(session_of, words, spec):
    session, text = session_of(strategy=spec), words(40, seed=1)
    first = session.generate(text, match="earlier", max_new_tokens=3)
    longer = session.generate(text + words(20, seed=2), match="earlier", max_new_tokens=3)

    assert (first.lineage, longer.lineage) == ("exact", "exact")
    assert rows(longer, Provenance.PREFIX) == list(range(41))
    assert session.generate(text, strategy="prefix", max_new_tokens=1).tokens.reused == 40
    assert not session._ctx.scratch.get(parse(spec).name)


@pytest.mark.parametrize("spec", SPECS)
def test_what_was_blended_is_found_by_its_own_strategy_and_session_only(session_of, words, spec):
    session = session_of(strategy=spec)
    rest, tail = words(40, seed=1), words(30, seed=2)
    session.generate(words(5, seed=3) + rest, max_new_tokens=1, strategy="prefix")
    blended = session.generate(words(9, seed=4) + rest + tail, match="earlier", max_new_tokens=1)
    again = words(12, seed=5) + rest + tail + words(2, seed=6)
    mine = session.generate(again, match="earlier", max_new_tokens=1, keep=False)
    other = "epic(first_k=1)" if spec != SPECS[0] else "cacheblend(budget=0)"
    its = session.generate(again, match="earlier", max_new_tokens=1, strategy=other, keep=False)

    assert blended.lineage.startswith("approx:")
    assert mine.tokens.reused + mine.tokens.recomputed >= 70  # the tail had been computed behind moved K/V
    assert its.tokens.reused + its.tokens.recomputed <= 43
    assert session.generate(again, strategy="prefix", max_new_tokens=1, match="earlier").tokens.reused <= 1


def test_an_exact_strategy_reuses_the_beginning_alone(session_of, words):
    session, head, rest = session_of(strategy="prefix"), words(20, seed=1), words(40, seed=2)
    session.generate(head + words(5, seed=3) + rest, max_new_tokens=1)
    result = session.generate(head + words(6, seed=7) + rest, match="earlier", max_new_tokens=1)

    assert result.tokens.reused == 21
    assert result.lineage == "exact"
    assert not result.chunks


def test_runs_that_have_left_the_store_are_computed(session_of, words):
    session, rest = session_of(strategy="epic(first_k=0)"), words(40, seed=2)
    session.generate(words(5, seed=3) + rest, max_new_tokens=1, match="earlier")
    session.store.clear()
    result = session.generate(words(9, seed=4) + rest, max_new_tokens=1, match="earlier")

    assert (result.tokens.reused, result.lineage) == (0, "exact")


def test_chunks_are_looked_for_only_where_they_are_asked_for(session_of, words):
    session, text = session_of(strategy="epic"), words(40, seed=2)
    session.chunk(text, name="doc")
    without = session.generate(words(3) + text + words(2), match="earlier", max_new_tokens=1)
    with_it = session.generate(words(4) + text + words(2), match="auto", max_new_tokens=1)

    assert not without.chunks
    assert [name for name, _, _ in with_it.chunks] == ["doc"]


@pytest.mark.parametrize("match", ["later", True, ""])
def test_only_known_values(session_of, words, match):
    with pytest.raises(BadOption, match="'earlier'"):
        session_of().generate(words(5), match=match)


def test_auto_counts_what_would_be_moved(session_of, words, monkeypatch):
    from nbkv.families.routing import cost_model
    from nbkv.families.routing.cost_model import CostModel

    costs = CostModel(overhead=1e-3, row=1e-3, pair=0.0, move=1e-7, copy=1e-7)
    monkeypatch.setattr(cost_model, "measure", lambda adapter: costs)
    monkeypatch.setattr("nbkv.strategies.auto.learn_pace", lambda *_: None)
    monkeypatch.setattr("nbkv.inference.run.learn", lambda *_: None)
    session, rest, tail = session_of(strategy="auto"), words(80, seed=1), words(25, seed=2)
    first = session.generate(words(5, seed=3) + rest, max_new_tokens=1, match="earlier")
    moved = session.generate(words(9, seed=4) + rest + tail, max_new_tokens=1, match="earlier")
    again = session.generate(words(12, seed=5) + rest + tail, max_new_tokens=1, match="earlier")

    assert first.lineage == "exact"
    assert moved.lineage == again.lineage != "exact"
    assert again.tokens.reused + again.tokens.recomputed >= 103


def test_the_distance_is_that_of_the_request_not_of_what_it_left(session_of, words):
    session, rest = session_of(strategy="epic(first_k=0)"), words(40, seed=2)
    session.generate(words(5, seed=3) + rest, max_new_tokens=1, match="earlier")
    prompt = words(9, seed=4) + rest + words(30, seed=6)
    (_, compared) = session.compare(prompt, ["epic(first_k=0)"], repeat=1, match="earlier", max_new_tokens=4).rows
    result = session.generate(prompt, match="earlier", max_new_tokens=4, fidelity=True)

    assert result.fidelity.kl == pytest.approx(compared["kl"], rel=1e-3)
    assert result.fidelity.kl > 1e-9


# what a strategy keeps


def earlier(ids, turn=1, space=WHOLE):
    layer = torch.arange(len(ids), dtype=torch.float32)[None, :, None].expand(1, len(ids), 2)
    return EarlierPrompt.of(ids, KV((layer,), (layer,)), space, turn)


def test_what_two_prompts_begin_with_is_kept_once():
    one = earlier(list(range(50)))
    left, new = remembered([one], earlier([*range(30), *range(100, 140)], turn=2), 10**9)

    assert (left.base, left.own.tolist()) == (30, list(range(30, 50)))
    assert torch.equal(left.kv.keys[0], one.kv.keys[0][:, 30:])
    run = left.run(Match(7, 0, 2, 10))
    assert (run.base, run.kv.keys[0][0, 0, 0].item()) == (32, 32)
    assert len(new.own) == 70
    assert left.marks.tolist() == one.marks[30:].tolist()


@pytest.mark.parametrize("own", [0, 5, SHORTEST - 1])
def test_of_a_prompt_that_is_only_continued_nothing_stays(own):
    first = earlier([*range(40), *range(500, 500 + own)])
    (left,) = remembered([first], earlier(range(60), turn=2), 10**9)
    assert left.turn == 2


def test_the_oldest_go_first_and_other_spaces_stay_whole():
    other = Space("another", "float32", lineage="approx:some")
    three = [earlier(range(at, at + 20), turn) for turn, at in ((1, 0), (2, 100))]
    three = [earlier(range(20), 0, other), *three]
    size = three[0].nbytes
    kept = remembered(three, earlier(range(200, 220), 3), 3 * size)

    assert [one.turn for one in kept] == [1, 2, 3]
    assert len(remembered(three, earlier(range(40), 3), 10**9)[0].own) == 20
    assert remembered(three, earlier(range(20), 3), size - 1) == ()


# which runs


def chunk(n, lineage):
    return Chunk(name="c", text="", token_ids=tuple(range(n)), sink=(), model="m", lineage=lineage)


@pytest.mark.parametrize(
    ("lineage", "span", "stays"),
    [
        ("canonical", (30, 50), True),  # a chunk is taken as it was made, whatever run it lies in
        ("exact", (30, 50), False),  # an answer within a run is the run
        ("exact", (70, 95), True),  # but not where a run has only a part of it
        ("approx:some", (70, 95), False),
        ("approx:some", (95, 99), True),
    ],
)
def test_which_chunks_give_way_to_runs(lineage, span, stays):
    given = (chunk(span[1] - span[0], lineage), *span)
    runs, left = chosen_runs([Match(20, 0, 0, 60)], [given], 0, 100)
    covered = np.zeros(100, dtype=int)
    for run in runs:
        covered[run.at : run.at + run.length] += 1
    for _, start, stop in left:
        covered[start:stop] += 1

    assert left == ([given] if stays else [])
    assert covered.max() == 1
    assert covered[20:80].all() or stays


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ([], []),
        ([(0, 0, 0, 20), (40, 0, 60, 30), (70, 0, 90, 20)], [0, 1, 2]),
        ([(0, 0, 0, 40), (50, 0, 60, 30), (80, 0, 10, 20)], [0, 1]),  # a question that was asked before
        ([(0, 0, 0, 40), (80, 1, 10, 20)], [0, 1]),  # in another sequence
        ([(0, 0, 50, 30), (30, 0, 10, 20), (50, 0, 80, 20)], [0, 2]),
        ([(0, 0, 50, 20), (30, 0, 10, 40)], [1]),
        ([(0, 0, 0, 30), (25, 0, 45, 30)], [0, 1]),  # they share some tokens
        ([(0, 0, 0, 60), (10, 0, 0, 50), (0, 0, 10, 50)], [0]),  # repetitive text
    ],
)
def test_runs_of_one_sequence_stand_in_its_order(given, left):
    matches = [Match(*each) for each in given]

    assert in_sequence(matches) == sorted(matches[at] for at in left)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("question", [17, 25, 40])
def test_a_question_that_was_asked_in_front_is_computed_behind(session_of, words, spec, question):
    session = session_of(strategy=spec)
    head, ask, odd, rest = words(20, seed=1), words(question, seed=8), words(9, seed=2), words(60, seed=3)
    session.generate(head + ask + odd + rest + words(3, seed=4), max_new_tokens=2, strategy="prefix")
    result = session.generate(head + ask + rest + words(2, seed=6) + ask, match="earlier", max_new_tokens=1)
    asked = result.provenance[-question:]

    assert Provenance.CHUNK in result.provenance
    assert set(asked.tolist()) == {Provenance.FRESH}


@pytest.mark.parametrize("prefix", [0, 10, 25, 70])
def test_what_a_prompt_begins_with_needs_no_run(prefix):
    runs, _ = chosen_runs([Match(0, 0, 0, 80)], [], prefix, 100)
    assert [(run.at, run.at + run.length) for run in runs] == ([(prefix, 80)] if 80 - prefix >= SHORTEST else [])


def test_the_cure_that_a_miss_names_is_one(session_of, words, monkeypatch):
    from nbkv.families.routing import cost_model
    from nbkv.families.routing.cost_model import CostModel
    from nbkv.session.misses import past

    costs = CostModel(overhead=1e-3, row=1e-3, pair=0.0, move=1e-7, copy=1e-7)
    monkeypatch.setattr(cost_model, "measure", lambda adapter: costs)
    monkeypatch.setattr("nbkv.session.misses.journal.past", past.Past())
    session, head, rest = session_of(strategy="prefix"), words(20, seed=1), words(60, seed=2)
    session.generate(head + words(5, seed=3) + rest, max_new_tokens=1)
    prompt = head + words(6, seed=7) + rest
    (edited,) = session.generate(prompt, max_new_tokens=1, keep=False).why.of("edited")
    cured = session.generate(prompt, max_new_tokens=1, match="earlier", strategy="epic(first_k=0)")

    assert 'match="earlier"' in edited.fix
    assert edited.saves == 59
    assert (cured.provenance[edited.start : edited.stop] == Provenance.CHUNK).sum() == edited.saves
