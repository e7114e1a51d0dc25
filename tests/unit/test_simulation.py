"""Replayed logs: simulated stores hit what real sessions hit, known figures come out, and the picture tells them."""

from __future__ import annotations

import json
import os
import random
import re
from math import inf
from pathlib import Path

import pytest

import nbkv
from nbkv.errors import BadOption, BadPrompt, LoadError
from nbkv.families.routing import cost_model
from nbkv.families.routing.cost_model import CostModel
from nbkv.models.caches import growing_layer
from nbkv.stores.tiers.indexed.policies import policy_of
from nbkv.traces.log import LoggedRequest, RequestLog, read_log
from nbkv.traces.simulated_tier import LowerTier, SimulatedTier

COSTS = CostModel(overhead=1e-3, row=1e-4, pair=1e-8, move=1e-6, copy=1e-6)
DATA = Path(os.environ.get("NBKV_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
MOONCAKE = DATA / "mooncake_conversation_trace.jsonl"


@pytest.fixture(autouse=True)
def _costing(monkeypatch):
    monkeypatch.setattr(cost_model, "measure", lambda adapter: COSTS)
    monkeypatch.setattr("nbkv.inference.run.learn", lambda *_: None)


@pytest.fixture
def written(tmp_path):
    def write(*rows):
        path = tmp_path / "log.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path

    return write


def conversations(words, seed, n=24):
    """Prompts that share beginnings as chats and questions about documents do."""
    draw = random.Random(seed)
    documents = [words(draw.randrange(20, 70), seed=seed * 100 + each) for each in range(4)]
    open_chats = [""]
    for number in range(n):
        begin = draw.choice([*documents, *open_chats[-3:]])
        prompt = begin + words(draw.randrange(4, 25), seed=seed * 1000 + number)
        open_chats.append(prompt)
        yield prompt


def asked_in(session, prompts, tokens=inf):
    """Ask ``prompts`` with room for so many tokens; return the results, and how many tokens were held at most times."""
    each = sum(session.adapter.capabilities.kv_size(layer) for layer in range(session.adapter.n_layers)) * 4
    if tokens < inf:
        session.use_store(f"memory?device={tokens * each}B")
    asked, held = [], []
    for prompt in prompts:
        asked.append(session.generate(prompt, max_new_tokens=3))
        held.append(session.store.figures()[0]["tokens"])
    return asked, held


def log_of(asked):
    return RequestLog(
        "log", 1, tuple(LoggedRequest(one.prompt_ids, len(one.prompt_ids), one.token_ids) for one in asked)
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_simulated_store_reuses_what_a_session_reuses(session_of, words, seed):
    asked, held = asked_in(session_of(), conversations(words, seed))
    (row,) = nbkv.replay(log_of(asked)).rows

    assert row.hit_rate == sum(one.tokens.reused for one in asked) / row_tokens(asked) > 0.3
    assert held[-1] == len({one.prompt_ids[: at + 1] for one in asked for at in range(len(one.prompt_ids))}) + sum(
        len(one.token_ids) - 1 for one in asked
    )


def row_tokens(asked):
    return sum(len(one.prompt_ids) for one in asked)


@pytest.fixture
def plain_session(model_of, make_tokenizer):
    with nbkv.load(model_of("llama"), tokenizer=make_tokenizer(bos=False)) as session:
        yield session


def chats(words, seed, n=30):
    """Five conversations, whose turns come in any order and which are begun anew when they are long."""
    draw, said = random.Random(seed), [""] * 5
    for number in range(n):
        chat = draw.randrange(5)
        said[chat] += words(draw.randrange(8, 20), seed=seed * 1000 + number)
        if len(said[chat].split()) > 100:
            said[chat] = words(9, seed=seed * 5000 + number)
        yield said[chat]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("tokens", [420, 260, 140])
def test_a_full_store_evicts_what_a_simulated_one_evicts(plain_session, words, seed, tokens, monkeypatch):
    """Each chat continues its own buffer: no copies of shared beginnings, and without spare room bytes are tokens."""
    monkeypatch.setattr(growing_layer, "_rounded", lambda length: length)
    asked, _ = asked_in(plain_session, chats(words, seed), tokens)
    (row,) = nbkv.replay(log_of(asked), sizes=[tokens]).rows

    assert row.evictions == plain_session.store.figures()[0]["evictions"] > 5
    assert row.hit_rate == sum(one.tokens.reused for one in asked) / row_tokens(asked)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("tokens", [600, 300])
def test_where_prompts_branch_a_simulated_store_is_one_of_as_many_tokens(session_of, words, seed, tokens):
    """Branches copy what they share or attend to it where it lies, so a real store's bytes hold fewer tokens."""
    asked, held = asked_in(session_of(), conversations(words, seed), tokens)
    (row,) = nbkv.replay(log_of(asked), sizes=[max(held)]).rows

    assert row.hit_rate == pytest.approx(sum(one.tokens.reused for one in asked) / row_tokens(asked), abs=0.1)


def test_a_log_of_prompts_is_read_as_the_session_reads_it(session_of, words, written):
    session = session_of()
    prompts = [words(30, seed=1), words(30, seed=1) + " w1 w2", words(9, seed=2)]
    path = written(*({"prompt": prompt} for prompt in prompts))
    found = nbkv.replay(path, session=session, sizes=["inf", "1MB"])
    asked = [session.generate(prompt, max_new_tokens=1) for prompt in prompts]

    assert found.tokens == sum(len(one.prompt_ids) for one in asked)
    assert found.rows[0].computed == found.tokens - sum(one.tokens.reused for one in asked)
    assert found.rows[1].size_bytes == 1e6
    full = [COSTS.run(len(one.prompt_ids), len(one.prompt_ids)) for one in asked]
    assert found.full_s == pytest.approx(sum(full) / 3)
    assert found.rows[0].ttft_s < found.full_s


def test_a_tier_below_gives_what_the_first_one_lost_and_takes_its_time(session_of, words):
    session = session_of()
    ids = [tuple(random.Random(n).randrange(3, 190) for _ in range(80)) for n in range(4)]
    log = RequestLog("log", 1, tuple(LoggedRequest(each, 80) for each in ids * 2))
    each = 1024
    alone = nbkv.replay(log, sizes=[100], session=session).rows[0]
    lower = LowerTier("disk", "1GB", rate=each * 1e5)
    both = nbkv.replay(log, sizes=[100], below=[lower], session=session).rows[0]

    assert alone.hit_rate == alone.below == 0
    assert both.hit_rate == both.below == 4 * 79 / (8 * 80)
    hit, miss = 79 * 1e-5 + COSTS.run(1, 80), COSTS.run(80, 80)
    assert both.ttft_s == pytest.approx((hit + miss) / 2)
    with pytest.raises(BadOption, match="name a model"):
        nbkv.replay(log, below=[lower])


def paths(policy, *asked, limit):
    tier = SimulatedTier(limit, policy_of(policy), 1, COSTS)
    return [tier.known(path) for path in asked if tier.keep(path, len(path)) is None or True]


@pytest.mark.parametrize(
    ("policy", "left"),
    [("lru", {"new", "late"}), ("lfu", {"often", "late"}), ("cost", {"often", "late"})],
)
def test_policies_evict_different_things(policy, left):
    tier = SimulatedTier(60, policy_of(policy), 1, COSTS)
    often, new, late = (tuple(range(start, start + 30)) for start in (0, 100, 200))
    for path in (often, often, often, new, late):
        tier.keep(path, 29)

    held = {name for name, path in (("often", often), ("new", new), ("late", late)) if tier.known(path) == 30}
    assert held == left or (policy == "lfu" and held == {"often", "new"})
    assert tier.tokens <= 60


def test_one_read_of_mooncake_is_blocks_of_512(written):
    log = read_log(written({"input_length": 600, "hash_ids": [0, 1]}, {"input_length": 512, "hash_ids": [0]}))
    row = nbkv.replay(log).rows[0]

    assert (log.block, log.tokens) == (512, 1112)
    assert row.block_rate == 1 / 3
    assert row.hit_rate == 511 / 1112, "the last token of a prompt always runs"


@pytest.mark.skipif(not MOONCAKE.is_file(), reason="the Mooncake trace is not here: its publishers have it")
def test_mooncakes_conversations_hit_the_known_share_of_blocks():
    found = nbkv.replay(MOONCAKE, sizes=["inf", "3M"], policies=["lru", "cost"])

    assert found.requests == 12_031
    assert [round(100 * row.block_rate, 1) for row in found.rows[::2]] == [36.6, 36.6]
    assert all(0 < row.block_rate < 0.366 for row in found.rows[1::2])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"input_length": 10}, "has no 'hash_ids'|name a model"),
        ({"hash_ids": [1, "a"], "input_length": 600}, "more than whole numbers"),
        ({"hash_ids": [1, 2], "input_length": 2000}, "2 hash_ids of 512 tokens"),
        ({"hash_ids": [1, 2]}, "has no 'input_length'"),
        ({"prompt": "w1 w2"}, "name a model"),
        ({"prompt_ids": [1.5]}, "more than whole numbers"),
        ([1], "not an object"),
    ],
)
def test_what_is_no_log_is_refused_with_the_line(written, row, told):
    with pytest.raises(LoadError, match=told) as refused:
        nbkv.replay(written(row))
    assert re.search("(line|item) 1", str(refused.value))


def test_sizes_and_policies_that_are_none_are_refused(written, session_of):
    path = written({"prompt_ids": [1, 2, 3]})
    for sizes in (["4GiB"], ["many"], ["-"]):
        with pytest.raises(BadOption):
            nbkv.replay(path, sizes=sizes)
    with pytest.raises(BadOption, match="lru"):
        nbkv.replay(path, policies=["newest"])
    with pytest.raises(BadPrompt):
        nbkv.replay(written({"prompt": [{"role": "user", "content": "w1"}]}), session=session_of())


def test_a_replay_is_data_and_a_picture(written):
    rows = [{"prompt_ids": [*range(n % 5), *range(50 + n % 3, 60)]} for n in range(30)]
    found = nbkv.replay(written(*rows), sizes=["20", "200", "inf"], policies=["lru", "lfu", "cost"])
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))

    assert [row["size"] for row in data["rows"][:3]] == [20, 200, None]
    assert len(found.to_frame()) == 9
    assert "no bound" in repr(found)
    assert found.svg().count("<polyline") == 3
    assert "<svg" in found._repr_html_()
    assert "<script" not in found._repr_html_()
    assert "<svg" not in nbkv.replay(written(*rows))._repr_html_(), "one size makes no curve"


def test_the_command_prints_the_table_and_writes_it(written, tmp_path, capsys):
    from nbkv.cli import main

    path = written(*({"prompt_ids": [1, 2, 3, n]} for n in range(9)))
    data, picture = tmp_path / "replay.json", tmp_path / "replay.svg"
    asked = ["--size", "5", "--size", "50", "--policy", "lru", "--policy", "cost"]
    assert main(["replay", str(path), *asked, "--json", str(data), "--svg", str(picture)]) == 0

    assert "9 requests, 36 tokens" in capsys.readouterr().out
    assert len(json.loads(data.read_text())["rows"]) == 4
    assert picture.read_text().count("<polyline") == 2
    assert main(["replay", str(path), "--size", "many"]) == 2
    assert main(["replay", str(path), "--below", "disk", "1GB", "fast"]) == 2
