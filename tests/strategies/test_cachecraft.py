"""What is Cache-Craft's own: the attention statistics of chunks, and the variant that is chosen."""

from __future__ import annotations

import pytest
import torch

from nbkv.context import Request
from nbkv.errors import BadOption
from nbkv.result import Provenance
from nbkv.strategy import parse


def variants(session):
    return session._ctx.scratch.get("cachecraft", ())


def note(result):
    return next(each for each in result.notes if each.startswith("CFO by chunk: "))


# what tiers are told


def test_a_chunk_that_needs_little_outlives_one_that_is_used_as_often_and_needs_much(session_of, words, tmp_path):
    session = session_of(store=f"memory+disk:{tmp_path}?policy=rank", strategy="cachecraft")
    names = ["steady", "moved", *(f"other {number}" for number in range(5))]
    chunks = {name: session.chunk(words(64, seed=at), name=name) for at, name in enumerate(names)}
    for number in range(5):
        before = chunks[f"other {number}"]
        session.generate([words(4, 50), chunks["steady"], before, chunks["moved"], words(3, 60)], max_new_tokens=1)
    session.store.flush()
    (tier,) = session.store.below
    paths = {(*chunk.sink, *chunk.token_ids): name for name, chunk in chunks.items()}
    stay = []
    while True:
        there = {tuple(tier.get(key).header.ids): key for key in tuple(tier.keys())}
        stay.append({paths[path] for path in paths if any(path[-len(ids) :] == ids for ids in there)})
        if not tier.index.shrink(tier.nbytes - 1):
            break

    assert stay[0] == set(names)
    gone = [min(at for at, left in enumerate(stay) if name not in left) for name in names]
    assert gone[0] == max(gone), "used five times, always behind the same"
    assert gone[1] == sorted(gone)[-2], "used five times, and computed again each time"


@pytest.mark.parametrize("cfo", [0.0, 0.02, 0.5, 1.0])
def test_the_rank_of_a_use_is_its_cost_over_cfo(session_of, words, monkeypatch, cfo):
    session, told = session_of(strategy="cachecraft"), []
    monkeypatch.setattr("nbkv.strategies.cachecraft.fix_overhead", lambda *_: cfo)
    monkeypatch.setattr(session.store, "rank", lambda space, ids, rank: told.append((ids, rank)))
    chunk = session.chunk(words(12, seed=1), name="c")
    for _ in range(2):
        session.generate([words(5, seed=2), chunk, words(3, seed=3)], max_new_tokens=1)
    path = (*chunk.sink, *chunk.token_ids)
    assert told == [(path, 1.0), (path, pytest.approx(1 / max(cfo, 0.05)))]


# the statistics


def test_attention_is_what_the_model_paid(make_model, tokenizer, words):
    import nbkv

    model = make_model("llama")
    with nbkv.load(model, tokenizer=tokenizer) as session:
        chunk = session.chunk(words(12, seed=1), name="c")
        first, between = words(5, seed=2), words(4, seed=3)
        result = session.generate(
            [first, chunk, between, chunk, words(3, seed=4)], strategy="cachecraft(budget=1)", max_new_tokens=1
        )
        earlier, later = variants(session)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            ids = torch.tensor([result.prompt_ids])
            weights = torch.stack(model(ids, output_attentions=True).attentions).mean(dim=(0, 2))[0]

    assert [len(one.before) for one in (earlier, later)] == [1, 3]
    assert (earlier.base, later.base) == (6, 22)
    rows = weights[22:34]
    expected = torch.stack([rows[:, 1:6].sum(1), rows[:, 6:18].sum(1), rows[:, 18:22].sum(1)], dim=1)
    assert torch.allclose(later.inter, expected, atol=1e-5)
    assert torch.allclose(later.intra, rows[:, 22:34].sum(1), atol=1e-5)
    assert torch.allclose(earlier.inter[:, 0], weights[6:18, 1:6].sum(1), atol=1e-5)


def test_rows_that_did_not_run_keep_what_was_known(session_of, words):
    session = session_of()
    chunk, front = session.chunk(words(12, seed=1), name="c"), words(5, seed=2)
    session.generate([front, chunk, words(3, seed=3)], strategy="cachecraft", max_new_tokens=1)
    (first,) = variants(session)
    assert (first.inter > 0).all()  # all of it ran

    other = session.chunk(words(6, seed=4), name="other")
    result = session.generate(
        [front, other, chunk, words(3, seed=3)], strategy="cachecraft(budget=0.5)", max_new_tokens=1
    )
    second = variants(session)[-1]
    ran = torch.from_numpy(result.provenance[12:24] == Provenance.RECOMPUTED)
    assert (second.ids, len(second.before), int(ran.sum())) == (chunk.token_ids, 2, 6)
    assert torch.equal(second.inter[~ran, 0], first.inter[~ran, 0])  # what they paid to the front, which is here too
    assert (second.inter[~ran, 1] == 0).all()
    assert torch.equal(second.intra[~ran], first.intra[~ran])
    assert (second.inter[ran] > 0).all()


# the choice


def test_a_chunk_never_met_is_computed_in_its_context(session_of, words):
    session = session_of()
    a, b = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("ab"))
    built = session._prompt([words(6, seed=2), a, words(3, seed=3), b, words(5, seed=4)])
    request = Request(built, 4, keep=False)
    got, full = (parse(each).prefill(request, session._ctx.for_request()) for each in ("cachecraft", "full"))

    # what session.chunk encoded is of no use to it: only BOS, an exact prefix, is reused
    assert (got.provenance != Provenance.FRESH).sum() == 1
    assert torch.allclose(got.logits, full.logits, atol=1e-4)
    for mine, theirs in zip(got.cache.read(0, 55).values, full.cache.read(0, 55).values, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)
    served(session, words(6, seed=2), a, words(3, seed=3), b, "w1")
    assert [one.ids for one in variants(session)] == [a.token_ids, b.token_ids]


def test_the_same_prompt_again_is_taken_as_it_was(session_of, words):
    session = session_of(strategy="cachecraft")
    chunk = session.chunk(words(20, seed=1), name="c")
    prompt = [words(6, seed=2), chunk, words(5, seed=3)]
    first = session.generate(prompt, max_new_tokens=8)
    (one,) = variants(session)
    again = session.generate(prompt, max_new_tokens=8)
    (same,) = variants(session)

    assert note(first) == "CFO by chunk: c new"
    assert first.tokens.fresh == 31
    assert note(again) == "CFO by chunk: c 0.00 (harvested)"
    assert (again.tokens.recomputed, again.tokens.reused) == (0, 27)
    assert again.token_ids == first.token_ids == session.generate(prompt, strategy="full", max_new_tokens=8).token_ids
    assert same.kv is one.kv
    assert same.uses == 2


def test_surroundings_decide_which_variant(session_of, words):
    session = session_of(strategy="cachecraft")
    a, b, c = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("abc"))
    question = words(4, seed=9)
    session.generate([a, b, question], strategy="cachecraft(budget=1)", max_new_tokens=1)

    def apart(*parts):
        session._ctx.scratch["cachecraft"] = first
        return note(session.generate([*parts, question], max_new_tokens=1)).removeprefix("CFO by chunk: ")

    first = variants(session)
    # the prompt began with a, whose KV behind BOS are an exact prefix there: only b is harvested
    assert [one.before for one in first] == [(a.token_ids,)]
    unlike = f"b {first[0].cci:.2f} (harvested)"  # beta 0
    assert apart(a, b) == "b 0.00 (harvested)"
    assert apart(c, b) == unlike
    assert apart(a, c, b) == "c new, b 0.00 (harvested)"  # all that b looked at is there
    assert apart(words(3, seed=8), b) == unlike


def served(session, *parts, spec="cachecraft"):
    return session.generate(list(parts), strategy=spec, max_new_tokens=1)


def recomputed(result):
    return [int(row) for row in (result.provenance == Provenance.RECOMPUTED).nonzero()[0]]


def test_rows_behind_a_reversed_prompt_are_not_those_of_epic(session_of, words):
    session = session_of()
    chunks = [session.chunk(words(24, seed=seed), name=str(seed)) for seed in range(4)]
    front, question = words(4, seed=8), words(4, seed=9)
    served(session, front, *chunks[::-1], question)

    mine = recomputed(served(session, front, *chunks, question, spec="cachecraft(budget=0.2)"))
    epic = recomputed(served(session, front, *chunks, question, spec="epic(budget=0.2)"))
    assert len(mine) == len(epic) == 20
    assert mine != epic


def test_other_prompts_before_leave_other_variants_and_other_rows(session_of, words):
    front, question = words(4, seed=8), words(4, seed=9)
    rows, counts = [], []
    for orders in ([(2, 1, 0)], [(1, 0, 2)], [(2, 1, 0), (1, 2, 0), (0, 2, 1)]):
        session = session_of()
        chunks = [session.chunk(words(24, seed=seed), name=str(seed)) for seed in range(3)]
        for order in orders:
            served(session, front, *(chunks[each] for each in order), question, spec="cachecraft(budget=1)")
        counts.append(len(variants(session)))
        rows.append(recomputed(served(session, front, *chunks, question)))

    assert counts[0] == counts[1] == 3 < counts[2]
    assert len({tuple(each) for each in rows}) == 3


def test_a_variant_is_moved_to_where_it_is_used(session_of, words):
    session = session_of()
    a, b, c = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("abc"))
    session.generate([a, b, words(4, seed=9)], strategy="cachecraft(budget=1)", max_new_tokens=1)
    (one,) = variants(session)
    request = Request(session._prompt([a, c, b, words(4, seed=9)]), 1, keep=False)
    prefilled = parse("cachecraft").prefill(request, session._ctx.for_request())
    held, at = prefilled.cache.read(41, 61), torch.arange(20)
    moved = session.adapter.rope.move(one.kv, at + one.base, at + 41)

    assert (one.base, (prefilled.provenance[41:61] == Provenance.CHUNK).all()) == (21, True)
    for layer in range(4):
        assert torch.equal(held.keys[layer], moved.keys[layer])
        assert torch.equal(held.values[layer], one.kv.values[layer])


def test_the_tokens_that_looked_outside_most_are_recomputed(session_of, words):
    session = session_of()
    a, b = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("ab"))
    session.generate([a, b, words(4, seed=9)], strategy="cachecraft(budget=1)", max_new_tokens=1)
    (one,) = variants(session)
    result = session.generate([a, words(4, seed=9), b, "w1"], strategy="cachecraft(budget=0.3)", max_new_tokens=1)
    again = [int(row) - 25 for row in (result.provenance == Provenance.RECOMPUTED).nonzero()[0]]

    assert again == sorted(one.inter.sum(dim=1).topk(6).indices.tolist())


def test_a_budget_is_kept_to(session_of, words):
    session = session_of()
    a, b = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("ab"))
    prompt = ["w1 w2 w3", a, "w4", b, words(4, seed=9)]
    session.generate(["w9", b, a, words(4, seed=9)], strategy="cachecraft", max_new_tokens=1)
    for budget in (0, 0.1, 0.25, 0.8, 1):
        tokens = session.generate(prompt, strategy=f"cachecraft(budget={budget})", max_new_tokens=1).tokens
        assert tokens.recomputed == round(40 * budget)


# early termination


def test_chunks_out_of_focus_are_recomputed_no_further(session_of, words):
    session = session_of()
    chunks = [session.chunk(words(20, seed=seed), name=str(seed)) for seed in range(3)]
    front, question = words(4, seed=8), words(4, seed=9)
    served(session, front, *chunks[::-1], question)
    held = {one.ids: one for one in variants(session)}
    request = Request(session._prompt([front, *chunks, question]), 1, keep=False)
    whole, early = (
        parse(f"cachecraft(budget=0.5, focus={focus})").prefill(request, session._ctx.for_request()) for focus in (0, 1)
    )

    said = next(each for each in early.notes if "went on" in each)
    assert said.startswith("after layer 0 only ")
    going = said.removeprefix("after layer 0 only ").split(" went on")[0].split(", ")
    assert 0 < len(going) < 3
    ended = [at for at in range(3) if str(at) not in going]
    again = early.provenance == Provenance.RECOMPUTED
    assert (again == (whole.provenance == Provenance.RECOMPUTED)).all()
    stopped = sum(int(again[5 + 20 * at : 25 + 20 * at].sum()) for at in ended)
    assert whole.rows.token_layers - early.rows.token_layers == 3 * stopped  # of four layers
    assert not any("went on" in each for each in whole.notes)
    for at in ended:  # above the first layer they are as they were reused
        mine, old = early.cache.read(5 + 20 * at, 25 + 20 * at), held[chunks[at].token_ids]
        assert all(torch.equal(mine.values[layer], old.kv.values[layer]) for layer in (1, 2, 3))


def test_what_was_recomputed_in_part_is_no_variant(session_of, words):
    session = session_of()
    chunks = [session.chunk(words(20, seed=seed), name=str(seed)) for seed in range(3)]
    front, question = words(4, seed=8), words(4, seed=9)
    served(session, words(4, seed=7), *chunks[::-1], question)
    result = served(session, front, *chunks, question, spec="cachecraft(budget=0.5, focus=1)")
    going = next(each for each in result.notes if "went on" in each).split("only ")[1].split(" went on")[0].split(", ")

    assert len(variants(session)) == 3 + len(going)


# what is kept


def test_of_each_chunk_only_so_many(session_of, words):
    session = session_of(strategy="cachecraft(variants=2)")
    chunk = session.chunk(words(20, seed=1), name="c")
    often = [words(6, seed=2), chunk, words(5, seed=3)]
    for _ in range(4):
        session.generate(often, max_new_tokens=1)
    ((front,),) = (one.before for one in variants(session))
    for seed in range(10, 14):
        session.generate([words(6, seed=seed), chunk, words(5, seed=3)], max_new_tokens=1)
        assert len(variants(session)) == 2

    assert max(variants(session), key=lambda one: one.uses).before[0] == front  # the one used often stayed
    session.generate([words(6, seed=20), chunk, "w1"], strategy="cachecraft(variants=0)", max_new_tokens=1)
    assert len(variants(session)) <= 2


@pytest.mark.parametrize(
    "spec",
    ["budget=1.5", "alpha=-1", "alpha='x'", "variants=-1", "variants=2.5", "focus=-1", "store_share=2", "nothing=1"],
)
def test_options_out_of_range(spec):
    with pytest.raises(BadOption):
        parse(f"cachecraft({spec})")


def test_its_first_option_is_alpha():
    assert parse("cachecraft(2)").alpha == 2
    assert parse("cachecraft(recompute_ratio=0.3)").budget == 0.3
