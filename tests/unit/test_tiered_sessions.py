"""Sessions over tiers: a second one finds what the first has left, and every fault ends in the answer of full."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from redis_server import RedisServer

import nbkv
from nbkv.errors import BadOption, StoreUnavailable
from nbkv.events import StoreFault, TierRead
from nbkv.stores.tiers.disk import DiskTier

SPECS = ["memory+disk:{}", "disk:{}", "memory+disk:{}/a+disk:{}/b", "memory+file://{}", "memory+disk:{}?writes=back"]


def answers(session, prompt, **options):
    result = session.generate(prompt, max_new_tokens=6, **options)
    full = session.generate(prompt, strategy="full", max_new_tokens=6)
    assert result.token_ids == full.token_ids
    return result


@pytest.mark.parametrize("spec", SPECS)
def test_the_first_request_of_a_second_session_hits(session_of, words, tmp_path, spec):
    store = spec.replace("{}", str(tmp_path))
    first = session_of(store=store)
    assert answers(first, words(150)).tokens.reused == 0
    first.close()
    second = session_of(store=store)
    result = answers(second, words(150))
    assert (result.tokens.reused, result.tokens.recomputed) == (150, 1)
    assert any("read 150 tokens of KV from" in note for note in result.notes)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("strategy", ["cacheblend(budget=1.0)", "epic"])
def test_chunks_of_a_first_session_are_not_encoded_again(session_of, words, tmp_path, spec, strategy):
    store = spec.replace("{}", str(tmp_path))
    first = session_of(store=store)
    first.chunk(words(90), name="a")
    first.chunk(words(80, 1), name="b")
    first.close()
    second = session_of(store=store)
    ran = []
    prefill = second.adapter.prefill
    second.adapter.prefill = lambda ids, *args, **options: ran.append(len(ids)) or prefill(ids, *args, **options)
    chunks = [second.chunk(words(80, 1), name="b"), second.chunk(words(90), name="a")]
    assert not ran
    again = second.generate([*chunks, words(9, 2)], strategy=strategy, max_new_tokens=6)
    memory = session_of()
    chunks = [memory.chunk(words(80, 1), name="b"), memory.chunk(words(90), name="a")]
    same = memory.generate([*chunks, words(9, 2)], strategy=strategy, max_new_tokens=6)
    assert again.token_ids == same.token_ids
    assert (again.provenance == same.provenance).all()


def test_a_chunk_that_only_tiers_hold_is_read_layer_by_layer_into_its_place(session_of, words, tmp_path):
    session = session_of(store=f"memory+disk:{tmp_path}")
    chunks = [session.chunk(words(90), name="a"), session.chunk(words(80, 1), name="b")]
    first = session.generate([chunks[1], chunks[0], words(9, 2)], strategy="epic", max_new_tokens=6)
    session.store.flush()
    session.store.clear()
    again = session.generate([chunks[1], chunks[0], words(9, 2)], strategy="epic", max_new_tokens=6)
    assert again.token_ids == first.token_ids
    assert (again.provenance == first.provenance).all()
    assert session.store.figures()[1]["hits"] > 0


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("strategy", ["prefix", "cacheblend(budget=1.0)"])
def test_damaged_files_end_in_the_answer_of_full(session_of, words, tmp_path, strategy, layer):
    first = session_of(store=f"disk:{tmp_path}")
    answers(first, words(150))
    first.chunk(words(90, 1), name="a")
    first.close()
    for path in tmp_path.rglob("*.safetensors"):
        raw = bytearray(path.read_bytes())
        raw[-1 - layer * len(raw) // 2] ^= 16
        path.write_bytes(raw)
    second = session_of(store=f"disk:{tmp_path}")
    told = []
    second.events.add(told.append)
    chunk = second.chunk(words(90, 1), name="a")
    answers(second, words(150), strategy=strategy)
    answers(second, [words(150), chunk, words(5, 3)], strategy=strategy)
    assert any(isinstance(event, StoreFault) for event in told)
    assert second.store.figures()[1]["faults"] >= 1


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_lossy_forms_say_so_and_never_meet_exact_ones(session_of, words, tmp_path, form):
    first = session_of(store=f"memory+disk:{tmp_path}?form={form}")
    first.generate(words(150), max_new_tokens=2)
    first.close()
    second = session_of(store=f"memory+disk:{tmp_path}?form={form}")
    result = second.generate(words(150), max_new_tokens=2)
    assert any(form in note and "off by up to" in note for note in result.notes)
    assert 0 < second.store.figures()[1]["error"] < 0.1
    exact = session_of(store=f"memory+disk:{tmp_path}")
    assert answers(exact, words(150)).tokens.reused == 0


@pytest.mark.parametrize("change", [{"tenant": "b"}, {"family": "qwen3"}, {"family": "gemma3"}])
def test_kv_of_another_tenant_model_or_dtype_is_no_hit(session_of, words, tmp_path, change):
    first = session_of(store=f"memory+disk:{tmp_path}")
    first.generate(words(150), max_new_tokens=2)
    first.close()
    assert session_of(store=f"memory+disk:{tmp_path}", **change).generate(words(150), max_new_tokens=2).hit_rate == 0


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_redis_killed_restarted_and_slow(session_of, words, tmp_path):
    server = RedisServer(tmp_path).start()
    try:
        session = session_of(store=f"memory+{server.store}")
        answers(session, words(150))
        session.store.flush()
        session.store.clear()
        assert answers(session, words(150)).tokens.reused == 150
        session.store.clear()
        server.kill()
        assert answers(session, words(150)).tokens.reused == 0
        assert session.store.figures()[1]["faults"] >= 1
        session.store.flush()
        session.store.clear()
        server.start()
        session.store._below[0]._rests_until = 0.0
        assert answers(session, words(150)).tokens.reused == 0  # it has forgotten
        session.store.flush()
        session.store.clear()
        assert answers(session, words(150)).tokens.reused == 150
        session.store.clear()
        client = session.store.below[0].client
        server.pause(client)
        assert answers(session, words(150)).tokens.reused == 0
        server.go_on(client)
    finally:
        server.kill()


def test_a_second_kernel_hits(tmp_path):
    script = f"""
import nbkv
with nbkv.load("tiny", store="memory+disk:{tmp_path}") as session:
    result = session.generate("the blue box is in the hall . " * 20, max_new_tokens=2)
    print(result.tokens.reused, result.tokens.prompt)
"""
    ran = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in range(2)]
    (none, prompt), (reused, _) = (map(int, each.stdout.split()) for each in ran)
    assert (none, reused) == (0, prompt - 1)


@pytest.mark.parametrize("strategy", ["prefix", "epic(first_k=2)"])
def test_a_first_request_does_what_a_hit_in_memory_does_and_reads_once(
    session_of, words, tmp_path, monkeypatch, strategy
):
    """What the time to the first token of a second kernel is made of: the same rows, one reading, nothing written."""
    first = session_of(store=f"memory+disk:{tmp_path}")
    parts = [first.chunk(words(150), name="a"), words(9, 2)]
    hit = [first.generate(parts, strategy=strategy, max_new_tokens=1) for _ in range(2)][-1]
    first.store.flush()
    first.store.clear()
    entries = len(list(tmp_path.rglob("*.safetensors")))
    asked, told, hear = [], [], None
    for name in ("find", "get", "put"):
        true = getattr(DiskTier, name)
        monkeypatch.setattr(DiskTier, name, lambda *args, true=true, name=name: asked.append(name) or true(*args))
    hear = told.append
    first.store.bus.add(hear)
    result = first.generate(parts, strategy=strategy, max_new_tokens=1)
    first.store.bus.drop(hear)
    assert result.compute == hit.compute
    assert (result.provenance == hit.provenance).all()
    reads = [event for event in told if isinstance(event, TierRead)]
    assert sum(event.nbytes for event in reads) <= 160 * first.adapter.token_bytes  # no token twice
    assert {event.layers for event in reads} == {first.adapter.n_layers}
    assert not [event for event in told if isinstance(event, StoreFault)]
    first.store.flush()
    assert len(list(tmp_path.rglob("*.safetensors"))) == entries
    assert asked.count("get") <= 6
    assert asked.count("find") <= 12


def test_credentials_are_shown_nowhere(session_of):
    for spec in ("memory+redis://:secret@127.0.0.1:1/0", "memory+ftp://me:secret@127.0.0.1:1/x"):
        with pytest.raises(StoreUnavailable) as caught:
            session_of(store=spec)
        assert "secret" not in str(caught.value)
    with pytest.raises(BadOption) as caught:
        nbkv.load("tiny", store="memory+redis://:secret@localhost?colour=red")
    assert "secret" not in str(caught.value)


def test_what_is_pinned_stays_in_memory_and_on_disk(session_of, words, tmp_path):
    session = session_of(store=f"memory?device=1MiB+disk:{tmp_path}?limit=400kB")
    chunk = session.chunk(words(90, 1), name="a")
    session.generate(words(60), max_new_tokens=1)
    assert session.keep(chunk, pinned=True, priority=2) == len(chunk.sink) + 90
    assert session.keep(words(60), pinned=False, ttl="1h") == 61
    for number in range(2, 12):
        session.generate(words(150, number), max_new_tokens=1)
    session.store.flush()
    space, path = session._ctx.for_request().space(), (*chunk.sink, *chunk.token_ids)
    assert session.store.front.holds(space, path) == len(path)
    (tier,) = session.store.below
    kept = [row for row in tier.rows() if row.pinned]
    assert [(row.key.stop, row.priority) for row in kept] == [(len(path), 2)]
    assert tier.nbytes <= tier.limit
    assert tier.counts.evictions > 0
    assert session.keep(chunk, pinned=False) == len(path)
    assert not any(row.pinned for row in tier.rows())
    assert session.keep("w1 w2 w3 w4 never seen", pinned=True) <= 1


@pytest.mark.parametrize("ttl", ["soon", "7 weeks", "-1s"])
def test_a_time_that_is_none_is_refused(session_of, words, ttl):
    with pytest.raises(BadOption, match="not a time"):
        session_of().keep(words(5), ttl=ttl)
