"""What is KVCOMM's own: prompts of a known template are reused with offsets from anchors, or refused and learned."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

import nbkv
from nbkv.context import Request
from nbkv.errors import BadOption
from nbkv.events import AnchorsKept, Fallback, GateDecided
from nbkv.families.agents.alone import alone, moved, rotated
from nbkv.families.agents.anchor_source import AnchorSource, MeasuredReuse
from nbkv.families.agents.anchors import slots
from nbkv.families.agents.offsets import Alignment, total
from nbkv.fidelity import kl_rows
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.kv import KV
from nbkv.models.sampling import Sampling
from nbkv.models.work import Work
from nbkv.result import Provenance
from nbkv.strategy import parse

OPEN = "kvcomm(max_kl=None, min_explained=None, gamma=1.0, tail=0)"  # reuses whatever has two anchors long enough


def anchors(session):
    return session._ctx.scratch.get("kvcomm", ())


def few(n, seed):
    """Words of a small vocabulary: texts about the same thing."""
    draw = random.Random(seed)
    return "".join(f" w{draw.randrange(12)}" for _ in range(n))


@pytest.fixture
def asked(words):
    """Give a function: a prompt of one template, with the texts given in its slots."""

    def prompt(session, *texts):
        chunks = [session.chunk(text, name=f"slot{number}") for number, text in enumerate(texts)]
        between = [part for number, chunk in enumerate(chunks) for part in (words(4, seed=50 + number), chunk)]
        return [*between, words(7, seed=99)]

    return prompt


def taught(session, asked, *lengths, strategy=OPEN, prompts=3):
    """Have the session answer some prompts of a template."""
    for seed in range(prompts):
        texts = [few(n, seed=10 * seed + number) for number, n in enumerate(lengths)]
        result = session.generate(asked(session, *texts), strategy=strategy, max_new_tokens=3)
    return result


def errors(session, prompt, *strategies):
    """Return the largest difference of the next logits from full's, by strategy."""
    ctx, built, one = session._open().for_request(), session._prompt(prompt), Sampling(max_new_tokens=1)
    full = follow(RequestRun(ctx, parse("full"), built, one), [0])[0]
    return [float((follow(RequestRun(ctx, parse(each), built, one), [0])[0] - full).abs().max()) for each in strategies]


def forget_prefixes(session):
    """Empty the store, but leave the session what its strategies keep."""
    kept = dict(session._ctx.scratch)
    session.store.clear()
    session._ctx.scratch.update(kept)


# reuse and warm-up


@pytest.mark.parametrize("align", ["token", "position"])
@pytest.mark.parametrize("lengths", [(20,), (16, 12), (9, 9, 9, 9)])
def test_after_two_prompts_of_a_template_the_rest_is_reused(session_of, asked, lengths, align):
    session, strategy = session_of(), f"{OPEN[:-1]}, align='{align}')"
    for prompt in range(5):
        texts = [few(n, seed=10 * prompt + number) for number, n in enumerate(lengths)]
        result = session.generate(asked(session, *texts), strategy=strategy, max_new_tokens=3)
        reused = prompt >= 2

        assert result.lineage == ("approx:kvcomm" if reused else "exact")
        assert any("reused slot0" in note for note in result.notes) == reused
        assert (Provenance.CORRECTED in result.provenance) == reused
        if reused:
            assert result.hit_rate == (len(result.prompt_ids) - 1) / len(result.prompt_ids)
            assert result.compute.rows == pytest.approx(1 / len(result.prompt_ids))


def test_what_stands_behind_a_slot_is_reused_as_far_as_it_is_the_same(session_of, asked, words):
    session = session_of()
    taught(session, asked, 14)
    prompt = asked(session, few(14, seed=77))
    other = [*prompt[:-1], words(3, seed=99) + words(5, seed=98)]
    result = session.generate(other, strategy=OPEN, max_new_tokens=1)
    corrected = (result.provenance == Provenance.CORRECTED).sum()

    assert corrected == 14 + 3
    assert (result.provenance[-5:] == Provenance.FRESH).all()


@pytest.mark.parametrize(("tail", "fresh"), [(0, 0), (3, 3), (7, 7), (16, 7)])
def test_the_tail_is_run(session_of, asked, tail, fresh):
    session, strategy = session_of(), f"kvcomm(max_kl=None, gamma=1.0, tail={tail})"
    taught(session, asked, 9, 9, strategy=strategy, prompts=2)
    result = session.generate(asked(session, few(9, seed=70), few(9, seed=71)), strategy=strategy, max_new_tokens=1)
    last = len(result.prompt_ids) - 1

    assert (result.provenance == Provenance.FRESH).nonzero()[0].tolist() == list(range(last + 1 - fresh, last + 1))
    assert (result.provenance[:last] == Provenance.CORRECTED).sum() == last - max(fresh, 1) + 1 - 5


def test_a_text_that_is_an_anchor_gets_the_offsets_it_had(session_of, asked):
    session = session_of()
    taught(session, asked, 18)
    forget_prefixes(session)
    again = asked(session, few(18, seed=10))  # the second of the three prompts
    known, naive = errors(session, again, OPEN, "epic(first_k=0)")

    assert session.generate(again, strategy=OPEN, max_new_tokens=1).lineage == "approx:kvcomm"
    assert known < 1e-4 < naive


def test_offsets_of_like_texts_are_nearer_than_none(session_of, asked):
    session = session_of()
    taught(session, asked, 18, prompts=8)
    prompts = [asked(session, few(18, seed=seed)) for seed in range(500, 506)]
    both = [errors(session, prompt, OPEN, "epic(first_k=0)") for prompt in prompts]

    assert sum(mine for mine, _ in both) < sum(naive for _, naive in both)


@pytest.mark.parametrize("align", ["token", "position"])
def test_a_text_longer_than_its_anchors_is_refused_and_becomes_one(session_of, asked, align):
    session, strategy = session_of(), f"{OPEN[:-1]}, align='{align}')"
    taught(session, asked, 10, strategy=strategy)
    longer = session.generate(asked(session, few(25, seed=90)), strategy=strategy, max_new_tokens=2)
    slightly = session.generate(asked(session, few(12, seed=91)), strategy=strategy, max_new_tokens=2)
    shorter = session.generate(asked(session, few(4, seed=92)), strategy=strategy, max_new_tokens=2)

    assert longer.lineage == "exact"
    assert any("slot0 has 0 of 2 anchors long enough" in note for note in longer.notes)
    assert max(len(anchor.ids) for anchor in anchors(session)) == 25
    assert slightly.lineage == ("approx:kvcomm" if align == "token" else "exact")
    assert shorter.lineage == "approx:kvcomm"


def test_shapes_of_prompts(session_of, words):
    session = session_of()
    tail = words(4, seed=9)

    def shapes(seed):
        one, two = (session.chunk(few(n, seed=seed + n), name=f"c{n}") for n in (11, 8))
        return {
            "the same twice": [words(3, seed=5), one, words(2, seed=6), one, tail],
            "next to each other": [words(3, seed=5), one, two, tail],
            "first and last": [one, words(3, seed=7), two],
            "nothing but chunks": [one, two],
            "a chunk of one token": [words(2, seed=8), session.chunk(f"w{seed % 7}", name="t"), one, tail],
        }

    for case in shapes(0):
        for seed in (0, 100, 200, 300):
            prompt = shapes(seed)[case]
            result = session.generate(prompt, strategy=OPEN, max_new_tokens=2)
            tokens = result.tokens
            assert tokens.reused + tokens.recomputed + tokens.fresh == tokens.prompt, case
        assert result.lineage == "approx:kvcomm", case
        assert tokens.prompt - tokens.reused <= 1, case


def test_each_template_has_its_own_anchors(session_of, asked, words):
    session = session_of()
    taught(session, asked, 12)
    chunk = session.chunk(few(12, seed=70), name="slot0")
    elsewhere = session.generate([words(4, seed=3), chunk, words(7, seed=99)], strategy=OPEN, max_new_tokens=2)

    assert elsewhere.lineage == "exact"
    assert any("(0 in all)" in note for note in elsewhere.notes)


def test_another_name_for_the_same_slot_is_the_same_place(session_of, asked):
    session = session_of()
    taught(session, asked, 12)
    prompt = asked(session, few(12, seed=70))
    renamed = [dataclasses.replace(part, name="x") if isinstance(part, nbkv.Chunk) else part for part in prompt]

    assert session.generate(renamed, strategy=OPEN, max_new_tokens=2).lineage == "approx:kvcomm"


def test_slots_have_the_texts_before_them_as_place(session_of, words):
    session = session_of()
    chunk = session.chunk(words(5), name="c")
    built = session._prompt([words(2, seed=1), chunk, chunk, words(3, seed=2)])
    first, second = slots(built)

    assert (first.span, second.span) == ((3, 8), (8, 13))
    assert first.place == (built.ids[:3],)
    assert second.place == (built.ids[:3], ())
    assert (first.behind, second.behind) == ((8, 8), (13, 16))
    assert slots(session._prompt(words(4))) == ()


def test_an_anchor_and_the_text_alone_give_the_real_kv(session_of, asked):
    session = session_of()
    built, ctx = session._prompt(asked(session, few(9, seed=1), few(6, seed=2))), session._open().for_request()
    request, work = Request(built, 1, keep=False), Work()
    cache = parse("full").prefill(request, ctx).cache
    source = AnchorSource(request, cache, ctx, ctx.space("approx:kvcomm"), Alignment("token", 0.05), work)
    for slot in slots(built):
        anchor, own = source.anchor(slot, []), alone(slot.chunk, request, ctx, work)
        here = moved(total(own.kv, rotated(anchor.kv, own.base, ctx)), own.base, slot.span.start, ctx)
        behind = moved(anchor.behind, 0, slot.behind.start, ctx)
        for got, span in ((here, slot.span), (behind, slot.behind)):
            real = cache.read(*span)
            pairs = zip((*got.keys, *got.values), (*real.keys, *real.values), strict=True)
            assert all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in pairs)
    assert work.token_layers == 0  # the chunks were encoded before


@pytest.mark.parametrize("lengths", [(12, 15, 13), (8, 14, 12), (20, 11, 5)])
def test_offsets_of_keys_are_turned_to_where_a_token_stands(session_of, words, lengths):
    """A token takes the offset of an anchor's token from another position: as a difference of unrotated keys."""
    session = session_of()
    ctx, strategy = session._open().for_request(), parse(OPEN)
    texts = [few(n, seed=40 + n) for n in lengths]
    chunks = [session.chunk(text, name="c") for text in texts]
    first, *others = [Request(session._prompt([words(4, seed=50), c, words(3)]), 1, keep=False) for c in chunks]
    held, pool, real = [], [], []
    for request in others:
        cache, (slot,) = parse("full").prefill(request, ctx).cache, slots(request.prompt)
        source = AnchorSource(request, cache, ctx, strategy.space(ctx), strategy.alignment, Work())
        pool.append(source.anchor(slot, []))
        held.append(alone(slot.chunk, request, ctx, Work()))
        real.append(moved(cache.read(*slot.span), slot.span.start, held[-1].base, ctx))
    (slot,) = slots(first.prompt)
    own, placed = alone(slot.chunk, first, ctx, Work()), strategy._placed(slot, pool, first, ctx, Work())
    near, rope, layer = placed.near, ctx.adapter.rope, ctx.adapter.n_layers - 1
    want = own.kv.keys[layer].clone()
    elsewhere = 0
    for row in range(lengths[0]):
        for which, share in enumerate(near.weights[row].tolist()):
            at = int(near.rows[row, which])
            elsewhere += at != row
            gone = real[which].keys[layer][:, at : at + 1] - held[which].kv.keys[layer][:, at : at + 1]
            here = rope.layers[layer].rotate(
                gone, *rope.layers[layer].angles(torch.tensor([at + own.base]), torch.tensor([row + own.base]))
            )
            want[:, row : row + 1] += share * here

    assert elsewhere > lengths[0] // 2
    assert torch.allclose(placed.kv.keys[layer], want, atol=2e-4)


# the gate


@pytest.mark.parametrize("seed", [0, 100, 200])
def test_offsets_that_have_nothing_in_common_are_not_added(session_of, asked, seed):
    """With noise for the offsets of its anchors a place is no nearer than naive reuse, and is computed in full."""
    session, heard = session_of(), []
    session._ctx.bus.add(lambda event: heard.append(event) if isinstance(event, GateDecided | Fallback) else None)
    strategy, draw = "kvcomm(max_kl=None, gamma=1.0)", torch.Generator().manual_seed(seed)
    for prompt in range(4):
        session.generate(asked(session, few(18, seed=seed + prompt)), strategy="kvcomm(gamma=0)", max_new_tokens=1)
    known = session.generate(asked(session, few(18, seed=seed + 50)), strategy=strategy, max_new_tokens=1)
    noisy = [noise(anchor, draw) for anchor in anchors(session)]
    source = AnchorSource(None, None, session._open(), noisy[0].space, parse(strategy).alignment, Work())
    session._ctx.scratch["kvcomm"] = tuple(
        source._compared(one, [each for each in noisy if each is not one]) for one in noisy
    )
    heard.clear()
    result = session.generate(asked(session, few(18, seed=seed + 60)), strategy=strategy, max_new_tokens=1)
    (decided,) = [event for event in heard if isinstance(event, GateDecided)]

    assert known.lineage == "approx:kvcomm"
    assert result.lineage == "exact"
    assert not decided.accepted
    assert decided.explained < 0.02 or decided.explained is None
    assert any("explained" in note and "not above" in note for note in result.notes)
    assert any(isinstance(event, Fallback) and "explained" in event.why for event in heard)
    assert session.stats.gate["slot0"]["refused"] >= 1
    assert session.stats.gate["slot0"]["explained"] == decided.explained


def noise(anchor, draw):
    """Return ``anchor`` with offsets as long as its own that point anywhere."""
    keys, values = (
        tuple(
            torch.randn(each.shape, generator=draw) * float(each.norm()) / max(1, each.numel()) ** 0.5 for each in side
        )
        for side in (anchor.kv.keys, anchor.kv.values)
    )
    return dataclasses.replace(anchor, kv=KV(keys, values))


@pytest.mark.parametrize("prompts", [2, 3, 6])
def test_every_anchor_is_compared_with_others(session_of, asked, prompts):
    session = session_of()
    taught(session, asked, 12, 9, strategy="kvcomm(gamma=0)", prompts=prompts)
    for place in {anchor.place for anchor in anchors(session)}:
        there = [anchor for anchor in anchors(session) if anchor.place == place]
        compared = [anchor.compared for anchor in there]

        assert len(there) == prompts
        assert all(anchor.heldout is not None for anchor in there)
        assert min(compared) >= prompts // 2
        assert compared[-1] == prompts - 1


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.2])
def test_the_entropy_gate_refuses_what_resembles_no_anchor_more_than_others(session_of, asked, words, gamma):
    session, strategy = session_of(), f"kvcomm(max_kl=None, gamma={gamma})"
    taught(session, asked, 15, strategy=strategy, prompts=4)
    stranger = session.generate(asked(session, words(15, seed=5)), strategy=strategy, max_new_tokens=2)

    assert stranger.lineage == "exact"
    assert any("entropy" in note and "is not below" in note for note in stranger.notes)


def test_entropy_tells_known_texts_from_strangers(session_of, asked, words):
    session, heard = session_of(), []
    taught(session, asked, 15, prompts=5)
    forget_prefixes(session)
    session._ctx.bus.add(lambda event: heard.append(event) if isinstance(event, GateDecided) else None)
    for text in (few(15, seed=10), few(15, seed=10).rsplit(" ", 1)[0] + " w150", words(15, seed=5)):
        session.generate(asked(session, text), strategy="kvcomm(max_kl=None, gamma=0)", max_new_tokens=1)
        forget_prefixes(session)
    same, near, stranger = (event.entropy for event in heard)

    assert same == 0.0
    assert same < near < stranger


@pytest.mark.parametrize(("bound", "lineage"), [(1e-12, "exact"), (0.0, "exact"), (50.0, "approx:kvcomm")])
def test_reuse_is_measured_before_it_is_made_and_bounded(session_of, asked, bound, lineage):
    session = session_of()
    for prompt in range(6):
        result = session.generate(
            asked(session, few(15, seed=prompt)), strategy=f"kvcomm(gamma=1.0, max_kl={bound})", max_new_tokens=4
        )
        measured = any("would have a KL of" in note for note in result.notes)
        assert measured == (prompt in {2, 3})

    assert result.lineage == lineage
    assert sum(anchor.kl is not None for anchor in anchors(session)) == 2
    assert any("above" in note for note in result.notes) == (lineage == "exact")


def test_what_is_measured_is_what_reuse_gives(session_of, asked):
    session, strategy = session_of(), "kvcomm(gamma=1.0, max_kl=9, tail=0)"
    for prompt in range(2):
        session.generate(asked(session, few(15, seed=prompt)), strategy=strategy, max_new_tokens=4)
    asking = asked(session, few(15, seed=7))
    ctx, built, want = session._open().for_request(), session._prompt(asking), Sampling(max_new_tokens=4)
    tokens = session.generate(asking, strategy="full", max_new_tokens=4).token_ids
    full, mine = (follow(RequestRun(ctx, parse(each), built, want), tokens) for each in ("full", OPEN))
    result = session.generate(asking, strategy=strategy, max_new_tokens=4)

    assert result.token_ids == tokens
    assert anchors(session)[-1].kl == pytest.approx(float(kl_rows(full, mine).mean()), rel=1e-3)


@pytest.mark.parametrize(
    ("full", "reused", "changed"),
    [
        ([[4.0, 0.0], [0.0, 4.0]], [[4.0, 0.0], [0.0, 4.0]], False),
        ([[4.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 2.0]], False),
        ([[4.0, 0.0], [0.0, 4.0]], [[4.0, 0.0], [3.0, 0.0]], True),
        ([[0.1, 0.0], [0.0, 4.0]], [[0.0, 0.1], [0.0, 4.0]], True),
    ],
)
def test_a_changed_word_is_told_apart_from_a_distance(full, reused, changed):
    told = MeasuredReuse.of(torch.tensor(full), torch.tensor(reused))
    apart = kl_rows(torch.tensor(full), torch.tensor(reused))

    assert told.kl == pytest.approx(float(apart.mean()))
    assert told.changed == pytest.approx(float(apart.max()) if changed else 0.0)


def test_a_place_is_measured_again_after_a_while(session_of, asked):
    session, exact = session_of(), []
    for prompt in range(40):
        text = few(10, seed=prompt)
        result = session.generate(asked(session, text), strategy="kvcomm(gamma=1.0, max_kl=99)", max_new_tokens=2)
        exact += [prompt] * (result.lineage == "exact")

    assert exact == [0, 1, 2, 3, 20, 37]


# the pool


def test_anchors_never_take_more_than_their_bytes(session_of, asked):
    session, told = session_of(), []
    session._ctx.bus.add(lambda event: told.append(event) if isinstance(event, AnchorsKept) else None)
    taught(session, asked, 20, 20)
    one = max(anchor.nbytes for anchor in anchors(session))
    for limit in (5 * one, one, one - 1, 0):
        for seed in range(4):
            texts = (few(20, seed=90 + seed), few(20, seed=80 + seed))
            session.generate(
                asked(session, *texts), strategy=f"kvcomm(gamma=0, anchor_bytes={limit})", max_new_tokens=1
            )
            held = sum(anchor.nbytes for anchor in anchors(session))
            assert held <= limit
            assert (told[-1].nbytes, told[-1].anchors) == (held, len(anchors(session)))
    assert not anchors(session)
    assert session.stats.anchors["evicted"] == sum(event.evicted for event in told) > 0


def test_the_most_used_anchor_stays(session_of, asked):
    session = session_of()
    taught(session, asked, 12, prompts=2)
    first = anchors(session)[0]
    for _ in range(3):
        forget_prefixes(session)
        session.generate(asked(session, few(12, seed=0)), strategy=OPEN, max_new_tokens=1)
    assert [anchor.uses for anchor in anchors(session)] == [3, 0]
    session.generate(
        asked(session, few(12, seed=55)),
        strategy=f"kvcomm(gamma=0, anchor_bytes={int(2.5 * first.nbytes)})",
        max_new_tokens=1,
    )

    assert [anchor.ids == first.ids for anchor in anchors(session)] == [True, False]


def test_a_place_keeps_so_many(session_of, asked):
    session = session_of()
    taught(session, asked, 8, 6, strategy="kvcomm(gamma=0, anchors=3)", prompts=7)
    places = [anchor.place for anchor in anchors(session)]

    assert {places.count(place) for place in places} == {3}


def test_a_text_that_comes_again_stays_one_anchor(session_of, asked):
    session = session_of()
    for _ in range(4):
        session.generate(asked(session, few(9, seed=1)), strategy="kvcomm(gamma=0)", max_new_tokens=1)

    assert len(anchors(session)) == 1


# answers of agents


def test_an_answer_is_there_for_other_agents(session_of, words):
    session = session_of(strategy=OPEN)
    pipeline = nbkv.Pipeline(
        session,
        {
            "planner": f"{words(3, seed=1)} {{{{question}}}} {words(2, seed=2)}",
            "solver": f"{words(4, seed=3)} {{{{question}}}} {words(2, seed=4)} {{{{planner}}}} {words(3, seed=5)}",
        },
        max_new_tokens=6,
    )
    for turn in range(5):
        results = pipeline.run(question=session.chunk(few(12, seed=turn), name="question"))
    solver = results["solver"]

    assert solver.lineage == "approx:kvcomm"
    assert solver.tokens.prompt - solver.tokens.reused <= 1  # also the planner's answer, which this turn made


# everything else


def test_its_figures_are_in_stats(session_of, asked):
    session = session_of()
    taught(session, asked, 12, prompts=4)
    stats = session.stats

    assert [stats.gate["slot0"][name] for name in ("accepted", "refused", "anchors")] == [2, 2, 2]
    assert stats.gate["slot0"]["why"].startswith("slot0 has 1 of 2 anchors")
    assert 0 < stats.gate["slot0"]["entropy"] < 1
    assert stats.anchors["count"] == 2
    assert stats.anchors["bytes"] == sum(anchor.nbytes for anchor in anchors(session))
    assert "slot0" in repr(stats)
    assert "Gate" in stats._repr_html_()
    assert stats.fallbacks == 2


def test_a_stopped_prompt_leaves_a_session_that_works(session_of, asked):
    session, prompt = session_of(strategy=OPEN), None
    for seed in range(4):
        prompt = asked(session, few(12, seed=seed))
        stream = session.stream(prompt, max_new_tokens=8)
        next(iter(stream))
        session.stop()
        list(stream)
        assert stream.result.finish_reason == "interrupted"
    result = session.generate(asked(session, few(12, seed=9)), max_new_tokens=2)

    assert len(result.token_ids) == 2


@pytest.mark.parametrize(
    "options",
    [
        "gamma=1.5", "gamma=-0.1", "gamma='x'", "max_kl=-1", "max_kl='x'", "temperature=0", "temperature=-1",
        "align='both'", "anchors=1", "anchors=2.5", "anchor_bytes=-1", "anchor_bytes='many'", "anchor_bytes=1.5",
        "store_share=2", "budget=0.1", "tail=-1", "tail=0.5",
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_in_one_line(options):
    with pytest.raises(BadOption) as error:
        parse(f"kvcomm({options})")

    assert "\n" not in str(error.value)
    assert options.split("=")[0] in str(error.value) or "size" in str(error.value)


def test_a_size_may_be_written_as_one():
    assert parse("kvcomm(anchor_bytes='2MiB')").anchor_bytes == "2MiB"
    assert parse(parse("kvcomm(anchor_bytes='2MiB')").spec) == parse("kvcomm(anchor_bytes='2MiB')")


def test_the_model_is_asked_nothing_twice(session_of, asked):
    """A reused prompt runs its last row and what it has of no anchor, through every layer once."""
    session = session_of()
    taught(session, asked, 15)
    result = session.generate(asked(session, few(15, seed=31)), strategy=OPEN, max_new_tokens=1)
    n, layers = len(result.prompt_ids), session.adapter.n_layers

    assert round(result.compute.rows * n * layers) == layers
    assert torch.isfinite(torch.tensor(result.timing.ttft_s))
