"""What every ``ttft`` benchmark times: up to the first token and no further; loading, and nothing but loading."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nbkv.bench import agreement, first_token


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(first_token, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


@pytest.mark.parametrize(("before", "after"), [(1.0, 5.0), (0.25, 0.0), (0.0, 3.0)])
def test_what_comes_behind_the_first_token_is_not_timed(clock, before, after):
    class Stream:
        result = None

        def __iter__(self):
            clock[0] += before
            yield "a"
            clock[0] += after
            self.result = "whole"

    asked = []

    def stream(prompt, **options):
        asked.append((prompt, options))
        return Stream()

    found = first_token.first_token(SimpleNamespace(stream=stream), "text", strategy="full", keep=False)
    assert found == (before, "whole")
    assert asked == [("text", {"max_new_tokens": 1, "strategy": "full", "keep": False})]


@pytest.mark.parametrize("n", [70, 130, 200])
def test_loading_leaves_the_store_as_it_was(session_of, words, tmp_path, clock, monkeypatch, n):
    session = session_of(store=f"memory+disk:{tmp_path}")
    text = words(n)
    ids = session.generate(text, max_new_tokens=1).prompt_ids
    session.store.flush()
    session.store.clear()
    take = type(session.store).take

    def taking(*args, **options):
        clock[0] += 2.0
        return take(*args, **options)

    monkeypatch.setattr(type(session.store), "take", taking)
    assert first_token.loading(session, ids, 32) == 2.0
    assert not session.store.front._holdings
    assert session.store.nbytes == 0


def test_loading_what_is_not_there_is_no_figure(session_of, words, tmp_path):
    session = session_of(store=f"memory+disk:{tmp_path}")
    with pytest.raises(AssertionError):
        first_token.loading(session, session._prompt(words(70)).ids, 32)


@pytest.mark.parametrize(("seed", "clear"), [(2, 0), (100, 3), (7, None)])
def test_draws_begin_where_they_are_told_to_and_end_with_a_clear_answer(monkeypatch, seed, clear):
    drawn = []

    def ids(n, seed):
        drawn.append(seed)
        return [seed] * n

    gap = lambda: 0.0 if clear is None or len(drawn) <= clear else 1.0  # noqa: E731
    monkeypatch.setattr(agreement, "reference", lambda *_, **__: agreement.Reference((1,), (gap(),), 0.1))
    prompt, wanted = agreement.decided(SimpleNamespace(model=None, ids=ids), [1, 2], 3, 4, seed=seed)
    draws = agreement.DRAWS if clear is None else clear + 1
    assert drawn == list(range(seed, seed + draws))
    assert prompt == [1, 2, *[drawn[-1]] * 3]
    assert bool(wanted.decisive) == (clear is not None)
