"""What a session holds and lets go: stores of its own and of others, its model as it is now, figures."""

from __future__ import annotations

import pytest
import torch

import nbkv
from nbkv.errors import NbkvError


def test_store_can_be_replaced_cleared_and_shared(session_of, words):
    session = session_of()
    session.generate(words(30), max_new_tokens=3)
    session.store.clear()
    assert session.generate(words(30), max_new_tokens=3).tokens.reused == 0
    session.use_store("memory?device=1MiB")
    assert session.store.limit == 2**20
    assert session.generate(words(30), max_new_tokens=3).tokens.reused == 0
    other = session_of(store=session.store)
    assert other.generate(words(30), max_new_tokens=3).tokens.reused == 30


def test_tenants_do_not_share(session_of, words):
    first = session_of(tenant="a")
    first.generate(words(30), max_new_tokens=3)

    assert session_of(tenant="b", store=first.store).generate(words(30), max_new_tokens=3).tokens.reused == 0


def test_closing(session_of, words):
    session = session_of()
    store = session.store
    result = session.generate(words(10), max_new_tokens=2)
    session.close()
    session.close()

    assert store.nbytes == 0
    assert result.text
    assert session.stats.requests == 1
    with pytest.raises(NbkvError, match="closed"):
        session.generate("w1")


@pytest.mark.parametrize("leave", ["close", "with", "replace", "replace by itself"])
def test_a_store_that_was_lent_stays_as_it_is(session_of, words, leave):
    owner, prompt = session_of(), words(30)
    owner.generate(prompt, max_new_tokens=3)
    borrower, held = session_of(store=owner.store), owner.store.nbytes
    if leave == "close":
        borrower.close()
    elif leave == "with":
        with borrower:
            assert borrower.generate(prompt, max_new_tokens=3).tokens.reused == 30
    elif leave == "replace":
        borrower.use_store("memory")
    else:
        owner.use_store(owner.store)

    assert owner.store.nbytes == held > 0
    assert owner.generate(prompt, max_new_tokens=3).tokens.reused == 30


def test_a_store_of_its_own_is_freed_where_a_lent_one_takes_its_place(session_of, words):
    owner, other = session_of(), session_of()
    other.generate(words(30), max_new_tokens=3)
    own = other.store
    other.use_store(owner.store)

    assert own.nbytes == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("strategy", ["prefix", "full", "prophet"])
def test_a_model_that_its_owner_moved_is_noted_as_it_is_now(make_model, tokenizer, words, dtype, strategy):
    model = make_model("llama")
    kind = str(dtype).removeprefix("torch.")
    with nbkv.load(model, tokenizer=tokenizer, strategy=strategy) as session:
        before = session.generate(words(20), max_new_tokens=2)
        model.to(dtype)
        moved = [session.generate(words(20), max_new_tokens=2) for _ in range(2)]
        model.to(torch.float32)
        back = session.generate(words(20), max_new_tokens=2)

    assert before.notes[0] == back.notes[0] == "float32 on cpu"
    assert {result.notes[0] for result in moved} == {
        f"{kind} on cpu, moved by its owner: it was proved as float32 on cpu"
    }
    assert moved[0].tokens.reused == 0
    assert moved[1].tokens.reused == (0 if strategy == "full" else 20)


def test_stats_are_sums(session_of, words):
    session = session_of()
    for _ in range(3):
        session.generate(words(30), max_new_tokens=4)
    stats = session.stats

    assert stats.requests == 3
    assert stats.prompt_tokens == 93
    assert stats.hit_rate == pytest.approx(60 / 93)
    assert stats.tiers[0]["hits"] == 2
    assert "prefix" in repr(stats)


def test_weights_changed_in_place_are_a_miss(own_session, words):
    import torch

    own_session.generate(words(30), max_new_tokens=3)
    with torch.no_grad():
        own_session.adapter.model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    result = own_session.generate(words(30), max_new_tokens=3)

    assert result.tokens.reused == 0
    assert result.token_ids == own_session.generate(words(30), max_new_tokens=3, strategy="full").token_ids
