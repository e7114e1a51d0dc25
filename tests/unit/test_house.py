"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nbkv"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
USUAL, CEILING = 300, 450
README_MARKS = r"<!-- strategies: .*?-->\n(.*?)\n<!-- end -->"


def shown(path):
    return str(path.relative_to(ROOT))


def python(code, *options):
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True)


def test_import_does_not_load_torch():
    heavy = ["torch", "transformers", "numpy", "pandas", "IPython", "plotly", "papermill"]
    loaded = python(f"import sys, nbkv; print([name for name in {heavy} if name in sys.modules])")
    assert loaded.stdout.strip() == "[]"


def test_import_loads_two_modules_of_ours_and_none_of_others():
    code = "import sys; before = {*sys.modules}; import nbkv; print(*sorted({*sys.modules} - before))"
    loaded = python(code).stdout.split()
    assert [name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names] == [
        "nbkv",
        "nbkv.former_paths",
    ]


def test_public_names_are_there_and_nothing_else():
    code = "import nbkv; [getattr(nbkv, name) for name in nbkv.__all__]; print(sorted(nbkv.__all__) == nbkv.__all__)"
    assert python(code).stdout.strip() == "True"
    assert python("import nbkv; print(hasattr(nbkv, 'no_such_name'))").stdout.strip() == "False"


def test_every_strategy_module_is_named_after_its_strategy():
    from nbkv.registry import strategies

    own = {path.stem for path in (PACKAGE / "strategies").glob("*.py")} - {"__init__"}
    assert {name for name in strategies.names() if strategies.get(name).__module__.startswith("nbkv.")} == own


def test_readme_shows_the_strategies_there_are():
    import nbkv
    from nbkv.cli import markdown

    table = re.search(README_MARKS, (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert table, "README.md has lost the marks around its strategies table"
    assert table[1].strip() == markdown(nbkv.strategies()), "paste the output of `nbkv list --markdown` into README.md"


def test_floors_hold():
    done = subprocess.run(
        [shutil.which("lint-imports", path=sysconfig.get_path("scripts")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_name_kernels_stays_free(tmp_path):
    code = "import importlib.util as u, nbkv; spec = u.find_spec('kernels'); print(spec and spec.origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(ROOT) not in done.stdout
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_library_code(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= CEILING, "a room this large has two uses: split it"
    calls = {node.func.id for node in ast.walk(ast.parse(text)) if is_call_by_name(node)}
    assert "print" not in calls
    assert path.stem not in {"utils", "common", "helpers", "manager", "engine", "core", "misc"}


def test_rooms_are_small():
    lengths = sorted(path.read_text(encoding="utf-8").count("\n") for path in SOURCES)
    assert lengths[len(lengths) // 2] <= 120
    assert sum(length > USUAL for length in lengths) <= len(lengths) // 30


def is_call_by_name(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def committed():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    paths = [ROOT / line for line in done.stdout.splitlines()] or [*SOURCES, *NOTEBOOKS]
    return [path for path in paths if path.is_file() and path.suffix not in {".safetensors", ".png", ".ico"}]


def test_nothing_names_a_machine():
    # Home folders, scratch folders with a user's work, and package indexes belong to a machine, not to a repository.
    found = re.compile(r"/(?:home|Users)/\w+/|/root/|/work/|://(?:\w+\.)*pypi\w*\.|--(?:extra-)?index-url")
    mine = Path(__file__).resolve()
    for path in committed():
        if path.resolve() != mine:
            hit = found.search(path.read_text(encoding="utf-8", errors="replace"))
            assert hit is None, f"{shown(path)} names {hit[0] if hit else ''}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=shown)
def test_notebooks_are_clean_and_take_parameters(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code), "clear the outputs: they are made again by running"
    assert not any(cell["execution_count"] for cell in code)
    assert any("parameters" in cell["metadata"].get("tags", []) for cell in code)


def test_constraints_pin_everything_we_depend_on():
    import tomllib

    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in asked}
    assert names <= pinned


def test_what_we_import_is_declared():
    import tomllib

    given_by = {
        "IPython": "ipython",
        "langchain_core": "langchain-core",
        "llama_index": "llama-index-core",
        "jupyter_client": "jupyter-client",
        "markdown_it": "markdown-it-py",
        "yaml": "pyyaml",
    }
    # Parts of a declared distribution's own interface that live in a distribution it requires.
    brought_along = {"zmq", "traitlets", "tokenizers", "huggingface_hub", "pydantic"}
    imported = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"nbkv", "nbkv_kernels"} - brought_along
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    asked = project["dependencies"] + extras
    names = {re.match(r"[\w-]+", line)[0].lower() for line in asked}
    assert {given_by.get(name, name) for name in outside} <= names
    assert all(importlib.util.find_spec(name) for name in outside)


# The map: rooms, names, imports. Each rule is a function over a tree, so that a test can show that it sees a breach.

CROWDED = 12  # modules a room
WIDE = {"strategies", "bench", "show"}  # a leaf a paper, a benchmark, a view
AT_THE_ROOT = 19  # modules in the root of the package: as many as there are
LEAST = 20  # characters of a module's sentence in docs/structure.md


def modules(package):
    """Return the modules below ``package`` by dotted name, packages themselves included."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def rooms(package):
    """Return the paths of the modules in each folder, from ``package`` on, which is the room ``""``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        if path.name != "__init__.py":
            at = path.relative_to(package)
            found.setdefault("" if at.parent == Path() else at.parent.as_posix(), []).append(at.as_posix())
    return found


def without_a_line(package, text):
    every = [path for paths in rooms(package).values() for path in paths]
    return [path for path in every if not re.search(rf"`{re.escape(path)}`.{{{LEAST},}}", text)]


def misdirections(package, text):
    """Return what tables in ``text`` name in backquotes and is not there: modules, rooms, names in a row's files."""
    wrong = []
    for row in (line for line in text.splitlines() if line.startswith("|")):
        quoted = re.findall(r"`([^`]+)`", row)
        places = [name for name in quoted if name.endswith((".py", "/"))]
        wrong += [place for place in places if not (package / place).exists()]
        files = [
            file for place in places for file in [package / place, *(package / place).rglob("*.py")] if file.is_file()
        ]
        said = "\n".join(file.read_text(encoding="utf-8") for file in files)
        names = {word for name in {*quoted} - {*places} for word in name.split(".")}
        wrong += sorted(name for name in names if not re.search(rf"\b{re.escape(name)}\b", said))
    return wrong


def classes(package):
    """Return the names of the classes below ``package``, once for each class."""
    nodes = (node for path in package.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))


def overwritten(package):
    """Return what packages define under the name of a module of theirs, whose import puts the module in its place."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [
        f"{path.parent.relative_to(package).as_posix()}/{node.name}"
        for path in sorted(package.rglob("__init__.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, kinds) and any((path.parent / f"{node.name}{end}").exists() for end in (".py", ""))
    ]


def crowded(package):
    most = {"": AT_THE_ROOT} | dict.fromkeys(WIDE, float("inf"))
    return {room: len(paths) for room, paths in rooms(package).items() if len(paths) > most.get(room, CROWDED)}


def untested(package, tests, elsewhere, reached):
    """Return what is wrong with the tests of each module.

    ``elsewhere`` and ``reached`` map test files to the modules they cover: the former by name.
    """
    own, wrong = {path.stem for path in tests.rglob("test_*.py")}, []
    by_name = {module for covered in elsewhere.values() for module in covered.split()}
    listed = {module: name for files in (elsewhere, reached) for name in files for module in files[name].split()}
    for room, paths in rooms(package).items():
        for path in paths:
            stem = Path(path).stem
            if {f"test_{stem}", f"test_{Path(room).name}_{stem}"} & own:
                continue
            module = path.removesuffix(".py")
            where = listed.pop(module, None)
            if where is None:
                wrong.append(f"{path} has no test file")
            elif not (tests / where).is_file():
                wrong.append(f"{path}: there is no {where}")
            elif module in by_name and not mentions((tests / where).read_text(encoding="utf-8"), package, path):
                wrong.append(f"{path}: {where} says nothing of it")
    return wrong + [f"{module} is listed without need" for module in listed]


def mentions(text, package, path):
    tree = ast.parse((package / path).read_text(encoding="utf-8"))
    kinds = ast.ClassDef | ast.FunctionDef
    public = [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    dotted = f"{package.name}.{path.removesuffix('.py').replace('/', '.')}"
    return re.search(rf"\b(?:{'|'.join(map(re.escape, [dotted, *public]))})\b", text) is not None


def untyped(package):
    """Return the lines that allow ``Any`` without a reason, or for a class of the package, by path."""
    ours, found = set(classes(package)), {}
    for path in sorted(package.rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            silenced = re.search(r"# noqa: [\w, ]*\bANN401\b[\w, ]*?(?:\s*\((.*)\))?$", line)
            if silenced and (silenced[1] is None or ours & set(re.findall(r"\w+", silenced[1]))):
                found.setdefault(path.relative_to(package).as_posix(), []).append(number)
    return found


def imports(package):
    """Return which modules each module names in an import, wherever it stands, or in a string of its own.

    The package itself is left out: what it offers it looks up when asked.
    """
    known = modules(package)
    return {
        name: named(ast.parse(path.read_text(encoding="utf-8")), known) - {name, package.name}
        for name, path in known.items()
        if name != package.name
    }


def named(tree, known):
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in within}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found & set(known)


def circles(graph):
    """Return the sets of modules that reach each other (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(frozenset(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in index:
            visit(node)
    return found


def strategies_named(path, names):
    """Return the strategies of ``names`` that strings in the file at ``path`` are, alone or in a list of such."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = [word.split("(")[0] for word in re.split(r"[,\s]+", node.value.strip())]
            found |= set(words) & names if set(words) <= names | NAMED_BY_ALL else set()
    return found


WORDS_TOO = {"auto"}  # also a device, a sink, a way to match
NAMED_BY_ALL = {"full", "prefix"}  # the reference, and what every exact strategy is held against
SHARED_TESTS = [ROOT / "tests" / "conftest.py", *(ROOT / "tests" / part for part in ("contract", "text", "families"))]


# Modules without a test file of their own, by the test file (in tests/) that names them or what they offer.
TESTED_ELSEWHERE = {
    "contract/test_blend.py": "families/blend/base",
    "contract/test_harvest.py": "inference/run",
    "contract/test_memory.py": "context",
    "diffusion/test_flashblock.py": "models/diffusion/block",
    "diffusion/test_options.py": "models/unmask",
    "diffusion/test_presets.py": "models/diffusion/recipe",
    "families/test_states.py": "stopping",
    "notebooks/test_sweep.py": "sweep/execute sweep/folder",
    "cluster/test_workers.py": "sweep/cluster/dispatch sweep/cluster/parcel sweep/content sweep/schedule",
    "strategies/test_evict.py": "families/evict/base families/evict/budget",
    "strategies/test_kvcomm.py": "families/agents/alone families/agents/anchor_source",
    "strategies/test_kvlink.py": "models/input_embeddings",
    "strategies/test_relay.py": "families/agents/decoded families/agents/layer_profile",
    "strategies/test_residual.py": (
        "families/residual/forms families/residual/latents families/residual/sequence models/caches/restoring"
    ),
    "unit/test_decisions.py": (
        "studies/decisions/option_odds studies/decisions/rivals studies/decisions/table "
        "tasks/choices/choice tasks/choices/judge tasks/choices/tool_choice"
    ),
    "unit/test_reranking.py": "session/reranking/layout session/reranking/ranking show/ranking",
    "unit/test_disk.py": "stores/tiers/head stores/tiers/indexed/policies",
    "unit/test_tiered.py": "stores/tiers/host",
    "unit/test_agents.py": "session/pipelines/evaluation",
    "unit/test_bench.py": (
        "bench/agents_kvcomm bench/agents_relay bench/agreement bench/batch_prefix "
        "bench/decode_tpot bench/diffusion_flashblock bench/import_time "
        "bench/measure "
        "bench/models bench/overhead bench/replay bench/report bench/residual_restore bench/search_ets "
        "bench/store_scale "
        "bench/ttft_chunks bench/ttft_prefix bench/views bench/why_gain models/work"
    ),
    "unit/test_chunk_study.py": "studies/chunks studies/statistics",
    "unit/test_context_attention.py": (
        "families/attention/head_drift families/attention/topk_keys models/attention/layer"
    ),
    "unit/test_decode.py": "models/sampling",
    "unit/test_drawing.py": "show/picture",
    "unit/test_evicting.py": "models/passes",
    "unit/test_eviction_study.py": "studies/divergence studies/eviction",
    "unit/test_findings.py": "sweep/page/downloads sweep/machine",
    "unit/test_fingerprint.py": "models/capabilities",
    "unit/test_flashblock_study.py": (
        "studies/flashblock/answer_log studies/flashblock/comparison studies/flashblock/table"
    ),
    "unit/test_history_study.py": "studies/history/table studies/history/templates studies/history/transcript",
    "unit/test_house.py": "former_paths",
    "unit/test_integrations.py": (
        "integrations/figures integrations/langchain integrations/llamaindex integrations/passages "
        "integrations/tool_calls"
    ),
    "unit/test_lab.py": "lab/comm",
    "unit/test_layer_reader.py": "stores/reading/arriving",
    "unit/test_magics.py": "magics/stream_output",
    "unit/test_measuring.py": "families/routing/kl_history session/measure",
    "unit/test_misses.py": "session/misses/past",
    "unit/test_leaderboard.py": (
        "studies/leaderboard/committed studies/leaderboard/contest studies/leaderboard/picture "
        "studies/leaderboard/standing studies/leaderboard/table"
    ),
    "unit/test_page.py": "sweep/page/html_report",
    "unit/test_planner.py": "families/residual/bandwidth",
    "unit/test_projection.py": "models/projection/project",
    "unit/test_ranges.py": "models/attention/intercept models/attention/masks",
    "unit/test_reader.py": "training/batch_scoring",
    "unit/test_search_methods.py": (
        "families/search/clusters families/search/program families/search/rewards families/search/tree"
    ),
    "unit/test_step_check.py": "tasks/steps/sums",
    "unit/test_token_tree.py": "models/trees/last_hidden models/trees/tree_pass",
    "unit/test_simulation.py": "traces/log traces/simulated_tier",
    "unit/test_real_text.py": "studies/answers studies/real_text/table",
    "unit/test_real_text_page.py": (
        "studies/real_text/conclusions studies/real_text/measurements studies/real_text/pictures"
    ),
    "unit/test_result.py": "result/figures",
    "unit/test_rope.py": "models/probing/rotary",
    "unit/test_tokenmap.py": "show/excerpt",
    "unit/test_requests.py": "events inference/by_token",
    "unit/test_session_experiments.py": "session/compare",
    "unit/test_show.py": "show/bars show/columns show/comparison show/figures show/stats show/units",
    "unit/test_speedup.py": "timing",
    "unit/test_strategy.py": "registry",
    "unit/test_transfer.py": "session/exports/archive session/exports/golden",
    "unit/test_thinking.py": "session/conversation/turn",
    "unit/test_tasks.py": (
        "studies/oracle tasks/evaluate tasks/items tasks/ledger tasks/report tasks/vocabulary tasks/writer"
    ),
    "unit/test_tour.py": "session/tours/documents",
    "unit/test_verdicts.py": "models/identity/record models/probing/probe",
    "unit/test_widgets.py": "widgets/base widgets/choices widgets/throttle",
}

# Modules that tests reach through others only: through a session, a view, a magic, a store or a strategy.
REACHED = {
    "contract/test_blend.py": "families/blend/assemble families/blend/partial families/fallback",
    "contract/test_memory.py": "models/attention/weights",
    "contract/test_strategies.py": "strategies/full",
    "diffusion/test_decoding.py": "inference/by_block models/diffusion/filler",
    "diffusion/test_flashblock.py": "families/attention/base",
    "diffusion/test_gemma.py": "inference/by_canvas models/diffusion/canvas",
    "diffusion/test_presets.py": "models/diffusion/checkpoints",
    "families/test_families.py": "models/caches/opaque",
    "families/test_states.py": "models/probing/recurrence",
    "kernels/test_fusing.py": "models/projection/kernel_fit",
    "notebooks/test_sweep.py": "sweep/cells sweep/runs",
    "unit/test_disk.py": (
        "stores/tiers/indexed/index stores/tiers/indexed/index_file stores/tiers/indexed/indexed_tier"
    ),
    "unit/test_shelf.py": "stores/snapshots/base",
    "strategies/test_auto.py": "families/routing/alongside families/routing/estimate",
    "strategies/test_batch.py": "inference/batch_request inference/by_batch session/batches/results",
    "strategies/test_ets.py": (
        "inference/search/branches inference/search/search_request inference/search/tree_loop session/search/job "
        "session/search/results session/search/search_options show/search"
    ),
    "strategies/test_evict.py": "families/evict/contexts",
    "strategies/test_prefix.py": "families/prefix/base",
    "strategies/test_residual.py": "families/residual/base models/capture",
    "unit/test_caches.py": "models/caches/base models/caches/family models/caches/token_log models/forward",
    "unit/test_cli.py": "cli/__main__ cli/answers cli/experiments cli/stores doctor",
    "unit/test_evicting.py": "models/probing/eviction",
    "unit/test_eviction_study.py": "studies/foresight",
    "unit/test_fingerprint.py": "models/adapter",
    "unit/test_flashblock_study.py": "studies/flashblock/__main__",
    "unit/test_gguf_file.py": "models/pretrained/gguf_header",
    "unit/test_growing.py": "models/caches/growing_layer",
    "unit/test_integrations.py": "integrations/session_model",
    "unit/test_lab.py": "lab/session_state lab/sessions_state",
    "unit/test_loading.py": "models/pretrained/source",
    "unit/test_magics.py": (
        "magics/commands/cell "
        "magics/complete magics/extension magics/listing magics/sessions magics/store_table magics/views"
    ),
    "unit/test_memory.py": "kv",
    "unit/test_misses.py": (
        "session/misses/diagnosis session/misses/differences session/misses/journal session/misses/price "
        "session/misses/wording show/why"
    ),
    "unit/test_musique.py": "tasks/files/passages",
    "unit/test_pipeline.py": "session/pipelines/graph session/pipelines/results",
    "unit/test_ranges.py": "models/attention/positions",
    "unit/test_reader.py": "training/initial_weights",
    "unit/test_session.py": ("inference/loop session/arguments session/encoding/chunks session/stats session/stream"),
    "unit/test_show.py": "show/bundle show/chunk show/dashboard show/health show/report show/scatter",
    "unit/test_store_eviction.py": "stores/eviction",
    "unit/test_store_protocol.py": "stores/base",
    "unit/test_store_spec.py": "stores/spec",
    "unit/test_simulation.py": "show/replay",
    "unit/test_tasks.py": "tasks/questions",
    "unit/test_transfer.py": "show/cache_file",
    "unit/test_verify.py": (
        "models/probing/own_pass session/verification/exact_checks session/verification/model_answers "
        "session/verification/model_checks session/verification/prompts session/verification/report "
        "session/verification/reuse_checks session/verification/trials"
    ),
    "unit/test_widgets.py": (
        "session/conversation/asking widgets/background widgets/conversation widgets/dashboard widgets/history "
        "widgets/playground"
    ),
    "unit/test_tiered.py": "stores/search stores/tiers/guard stores/writing/path_writer",
}

# Circles of imports that are still there.
CIRCLES_YET = [
    {"nbkv.registry", "nbkv.strategies"},  # the registry reads the package that lists itself by it
]

# Where `Any` still stands without a reason, or for a class of ours, and how often.
UNTYPED_YET = {}


def test_every_module_has_its_line_in_the_structure():
    path = ROOT / "docs" / "structure.md"
    missing = without_a_line(PACKAGE, path.read_text(encoding="utf-8") if path.is_file() else "")
    assert not missing, f"docs/structure.md tells nothing of {', '.join(missing)}"


def test_the_structure_sends_nobody_astray():
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    assert misdirections(PACKAGE, text.partition("## Every module")[0]) == []


def test_class_names_are_unique():
    assert [name for name, times in classes(PACKAGE).items() if times > 1] == []


def test_no_module_takes_the_place_of_a_function():
    assert overwritten(PACKAGE) == []


def test_no_room_is_crowded():
    assert crowded(PACKAGE) == {}


def test_every_module_has_its_tests():
    assert untested(PACKAGE, ROOT / "tests", TESTED_ELSEWHERE, REACHED) == []


def test_any_has_a_reason_which_is_no_class_of_ours():
    found = {path: len(lines) for path, lines in untyped(PACKAGE).items()}
    assert found == UNTYPED_YET, "type what is new; what was typed leaves the list"


def test_no_circle_of_imports():
    found = circles(imports(PACKAGE))
    assert [sorted(circle) for circle in found if not any(circle <= set(known) for known in CIRCLES_YET)] == []
    assert [known for known in CIRCLES_YET if not any(circle <= set(known) for circle in found)] == []


def test_shared_tests_name_no_strategy():
    from nbkv.registry import strategies

    names = ({*strategies.names(), *strategies._aliases}) - NAMED_BY_ALL - WORDS_TOO
    paths = [path for at in SHARED_TESTS for path in ([at] if at.is_file() else sorted(at.glob("*.py")))]
    assert {shown(path): named for path in paths if (named := strategies_named(path, names))} == {}


def test_former_paths_are_the_modules_they_became():
    code = """
import importlib, runpy
from nbkv.former_paths import NOW
ran = {name: runpy._get_module_details(name)[2] for name in NOW}  # what `python -m` runs
for name, now in NOW.items():
    assert importlib.import_module(name) is importlib.import_module(now), name
    assert ran[name].co_filename == importlib.import_module(now).__file__, name
from nbkv.families.mix import Mix
print(len(NOW))
"""
    assert int(python(code, "-Wignore").stdout) == 13


@pytest.fixture
def tree(tmp_path):
    """Give a function that writes a package ``made`` and its tests; returns the package."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "made"

    return write


def test_a_module_without_a_line_is_seen(tree):
    made = tree({"made/a": "", "made/room/b": ""})
    assert without_a_line(made, "- `a.py` holds what the others are made of.\n- `room/b.py` short") == ["room/b.py"]


def test_a_row_that_leads_nowhere_is_seen(tree):
    made = tree({"made/a": "def f(): ...", "made/room/b": "class C:\n    def g(self): ..."})
    rows = [
        "| `f` of `a.py` | `C.g` in `room/` |",
        "| `a.py` | `g` |",
        "| `gone/` | `none.py` | `f` |",
        "`h` in `c.py`",
    ]
    assert misdirections(made, "\n".join(rows)) == ["g", "gone/", "none.py", "f"]


def test_two_classes_of_one_name_are_seen(tree):
    made = tree({"made/a": "class Block: ...", "made/b": "def f():\n    class Block: ..."})
    assert classes(made) == {"Block": 2}


def test_a_function_with_the_name_of_a_module_is_seen(tree):
    made = tree({"made/room/__init__": "def view(): ...\ndef page(): ...\nclass below: ...", "made/room/view": ""})
    (made / "room" / "below").mkdir()
    assert overwritten(made) == ["room/view", "room/below"]


def test_a_crowded_room_is_seen(tree):
    files = {f"made/{room}/m{i}": "" for room in ("room", "bench") for i in range(CROWDED + 1)}
    files |= {f"made/r{i}": "" for i in range(AT_THE_ROOT + 1)}
    assert crowded(tree(files)) == {"room": CROWDED + 1, "": AT_THE_ROOT + 1}


def test_a_module_without_tests_is_seen(tree):
    own = {"made/room/own": "", "made/room/twice": "", "tests/unit/test_own": "", "tests/test_room_twice": ""}
    code = {f"made/{name}": f"def {name}_it(): ..." for name in "abcde"}
    made = tree(own | code | {"tests/test_x": "from made.a import a_it"})
    elsewhere = {"test_x.py": "a b", "test_gone.py": "c", "unit/test_own.py": "room/own"}
    assert untested(made, made.parent / "tests", elsewhere, {"unit/test_own.py": "d"}) == [
        "b.py: test_x.py says nothing of it",
        "c.py: there is no test_gone.py",
        "e.py has no test file",
        "room/own is listed without need",
    ]


def test_any_for_a_class_of_ours_is_seen(tree):
    mark = "# noqa: " + "ANN401"
    lines = [
        "class Session: ...",
        f"a: Any  {mark}",
        f"b: Any  {mark}, FBT001  (a Session)",
        f"c: Any  {mark}  (a number)",
    ]
    assert untyped(tree({"made/a": "\n".join(lines)})) == {"a.py": [2, 3]}


def test_a_hidden_circle_is_seen(tree):
    files = {
        "made/a": "def f():\n    from made.b import g",
        "made/b": 'import importlib\n\ndef g(): return importlib.import_module("made.room")',
        "made/room/__init__": "if TYPE_CHECKING:\n    from made import a",
        "made/c": "from made.a import f",
    }
    assert circles(imports(tree(files))) == [{"made.a", "made.b", "made.room"}]


def test_a_strategy_in_a_shared_test_is_seen(tree):
    made = tree({"made/a": '"epic(2)"\n"one epic poem"\n"blend, full"\n"full"'})
    assert strategies_named(made / "a.py", {"epic", "blend"}) == {"epic", "blend"}
