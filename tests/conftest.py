from __future__ import annotations

import gc
import random
import signal
import threading
from pathlib import Path

import nbformat
import pytest
import torch
import transformers
from nbformat.v4 import new_code_cell, new_notebook, new_output
from random_models import FAMILIES, make_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors


def make_tokenizer(*, bos: bool = True, template: str | None = None) -> transformers.PreTrainedTokenizerFast:
    """Return a word-level tokenizer of the words w0 … w190."""
    words = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(191)), *".,?:"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def words(n: int, seed: int = 0) -> str:
    """Return ``n`` words the tokenizer knows, with a space before each."""
    draw = random.Random(seed)
    return "".join(f" w{draw.randrange(191)}" for _ in range(n))


def pytest_configure():
    """Heed SIGINT also where the tests were started in the background, whose processes ignore it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Take what was imported out of every later collection: each closed session collects, and there are thousands."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or writes what this machine remembers of models."""
    monkeypatch.setenv("NBKV_CACHE", str(tmp_path / "remembered"))


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Who waits for a session for seconds is told by a warning, an error here: on a busy machine all wait."""
    monkeypatch.setattr("nbkv.session.lock.PATIENCE_S", threading.TIMEOUT_MAX)


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def model_of():
    """Random models by family, made once: read only."""
    made: dict[str, transformers.PreTrainedModel] = {}

    def get(family: str) -> transformers.PreTrainedModel:
        if family not in made:
            made[family] = make_model(family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def proved():
    """What the self-check found of the models of ``model_of``, by model."""
    return {}


@pytest.fixture
def session_of(model_of, tokenizer, proved, monkeypatch):
    """Sessions on random models by family, each proved once for all tests; closed after the test."""
    import nbkv
    from nbkv.models import loading
    from nbkv.models.probing.probe import adapt, probe

    opened: list[nbkv.Session] = []

    def open_session(family: str = "llama", **options: object) -> nbkv.Session:
        shared = model_of(family)

        def adapt_once(model, name, record=None, recipe=None, identity=None):
            if model is shared and record is None:
                about = (family, shared.config._attn_implementation, recipe)
                record = proved[about] = proved.get(about) or probe(model, name, recipe)
            return adapt(model, name, record, recipe, identity)

        with monkeypatch.context() as patched:
            patched.setattr(loading, "adapt", adapt_once)
            opened.append(nbkv.load(shared, tokenizer=tokenizer, **options))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


@pytest.fixture
def own_session(make_model, tokenizer):
    """A session on a model of its own, which a test may change."""
    import nbkv

    with nbkv.load(make_model("llama"), tokenizer=tokenizer) as session:
        yield session


@pytest.fixture(scope="session")
def blockwise_reader(tmp_path_factory):
    """A folder with the bundled reader and a config that says it decodes in blocks, which it was not trained for."""
    import nbkv

    source = Path(nbkv.__file__).parent / "models" / "bundled" / "tiny"
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    model.config.block_size, model.config.block_sizes, model.config.mask_token_id = 4, [4, 8], 4
    folder = tmp_path_factory.mktemp("reader")
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(name="words")
def _words():
    return words


@pytest.fixture(name="make_model")
def _make_model():
    return make_model


@pytest.fixture(name="make_tokenizer")
def _make_tokenizer():
    return make_tokenizer


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="session")
def random_logits():
    """A broken chunk strategy: it reuses everything and answers anything."""
    from dataclasses import dataclass

    from nbkv.families.blend.base import Blend

    @dataclass(kw_only=True, repr=False)
    class RandomLogits(Blend):
        budget: float = 0.0

        @property
        def spec(self):
            return "broken"

        def select(self, partial):
            return partial.reused[:0]

        def run(self, partial, chosen):
            logits = super().run(partial, chosen)
            return torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)) * 5

    return RandomLogits()


@pytest.fixture
def write(tmp_path: Path):
    """Write a notebook of code cells, the first of which declares the parameters; return its path."""

    def make(name: str, *sources: str) -> Path:
        cells = [new_code_cell(source) for source in sources]
        cells[0].metadata["tags"] = ["parameters"]
        path = tmp_path / "source" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return make


@pytest.fixture
def folder(tmp_path):
    """Write notebooks as ``nbkv run`` leaves them: parameters, records, last sentence, error; return their report."""
    from nbkv.sweep import report
    from nbkv.sweep.records import MIME

    def make(*runs, notebook="study.ipynb"):
        for number, (parameters, records, told, *error) in enumerate(runs):
            end = new_code_cell("x", outputs=[new_output("execute_result", {"text/markdown": f"**{told}**"})])
            end.metadata["tags"] = ["conclusion"]
            kept = new_code_cell("y", outputs=[new_output("display_data", {MIME: [*records.items()]})])
            made = new_notebook(cells=[kept, *([end] if told else [])])
            made.metadata["nbkv"] = {
                "notebook": parameters.get("notebook", notebook),
                "parameters": [each for each in parameters.items() if each[0] != "notebook"],
                "started": f"2026-01-01T{number:04d}",
                "duration_s": 75.0,
                "error": error[0] if error else "",
                "machine": {"processor": "a processor, 8 cores", "torch": "2.13"},
            }
            nbformat.write(made, tmp_path / f"study-{number:08x}.ipynb")
        return report(tmp_path)

    return make
