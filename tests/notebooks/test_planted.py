"""An experiment that cannot come out otherwise is none: notebooks and tables react to what is planted under them.

A notebook's own cells are run in this process, with small parameters, once as they are and once with a fault in the
package; what it reports must differ, or it must end with an error. The faults sit where attention, caches and stores
really work, and are there only after the notebook has loaded its model.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import plotly.graph_objects
import pytest
import torch

import nbkv
from nbkv.families.agents.offsets import difference
from nbkv.families.attention.context_attention import ContextAttention
from nbkv.families.blend.layerwise import LayerwisePlacement
from nbkv.families.evict.base import Evict
from nbkv.kv import KV
from nbkv.models import loading
from nbkv.models.attention import masks, ranges
from nbkv.models.attention.positions import PassAttention
from nbkv.models.caches.evicting import EvictingCache
from nbkv.models.caches.recurrent import StateLayer
from nbkv.models.caches.restoring import RestoringLayer
from nbkv.models.probing.probe import probe
from nbkv.models.trees.token_tree import TokenTree
from nbkv.models.trees.tree_pass import TreePass
from nbkv.session.reranking import rerank
from nbkv.stores.memory import MemoryStore
from nbkv.stores.tiers.indexed.policies import LeastRecent
from nbkv.strategies import kvlink, relay
from nbkv.strategies.flashblock import FlashBlock
from nbkv.studies import answers, divergence, eviction, flashblock, foresight, reasoning
from nbkv.studies.agents import chains, rivals
from nbkv.studies.leaderboard import contest
from nbkv.studies.leaderboard.standing import standing
from nbkv.traces import simulation
from nbkv.traces.log import LoggedRequest, RequestLog
from nbkv.training import diffusion_reader, reader

ROOT = Path(__file__).resolve().parents[2]


# what is planted


def a_row_sees_the_next_one(patch):
    own = masks.edges

    def edges(rows, *reach):
        lower, upper = own(rows, *reach)
        return lower, upper + 1

    for module in (masks, ranges):
        patch.setattr(module, "edges", edges)


def the_mask_is_bottom_right(patch):
    own = PassAttention.by_position

    def by_position(self, rows, n_keys):
        return own(self, torch.arange(n_keys - len(rows), n_keys), n_keys)

    patch.setattr(PassAttention, "by_position", by_position)


def keys_keep_their_old_positions(patch):
    def put(self, layer, keys, values, piece):
        self.cache.put(layer, piece.start, keys, values)

    patch.setattr(LayerwisePlacement, "_put", put)


def answers_come_back_halved(patch):
    own = relay.newest

    def newest(answers, chunk):
        found = own(answers, chunk)
        kv = found and KV(found.kv.keys, tuple(values / 2 for values in found.kv.values))
        return found and replace(found, kv=kv)

    patch.setattr(relay, "newest", newest)


def kept_attention_counts_half(patch):
    own = ContextAttention._reuse

    def reuse(self, attention, *, rows, heads):
        if (kept := self._kept.get(attention.layer)) is not None:
            self._kept[attention.layer] = (kept[0] / 2, kept[1])
        return own(self, attention, rows=rows, heads=heads)

    patch.setattr(ContextAttention, "_reuse", reuse)


def nothing_is_ever_refreshed(patch):
    patch.setattr(FlashBlock, "reuses", lambda self, block, answer: True)


def the_least_worthy_are_kept(patch):
    own = Evict._evict

    def evict(self, layer, room, window):
        worth = self.worth
        self.worth = lambda *given: -worth(*given)
        try:
            own(self, layer, room, window)
        finally:
            del self.worth

    patch.setattr(Evict, "_evict", evict)


def offsets_are_taken_off(patch):
    patch.setattr("nbkv.strategies.kvcomm.total", difference)


def held_bytes_count_twice(patch):
    own = EvictingCache.held_bytes
    patch.setattr(EvictingCache, "held_bytes", lambda self: 2 * own(self))


def restored_values_are_halved(patch):
    own = RestoringLayer.restore
    patch.setattr(RestoringLayer, "restore", lambda self, start, keys, values: own(self, start, keys, values / 2))


def states_come_back_halved(patch):
    own = StateLayer.put
    patch.setattr(StateLayer, "put", lambda self, states: own(self, {k: state / 2 for k, state in states.items()}))


def a_known_prefix_has_other_values(patch):
    own = MemoryStore.take

    def take(self, *given, **options):
        lease = own(self, *given, **options)
        for layer in lease.buffer.layers if lease.matched else ():
            layer.values[:, :, : lease.matched] *= -1
        return lease

    patch.setattr(MemoryStore, "take", take)


def a_branch_sees_its_siblings(patch):
    own = TreePass._reach

    def reach(self, window, chunk):
        first, lower, mask = own(self, window, chunk)
        return first, lower, torch.ones_like(mask)

    patch.setattr(TreePass, "_reach", reach)


def pruned_branches_stay(patch):
    own = TokenTree.keep

    def keep(self, numbers):
        own(self, [*numbers, *(at for at in range(len(self.lengths)) if at not in set(numbers))])

    patch.setattr(TokenTree, "keep", keep)


def saved_weights_are_noise(patch):
    own = reader.save_reader

    def save_reader(model, folder):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
        own(model, folder)

    patch.setattr(diffusion_reader, "save_reader", save_reader)


def the_bundled_reader_is_saved(patch):
    bundled = Path(nbkv.__file__).parent / "models" / "bundled" / "tiny"
    patch.setattr(reader, "save_reader", lambda model, folder: shutil.copytree(bundled, folder))


def the_newest_go_first(patch):
    own = LeastRecent.score
    patch.setattr(LeastRecent, "score", lambda self, use: -own(self, use))


def a_block_more_is_known(patch):
    own = simulation._Simulation._hit
    patch.setattr(simulation._Simulation, "_hit", lambda self, *given: [n + 1 for n in own(self, *given)])


def links_are_others(patch):
    own = kvlink.read_links
    patch.setattr(kvlink, "read_links", lambda path: replace(own(path), vectors=-own(path).vectors))


# notebooks


def proved_once(patch):
    """Prove each model at its first load only, before anything is planted: later loads would refuse it."""
    own, known = loading.adapt, {}

    def adapt(model, name, record=None, recipe=None, identity=None):
        about = (id(model), recipe)
        known[about] = record or known.get(about) or probe(model, name, recipe)
        return own(model, name, known[about], recipe, identity)

    patch.setattr(loading, "adapt", adapt)


def told(name, parameters, plants, patch):
    """Run the notebook's code cells with ``parameters``, ``plants`` behind the first load; its records and names."""
    found = {}
    space = {"__name__": "__main__"}
    with patch.context() as planted:
        proved_once(planted)
        planted.setattr(nbkv, "record", lambda **values: found.update(values))
        for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells:
            if cell.id == UNTIL.get(name):
                break
            if cell.cell_type != "code":
                continue
            exec(compile(cell.source, f"{name}/{cell.id}", "exec"), space)  # noqa: S102  (our own notebooks)
            if "parameters" in cell.metadata.get("tags", ()):
                space |= parameters
            if cell.id == BEHIND.get(name, "load"):
                for plant in plants:
                    plant(planted)
    return found, space


AGENTS = {"chains": 1, "agents": 3, "first": 4, "lines": 4}
REUSE = {"n": 2, "chunks": 3, "lines": 3, "strategies": ["epic"], "budgets": [0.3, 1.0], "sinks": ["bos"]}
MASKS = {"n": 1, "chunks": 3, "lines": 3, "ratios": [0.0, 0.3, 1.0]}
BLOCKS = {"n": 1, "followed": 1, "chunks": 3, "lines": [4], "blocks": [4], "taus": [1, 2], "unmasks": ["static"]}
BLOCKS |= {"thresholds": [0.9], "densities": [0.3]}
MEMORY = {"turns": 6, "chunks": 2, "lines": 3, "conversations": 1, "strategies": ["h2o"], "forms": ["host"], "older": 8}
STATES = {"families": ["qwen3_5_text"], "hidden": 64, "turns": 6, "lines": 6, "histories": [48], "repeat": 1}
STATES |= {"users": 1, "segment": 64, "block": 16, "rooms": [0.3]}

SEARCH = {"n": 1, "width": 4, "depth": 3, "max_new_tokens": 20, "chunks": 3, "lines": 4}
SEARCH |= {"methods": ["beam"], "lambdas": [1.0]}
BATCHES = {"texts": 1, "questions": 2, "lines": 12, "widths": [2], "asked": 2, "blends": ["epic"], "passages": 4}
BATCHES |= {"retrieved": 2, "max_new_tokens": 4}
BOARD = {"tasks": ["distance 1"], "strategies": ["epic"], "budgets": [0.3], "sinks": ["bos"], "seeds": [0, 1]}
BOARD |= {"tables": "no folder"}

BEHIND = {"11_masks": "imports", "40_bounded_memory": "bounded-02", "41_state_checkpoints": "proof"}
BEHIND |= {"51_batch": "cell-02", "train_reader": "cell-1", "train_diffuser": "cell-2", "train_links": "cell-2"}
UNTIL = {"train_reader": "cell-9"}  # what comes then asks the same model by the same function


def attention_is_read_backwards(patch):
    own = rerank.query_attention
    patch.setattr(rerank, "query_attention", lambda *given: own(*given)[::-1].copy())


# name, parameters, what is planted all at once, and what of the notebook each of it must move
NOTEBOOKS = [
    (
        "50_agents",
        AGENTS,
        (answers_come_back_halved,),
        lambda found, space: (found["kl"]["relay(budget=0)"], found["kl"]["relay"]),
    ),
    (
        "53_rerank",
        {"questions": 6, "documents": 4, "reused": ["epic(budget=0.15)"]},
        (attention_is_read_backwards,),
        lambda found, space: (found["recall"]["ICR"], found["scores"][0]),
    ),
    (
        "10_chunk_reuse",
        REUSE,
        (a_row_sees_the_next_one, keys_keep_their_old_positions),
        lambda found, space: (
            found["whole_kl"],
            *space["cells"].set_index(["method", "budget"])["kl"][[("naive", 0.0), ("epic", 0.3)]],
        ),
    ),
    (
        "30_block_diffusion",
        BLOCKS,
        (kept_attention_counts_half, nothing_is_ever_refreshed),
        lambda found, space: (found["kl_tau_two"], found["tau_one_kl"]),
    ),
    (
        "40_bounded_memory",
        MEMORY,
        (the_least_worthy_are_kept, held_bytes_count_twice, restored_values_are_halved),
        lambda found, space: (found["kl"]["h2o"], found["held"]["h2o"], found["kl"]["residual(form='host')"]),
    ),
    (
        "41_state_checkpoints",
        STATES,
        (states_come_back_halved,),
        lambda found, space: (found["worst_kl"],),
    ),
    (
        "52_search",
        SEARCH,
        (a_branch_sees_its_siblings, pruned_branches_stay),
        lambda found, space: (found["error"], found["ways"]["beam"]["K/V on average, MiB"]),
    ),
    (
        "51_batch",
        BATCHES,
        (a_known_prefix_has_other_values, keys_keep_their_old_positions),
        lambda found, space: (float(found["exact"]), found["order"]["epic"]["KL"]),
    ),
    (
        "90_leaderboard",
        BOARD,
        (keys_keep_their_old_positions, the_mask_is_bottom_right),
        lambda found, space: (
            found["kl"]["cacheblend(budget=0)"],
            found["kl"]["random(budget=0.3)"],
            found["kl"]["epic(budget=0.3)"],
        ),
    ),
]


TRAINING = [
    (
        "train_diffuser",
        {"questions": 2, "lines": [3], "threads": 1, "device": "cpu", "start": "tiny-diffusion", "steps": 1},
        (saved_weights_are_noise,),
        lambda found, space: (sum(found[name] for name in found if name.startswith(("report", "ledger"))),),
    ),
    (
        "train_reader",
        {"questions": 1, "threads": 1, "device": "cpu", "steps": 1, "compiled": False},
        (the_bundled_reader_is_saved,),
        lambda found, space: (float(space["by_length"].mean().mean()),),
    ),
    (
        "train_links",
        {"steps": 1, "links": 2, "slots": 3, "questions": 6, "threads": 1},
        (links_are_others,),
        lambda found, space: (found["kl_trained_links"],),
    ),
]


@pytest.mark.parametrize(("name", "parameters", "plants", "figures"), TRAINING, ids=[each[0] for each in TRAINING])
def test_what_a_training_notebook_evaluates_is_what_was_saved(name, parameters, plants, figures, tmp_path, monkeypatch):
    monkeypatch.setattr(plotly.graph_objects.Figure, "show", lambda self: None)
    found = []
    for at, planted in enumerate(((), plants)):
        place = {"work": str(tmp_path / f"work{at}"), "out": str(tmp_path / f"out{at}")}
        found.append(figures(*told(name, parameters | place, planted, monkeypatch)))
    assert abs(found[1][0] - found[0][0]) > 0.01


@pytest.mark.parametrize(("name", "parameters", "plants", "figures"), NOTEBOOKS, ids=[each[0] for each in NOTEBOOKS])
def test_a_notebook_reacts(name, parameters, plants, figures, monkeypatch, request):
    if name.startswith("30"):
        parameters = parameters | {"model": str(request.getfixturevalue("blockwise_reader"))}
    before, after = (figures(*told(name, parameters, planted, monkeypatch)) for planted in ((), plants))
    for sound, broken in zip(before, after, strict=True):
        assert abs(broken - sound) > max(1e-5, 1e-3 * abs(sound))


@pytest.mark.parametrize("broken", ["the injection is somewhere else", "the package has that mask itself"])
def test_the_mask_experiment_fails_where_it_compares_a_mask_with_itself(broken, monkeypatch, capsys):
    told("11_masks", MASKS, (), monkeypatch)
    if broken.startswith("the package"):
        with pytest.raises(RuntimeError, match="changes no logit at share"):
            told("11_masks", MASKS, (the_mask_is_bottom_right,), monkeypatch)
        return
    read = nbformat.read

    def elsewhere(path, **options):
        notebook = read(path, **options)
        (cell,) = (cell for cell in notebook.cells if "PassAttention.by_position = aligned" in cell.source)
        cell.source = cell.source.replace("PassAttention.by_position = aligned", "PassAttention.nobody_calls = aligned")
        return notebook

    monkeypatch.setattr(nbformat, "read", elsewhere)
    with pytest.raises(RuntimeError, match="changes no logit at share"):
        told("11_masks", MASKS, (), monkeypatch)


def test_the_quickstart_sees_a_prefix_with_other_values(monkeypatch):
    item = nbkv.tasks.ledger(seed=0, n=1, chunks=4, lines=6)[0]

    def same():
        with nbkv.load("tiny") as session:
            parts = [*(session.chunk(text) for text in item.chunks), item.question]
            session.generate(parts, max_new_tokens=8)
            full, prefix = session.compare(parts, ["full", "prefix"], repeat=1, max_new_tokens=8).rows
            return prefix["same_text"], prefix["kl"] < 1e-6, full["kl"] < 1e-6

    assert same() == (True, True, True)
    a_known_prefix_has_other_values(monkeypatch)
    assert same()[1:] == (False, True)


# the studies behind the tables of docs/


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as made:
        yield made


def item():
    return nbkv.tasks.ledger(seed=5, n=1, chunks=3, lines=3, distance=1)[0]


def cells(session):
    rows = ("cacheblend(budget=0)", "epic(budget=0.3)", "epic(budget=1.0)")
    return {name: cell[0] for name, cell in answers.measure(session, item(), ["bos"], lambda _: rows)["cells"].items()}


def ranked(session):
    rows = contest.contenders(session.adapter, [0.3], ["epic"]).rows
    grid = {"tasks": ["distance 1"], "seeds": [5], "n": 1, "sinks": ["bos"]}
    return standing(contest.measured(session, rows, **grid)).set_index("strategy")["kl"]


def evicted(session):
    (asked,) = nbkv.tasks.report(seed=3, n=1, chunks=4, lines=4, distance=0)
    rows = eviction.measure(session, [asked], ["h2o(keep=0.3)"])
    return {"kl": rows[1]["kl"], "held": rows[1]["held"]}


def chained(session):
    given = {"question": "How much was the lamp ?", "answer": "#### 3"}
    asked = reasoning.ChainQuestion(session, given, 12)
    return {"kl": asked.forced("h2o(keep=0.3)")["kl"]}


def foreseen(session):
    (asked,) = nbkv.tasks.report(seed=3, n=1, chunks=4, lines=4, distance=0)
    prompt, tokens, _ = eviction.answered(session, asked)
    full = divergence.trace(session, prompt, tokens, "full")
    seeing = foresight.Foresight(0.3).of(session, prompt, tokens)
    return {"kl": divergence.trace(session, prompt, tokens, seeing).distance(full)}


def approximated(session):
    given = [{"question": f"who bought {what} ? ", "answer": f"he bought {what} ."} for what in ("milk", "tea", "salt")]
    rows = rivals.measure(session, given, warm=2, tokens=4)
    return {row["rival"]: row["kl"] for row in rows}


def handed_on(session):
    sizes = {"agents": 3, "first": 2, "lines": 1, "form": "notes", "seed": 7, "n": 2}
    rows = chains.measured(session, chains.ChainSet("tiny", ("full", "relay(budget=0)"), sizes))["rows"]
    return {row["strategy"]: sum(row["right"]) for row in rows}


STUDIES = [
    ("agents", handed_on, keys_keep_their_old_positions, "relay(budget=0)"),
    ("kvcomm", approximated, offsets_are_taken_off, "by token (`kvcomm`)"),
    ("chunks, real text: naive", cells, keys_keep_their_old_positions, "bos cacheblend(budget=0)"),
    ("chunks, real text: partly", cells, the_mask_is_bottom_right, "bos epic(budget=0.3)"),
    ("chunks, real text: full budget", cells, a_row_sees_the_next_one, "bos epic(budget=1.0)"),
    ("leaderboard", ranked, keys_keep_their_old_positions, "cacheblend(budget=0)"),
    ("leaderboard: a rival", ranked, the_mask_is_bottom_right, "random(budget=0.3)"),
    ("eviction: distance", evicted, the_least_worthy_are_kept, "kl"),
    ("eviction: memory", evicted, held_bytes_count_twice, "held"),
    ("reasoning", chained, the_least_worthy_are_kept, "kl"),
    ("the oracle of eviction", foreseen, the_least_worthy_are_kept, "kl"),
]


@pytest.mark.parametrize(("_", "study", "plant", "figure"), STUDIES)
def test_a_study_reacts(session, _, study, plant, figure, monkeypatch):
    before = study(session)
    plant(monkeypatch)
    after = study(session)
    assert abs(after[figure] - before[figure]) > max(1e-5, 1e-3 * abs(before[figure]))


def test_the_study_of_block_diffusion_reacts(blockwise_reader, monkeypatch):
    items = nbkv.tasks.report(seed=0, n=1, chunks=3, lines=4, distance=0)

    def kl():
        with nbkv.load(str(blockwise_reader), block_size=4, strategy="full") as made:
            spec = "flashblock(tau=2, threshold=None, min_gain=0)"
            return flashblock.measure(made, items, ["full", spec], "static", 1)[1]["kl"]

    before = kl()
    kept_attention_counts_half(monkeypatch)
    assert kl() != pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize("plant", [the_newest_go_first, a_block_more_is_known])
def test_the_replay_of_a_log_reacts(plant, monkeypatch):
    draw = random.Random(0)
    paths = [(draw.randrange(6), *(draw.randrange(2) for _ in range(3))) for _ in range(80)]
    asked = [LoggedRequest(path=tuple(hash(path[:n]) for n in range(1, 5)), tokens=4 * 16) for path in paths]
    log = RequestLog(name="made", requests=tuple(asked), block=16)

    def rates():
        return [row.hit_rate for row in nbkv.replay(log, sizes=[320, 640]).rows]

    before = rates()
    plant(monkeypatch)
    assert min(abs(one - other) for one, other in zip(before, rates(), strict=True)) > 0.01


# every experiment, by the test here or elsewhere that plants a fault under it

PLANTED = {
    "notebooks": {
        "00_quickstart": "test_the_quickstart_sees_a_prefix_with_other_values",
        "11_masks": "test_the_mask_experiment_fails_where_it_compares_a_mask_with_itself",
        **dict.fromkeys([each[0] for each in NOTEBOOKS], "test_a_notebook_reacts"),
        **dict.fromkeys([each[0] for each in TRAINING], "test_what_a_training_notebook_evaluates_is_what_was_saved"),
    },
    "tables": {
        **dict.fromkeys(
            ["agents", "chunks", "eviction", "eviction-reasoning", "kvcomm", "leaderboard", "masks"],
            "test_a_study_reacts",
        ),
        "flashblock": "test_the_study_of_block_diffusion_reacts",
        "decisions": "unit/test_decisions.py::test_a_fault_in_placing_chunks_is_seen_in_the_decisions",
        "edited": "unit/test_history_study.py::test_the_table_reacts_to_what_is_planted_under_it",
        "handover": "unit/test_agents_handover.py::test_values_that_are_lost_are_further_from_full",
        "replay": "test_the_replay_of_a_log_reacts",
        "bench": "unit/test_bench.py::test_other_outputs_are_refused_not_reported",
        "certify": "unit/test_splits.py::test_a_table_beyond_the_bound_is_seldom_certified_and_told",
    },
}


def test_no_experiment_is_left_out():
    tests = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    for name in {test for kind in PLANTED.values() for test in kind.values()}:
        file, _, test = name.rpartition("::")
        assert f"def {test}(" in tests[Path(file).name or "test_planted.py"]
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == PLANTED["notebooks"].keys()
    assert {path.stem for path in (ROOT / "docs" / "tables").glob("*.json")} <= PLANTED["tables"].keys()
