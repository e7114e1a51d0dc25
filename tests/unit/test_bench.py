from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import nbkv
from nbkv import bench, cli
from nbkv.bench.agreement import ROUNDING, Reference, reference
from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved, table
from nbkv.bench.models import make
from nbkv.bench.replay import Pass, flops, ready, recording, run_again, token_layers
from nbkv.bench.report import FIGURES, PAGE, page
from nbkv.errors import BadOption, UnknownName
from nbkv.models.work import Work

KEYS = {"name", "regime", "baseline", "ours", "ratio", "floor", "floor_ratio"}


def test_candidates_take_turns_after_a_warm_up():
    order = []

    def work(name):
        return lambda ready: order.append((name, ready))

    seconds = interleaved([TimedCandidate("a", work("a"), lambda: "ready"), TimedCandidate("b", work("b"))], rounds=3)
    assert order == [("a", "ready"), ("b", None)] * 4
    assert set(seconds) == {"a", "b"}


def test_the_median_is_of_what_the_work_tells_without_the_warm_up():
    figures = iter([100.0, 3.0, 1.0, 2.0])
    assert interleaved([TimedCandidate("a", lambda _: next(figures))], rounds=3) == {"a": 2.0}


def test_rows_give_ratios_and_json():
    row = BenchRow(name="x", regime={"shape": "mini"}, against="theirs", baseline=2.0, ours=1.0, floor=0.8)
    assert row.to_dict().keys() >= KEYS
    assert row.to_dict()["ratio"] == 0.5
    assert row.to_dict()["floor_ratio"] == pytest.approx(1.25)
    assert table([row]).splitlines() == [
        "# shape mini",
        "x            1000.0 ms = 0.500 x theirs (2000.0 ms), 1.25 x the floor of 800.0 ms",
    ]


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ([1, 2, 3, 4], ""),
        ([1, 2, 9, 9], ""),  # the third token is a toss-up: from there on anything may differ
        ([1, 2], ""),
        ([1, 5, 3, 4], "token 1 is 5 where the reference gives 2"),
        ([1], "1 tokens where the reference gives 2"),
    ],
)
def test_answers_agree_as_far_as_the_reference_decides(tokens, why):
    assert Reference(tokens=(1, 2, 3, 4), gaps=(0.5, 0.3, 0.001, 0.5), tolerance=0.01).differs(tokens) == why


def test_an_undecided_reference_compares_nothing():
    assert "nothing to compare" in Reference(tokens=(1,), gaps=(0.0,), tolerance=0.01).differs([1])


@pytest.mark.parametrize("split", [1, 3, 20, 39])
def test_half_precision_is_allowed_the_models_own_noise(split):
    model = make("mini", torch.bfloat16).model
    ids = list(range(1, 41))
    found = reference(model, ids, 4, split)

    def cut_at(*places):
        cache, begin = DynamicCache(config=model.config), 0
        with torch.inference_mode():
            for end in (*places, len(ids)):
                logits = model(torch.tensor([ids[begin:end]]), past_key_values=cache).logits[0, -1].float()
                begin = end
        return logits

    parts = cut_at(split)
    assert found.tokens[0] == int(parts.argmax())
    assert found.tolerance >= float((parts - cut_at()).abs().max())
    assert split < 3 or found.tolerance >= float((parts - cut_at(split // 4 * 2 + 1, split)).abs().max())
    assert found.tolerance >= ROUNDING[torch.bfloat16]


def test_in_fp32_only_rounding_is_allowed():
    found = reference(make("mini", torch.float32).model, list(range(1, 41)), 4, 20)
    assert found.tolerance < 1e-2


def test_unknown_names_and_values_out_of_range():
    with pytest.raises(UnknownName, match=r"did you mean 'ttft.prefix'\?"):
        bench.run(["ttft.prefx"])
    with pytest.raises(BadOption, match="rounds=0"):
        bench.run(["overhead"], rounds=0)
    with pytest.raises(UnknownName, match="unknown shape 'huge'"):
        bench.run(["overhead"], shape="huge")


@pytest.mark.parametrize(("name", "n_rows"), [("ttft.prefix", 2), ("decode.tpot", 1), ("overhead", 1)])
def test_a_small_slice_of_each_measures(name, n_rows):
    rows = bench.run([name], shape="mini", context=64, rounds=1, peers=False)
    assert len(rows) >= n_rows
    for row in rows[:n_rows]:
        assert not row.refused
        assert row.ours > 0
        assert row.baseline > 0
        assert row.floor > 0
        assert row.regime.keys() >= {"shape", "dtype", "device", "threads", "batch"}


@pytest.mark.parametrize("name", ["ttft.prefix", "decode.tpot", "overhead"])
def test_other_outputs_are_refused_not_reported(name, monkeypatch, tmp_path, capsys):
    def wrong(self, logits):
        return int(logits.argmin())

    monkeypatch.setattr("nbkv.models.sampling.Chooser.choose", wrong)
    path = tmp_path / "rows.json"
    code = cli.main(
        ["bench", name, "--shape", "mini", "--context", "64", "--rounds", "1", "--no-peers", "--json", str(path)]
    )
    (row,) = json.loads(path.read_text())
    assert code == 1
    assert row["ours"] is row["ratio"] is row["baseline"] is None
    assert row["refused"]
    assert "refused" in capsys.readouterr().out


@pytest.fixture
def _few_prompts(monkeypatch):
    monkeypatch.setattr("nbkv.bench.batch_prefix.PROMPTS", 4)
    monkeypatch.setattr("nbkv.bench.batch_prefix.NEW", 5)


@pytest.mark.usefixtures("_few_prompts")
def test_a_batch_is_measured_beside_transformers_and_bare_forwards():
    batch, alone = bench.run(["batch.prefix"], shape="mini", context=64, rounds=1)
    assert "one batch" in batch.against
    assert "one by one" in alone.against
    assert min(batch.ours, batch.baseline, batch.floor, alone.baseline) > 0
    assert "the shared prefix 0;" in batch.notes[0]
    assert f"over {64 + 4 * 32 + 4 * 4} rows" in batch.notes[1]


@pytest.mark.usefixtures("_few_prompts")
@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_batch_with_another_answer_has_no_figures(monkeypatch, at):
    from nbkv.inference.batch_request import BatchRequest

    fed = BatchRequest.fed

    def wrong(self, tokens, logits, largest):
        return fed(self, tokens, logits, largest + 1 if self.index == at else largest)

    monkeypatch.setattr(BatchRequest, "fed", wrong)
    (row,) = bench.run(["batch.prefix"], shape="mini", context=64, rounds=1)
    assert row.refused.startswith(f"prompt {at}: token 0 is")
    assert row.ours is None


@pytest.fixture
def _small_searches(monkeypatch):
    for name, value in (("WIDTH", 4), ("DEPTH", 3), ("STEP", 3)):
        monkeypatch.setattr(f"nbkv.bench.search_ets.{name}", value)


@pytest.mark.usefixtures("_small_searches")
def test_a_search_is_measured_beside_those_that_share_nothing():
    rows = bench.run(["search.ets"], shape="mini", context=24, rounds=1)
    assert [row.against for row in rows] == [
        "rebase without sharing",
        "the same search without sharing",
        "rebase with sharing",
    ]
    assert all(row.ours > 0 and row.baseline > 0 for row in rows)
    assert "x less than rebase without sharing" in rows[0].notes[1]


@pytest.mark.usefixtures("_small_searches")
@pytest.mark.parametrize("method", ["ets", "rebase"])
def test_a_search_that_finds_something_else_without_sharing_has_no_figures(monkeypatch, method):
    from nbkv.bench.search_ets import _WAYS, RepeatedBranches

    own = RepeatedBranches.run
    if method == "rebase":  # the other one agrees
        monkeypatch.setitem(_WAYS, "ets alone", _WAYS["ets"])
    monkeypatch.setattr(RepeatedBranches, "run", lambda self, *given: -own(self, *given))
    (row,) = bench.run(["search.ets"], shape="mini", context=24, rounds=1)
    assert row.refused == f"{method} finds other answers without sharing"
    assert row.ours is None


def test_agents_are_measured_beside_full_and_bare_forwards():
    (row,) = bench.run(["agents.kvcomm"], shape="mini", context=80, rounds=1)
    assert min(row.baseline, row.ours, row.floor) > 0
    assert "% reuse" in row.notes[0]
    assert row.notes[1].startswith("50 anchors")  # five agents of five slots, two turns


@pytest.mark.parametrize("what", ["the answer is another one", "too little is reused"])
def test_agents_have_no_figures_where(monkeypatch, what):
    from nbkv.strategies.kvcomm import KVComm

    prefill = KVComm.prefill

    def wrong(self, request, ctx):
        prefilled = prefill(self, request, ctx)
        prefilled.logits = prefilled.logits.roll(1)
        return prefilled

    if what.startswith("the answer"):
        monkeypatch.setattr(KVComm, "prefill", wrong)
    else:
        monkeypatch.setattr("nbkv.bench.agents_kvcomm.STRATEGY", "kvcomm(gamma=0)")
    (row,) = bench.run(["agents.kvcomm"], shape="mini", context=80, rounds=1)
    assert row.ours is None
    assert ("gate that refuses everything: token 0" if what.startswith("the answer") else "are reused") in row.refused


def test_the_last_agent_of_a_chain_reads_what_the_others_decoded():
    as_it_is, rectified = bench.run(["agents.relay"], shape="mini", context=128, rounds=1)
    assert (as_it_is.against, as_it_is.regime["agents"], as_it_is.regime["output"]) == ("full", 5, 32)
    assert min(as_it_is.ours, as_it_is.baseline, rectified.ours, rectified.baseline) > 0
    assert 1 < rectified.ideal < as_it_is.ideal == pytest.approx(160 / 36)  # 32 of its own, and each one's last token
    assert "77.5% of 160 tokens reused" in as_it_is.notes[0]


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("nbkv.strategies.relay.Relay.supply", lambda self, request, ctx: (request, {}), "tokens were fresh"),
        ("nbkv.strategies.relay.Relay.at_full_budget", lambda self: nbkv.strategy.parse("relay(0)"), "full budget"),
    ],
)
def test_a_chain_that_reuses_nothing_or_says_something_else_has_no_figures(monkeypatch, name, wrong, told):
    monkeypatch.setattr(name, wrong)
    rows = bench.run(["agents.relay"], shape="mini", context=128, rounds=1)
    assert all(row.ours is None for row in rows)
    assert any(told in row.refused for row in rows)


def test_the_planners_pick_is_measured_beside_every_form(tmp_path):
    path = tmp_path / "rows.json"
    command = ["bench", "residual.restore", "--shape", "mini", "--context", "64", "--rounds", "1", "--json", str(path)]
    assert cli.main(command) == 0
    fastest, full, host = json.loads(path.read_text())
    assert fastest["against"].startswith("the fastest measured form, ")
    assert (full["against"], host["against"]) == ("full prefill", "K/V copied from host memory")
    assert all(row.keys() >= KEYS and row["ratio"] > 0 for row in (fastest, full, host))
    assert any(note.startswith("ids: ") and "4 B a token" in note for note in fastest["notes"])


def test_forms_that_give_another_answer_have_no_figures(monkeypatch):
    monkeypatch.setattr("nbkv.models.sampling.Chooser.choose", lambda self, logits: int(logits.argmin()))
    (row,) = bench.run(["residual.restore"], shape="mini", context=64, rounds=1)
    assert "token 0 is" in row.refused
    assert row.ours is None


def test_a_dashboard_is_measured_in_a_kernel(monkeypatch):
    monkeypatch.setattr("nbkv.bench.views.TOKENS", 60)
    (row,) = bench.run(["views"], shape="mini", rounds=1)
    assert row.ours > 0
    assert row.baseline > 0
    assert "CPU time" in row.notes[0]
    assert float(row.notes[1].split()[0]) > 0


def test_imports_are_measured_and_load_no_torch(capsys, tmp_path):
    path = tmp_path / "rows.json"
    assert cli.main(["bench", "import", "--rounds", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["against"] for row in rows] == ["bare python", "bare IPython"]
    assert all(row["ours"] > 0 for row in rows)


CHUNKS = ["cacheblend(0.15)", "prophet(0.20)", "epic(16)", "blend(0.20)"]


def test_chunks_are_measured_for_every_strategy(tmp_path, capsys):
    path = tmp_path / "rows.json"
    command = ["bench", "ttft.chunks", "--shape", "mini", "--context", "256", "--rounds", "1", "--json", str(path)]
    assert cli.main(command) == 0
    rows = json.loads(path.read_text())
    assert [row["strategy"] for row in rows] == CHUNKS
    for row in rows:
        assert row.keys() >= KEYS
        assert row["against"] == "full"
        assert row["ratio"] > 0
        assert row["floor_ratio"] > 0
        assert row["ideal"] > 1
        assert row["regime"].keys() >= {"shape", "dtype", "device", "threads", "chunks", "chunk"}
    assert "by FLOPs alone it would be" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "wrong", "why"),
    [
        (
            "nbkv.models.sampling.Chooser.choose",
            lambda self, logits: int(logits.argmin()),
            "at its full budget: token 0",
        ),
        ("nbkv.bench.ttft_chunks.token_layers", lambda passes: -1, "it counts"),
        (
            "nbkv.families.blend.base.provenance",
            lambda partial, chosen: np.zeros(partial.length, np.uint8),
            "tokens were fresh",
        ),
    ],
)
def test_chunks_that_are_not_sound_have_no_figures(monkeypatch, name, wrong, why):
    monkeypatch.setattr(name, wrong)
    rows = bench.run(["ttft.chunks"], shape="mini", context=256, rounds=1)
    assert all(why in row.refused and row.ours is None for row in rows)


def test_answers_that_change_from_round_to_round_are_refused(monkeypatch):
    answers = itertools.count()
    monkeypatch.setattr("nbkv.bench.ttft_chunks.ChunkWorkload.first", lambda self, spec: (1.0, next(answers)))
    rows = bench.run(["ttft.chunks"], shape="mini", context=256, rounds=1)
    assert all("2 different tokens" in row.refused for row in rows)


def test_passes_run_again_are_what_was_run():
    bench_ = make("mini", torch.float32)
    with nbkv.load(bench_.model, tokenizer=bench_.tokenizer, strategy="full") as session:
        ids = bench_.ids(48, seed=1)
        adapter, tensor = session.adapter, session.adapter.tensor(ids)
        cache = ready(adapter, ids)
        exact = adapter.forward(tensor, adapter.new_cache(), start=0)[-1]
        rows = torch.arange(48)
        with recording(adapter) as passes:
            front = adapter.advance(tensor, rows, cache, stop=2, work=Work())
            kept = rows[1::2]
            once = adapter.recompute(tensor[kept], kept, cache, since=front.keep(kept))[-1]
        assert [(len(each.rows), each.start, each.stop) for each in passes] == [(48, 0, 2), (24, 2, 4)]
        assert token_layers(passes) == 48 * 2 + 24 * 2
        assert flops(adapter, passes) < flops(adapter, [Pass.of_all(48, adapter)])
        again = run_again(adapter, tensor, ready(adapter, ids), passes)
        torch.testing.assert_close(again, once)
        torch.testing.assert_close(again, exact, atol=1e-4, rtol=1e-4)
        assert "recompute" not in vars(adapter)

        with recording(adapter) as looked:
            work = Work()
            front = adapter.advance_to_kv(tensor, rows, cache, layer=1, work=work)
            twice = adapter.recompute(tensor[kept], kept, cache, since=front.keep(kept), work=work)[-1]
        assert [(each.start, each.stop, each.looks, each.known) for each in looked] == [
            (0, 2, True, False),
            (1, 4, False, True),
        ]
        assert token_layers(looked) == work.token_layers == token_layers(passes)
        assert flops(adapter, looked) < flops(adapter, passes)
        torch.testing.assert_close(twice, once)
        torch.testing.assert_close(run_again(adapter, tensor, ready(adapter, ids), looked), once)


def test_block_diffusion_is_measured_where_tau_1_gives_the_same_tokens(monkeypatch):
    from nbkv.bench import diffusion_flashblock as bench_of

    monkeypatch.setattr(bench_of, "WORKS", (bench_of.DiffusionWorkload(4, 1, 8),))
    monkeypatch.setattr(bench_of, "_SETTLES", 1)
    rows = bench.run(["diffusion.flashblock"], shape="mini", context=64, rounds=1, peers=False)

    assert [row.against for row in rows] == [bench_of.OWN, bench_of.TWO_PARTS, f"that of: {bench_of.TWO_PARTS}"]
    assert all(row.to_dict().keys() >= KEYS and row.ratio > 0 and not row.refused for row in rows)
    assert rows[0].regime["context"] == 64
    assert any("keeping attention is quicker" in note for note in rows[-1].notes)


def test_block_diffusion_with_other_tokens_has_no_figures(monkeypatch):
    from nbkv.bench import diffusion_flashblock as bench_of

    monkeypatch.setattr(bench_of, "WORKS", (bench_of.DiffusionWorkload(4, 1, 8),))
    monkeypatch.setattr(bench_of._Regime, "_answer", lambda self, which: SimpleNamespace(token_ids=(which,)))
    (row,) = bench.run(["diffusion.flashblock"], shape="mini", context=64, rounds=1, peers=False)

    assert "other tokens" in row.refused


def test_lookups_are_measured_in_stores_of_every_size_that_fits(monkeypatch):
    monkeypatch.setattr("nbkv.bench.store_scale.SIZES", (100, 1_000, 10**12))
    *measured, missing = bench.run(["store.scale"], context=16, rounds=1)
    assert [row.strategy for row in measured] == ["found in 1000", "evicting in 1000"]
    assert all(row.against == "100 entries" and row.ours > 0 and row.baseline > 0 for row in measured)
    assert all(row.to_dict().keys() >= KEYS for row in measured)
    assert missing.ours is None
    assert "there is memory for" in missing.missing


@pytest.mark.parametrize(("method", "why"), [("found", "tokens found of an entry"), ("evicting", "of 500 evicted")])
def test_lookups_that_find_something_else_have_no_figures(monkeypatch, method, why):
    monkeypatch.setattr("nbkv.bench.store_scale.SIZES", (100, 200))
    if method == "found":
        monkeypatch.setattr("nbkv.bench.store_scale.Ids.truncate", lambda self, _: setattr(self, "tokens", (1,)))
    else:
        monkeypatch.setattr("nbkv.stores.memory.MemoryStore._evict", lambda self: None)
    rows = {row.strategy: row for row in bench.run(["store.scale"], context=16, rounds=1)}
    assert why in rows[f"{method} in 200"].refused
    assert rows[f"{method} in 200"].ours is None


def test_the_page_of_figures_is_made_from_the_committed_ones():
    assert PAGE.read_text() == page(json.loads(FIGURES.read_text())), "run `python -m nbkv.bench.report`"


def test_the_page_tells_why_there_is_no_figure():
    row = BenchRow(name="ttft.prefix", regime={"shape": "mini"}, against="another", missing="it gives wrong tokens")
    told = page([row.to_dict()])
    assert "| nbkv | – | another | – | – | – |" in told
    assert "- another: not measured: it gives wrong tokens" in told


def test_every_way_of_missing_is_named_and_its_gain_told():
    from nbkv.bench.why_gain import run
    from nbkv.misses import Cause

    rows = run(shape="mini", context=96, rounds=1, peers=False)
    named = {row.against.removeprefix("missed: ") for row in rows}

    assert not [(row.against, row.refused) for row in rows if row.refused]
    assert named == {str(cause) for cause in Cause} - {"new", "last", "chosen"}
    assert all("predicted" in row.notes[0] for row in rows)
