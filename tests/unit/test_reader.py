from __future__ import annotations

from pathlib import Path

import pytest

import nbkv
from nbkv.tasks import chat, ledger, report
from nbkv.training.batch_scoring import right

FOLDER = Path(nbkv.__file__).parent / "models" / "bundled" / "tiny"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def share(model, tokenizer, items) -> float:
    turns = [turn for item in right(model, tokenizer, items) for turn in item]
    return sum(turns) / len(turns)


def test_it_is_small_and_plain(model):
    assert model.num_parameters() <= 4_000_000
    assert sum(file.stat().st_size for file in FOLDER.glob("*.safetensors")) <= 8_000_000
    assert model.config.num_hidden_layers >= 8
    assert model.config.max_position_embeddings == 4096
    assert not list(FOLDER.glob("*.py"))
    assert "auto_map" not in model.config.to_dict()


def test_it_is_stored_in_bf16():
    import torch
    from safetensors import safe_open

    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


@pytest.mark.parametrize("kind", ["carried", "local"])
def test_it_reads_ledgers_of_8_chunks(model, tokenizer, kind):
    items = [item for item in ledger(seed=811, n=120, distance=0) if item.kind == kind]
    assert share(model, tokenizer, items) >= 0.95


@pytest.mark.parametrize("lines", [8, 32, 62])
def test_it_reads_notes_of_256_1024_and_2048_tokens(model, tokenizer, lines):
    items = ledger(seed=812, n=24, distance=0, lines=lines)
    assert share(model, tokenizer, items) >= 0.9


def test_chunks_encoded_alone_lose_what_is_carried(model, tokenizer):
    items = ledger(seed=816, n=120, distance=0)
    carried = [item for item in items if item.kind == "carried"]
    whole, alone = (right(model, tokenizer, carried, alone=by_itself) for by_itself in (False, True))

    assert sum(turns[0] for turns in whole) - sum(turns[0] for turns in alone) >= 0.5 * len(carried)


def test_it_reports(model, tokenizer):
    assert share(model, tokenizer, report(seed=813, n=40, distance=0)) >= 0.9


def test_it_chats(model, tokenizer):
    assert share(model, tokenizer, chat(seed=814, n=12)) >= 0.95


def test_generate_stops_at_the_end_of_the_answer(model, tokenizer):
    item = ledger(seed=815, n=1)[0]
    ids = tokenizer("".join(item.chunks) + item.question, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=16)[0, ids.input_ids.shape[1] :]
    assert out[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(out, skip_special_tokens=True) == item.answers[0]


def test_text_survives_and_parts_tokenise_alone(tokenizer):
    item = ledger(seed=0, n=1)[0]
    parts = [*item.chunks, item.question]
    ids = [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False)]
    assert tokenizer("".join(parts)).input_ids == [tokenizer.bos_token_id, *ids]
    assert tokenizer.decode(ids) == "".join(parts).strip()
    assert tokenizer.unk_token_id not in ids


def test_text_only_grows_while_it_is_decoded(tokenizer):
    item = report(seed=0, n=1)[0]
    ids = tokenizer(f'{item.chunks[0]}{item.question} {item.answers[0]} (yes), "no"; it\'s 3-4!').input_ids
    shown = ""
    for size in range(1, len(ids) + 1):
        longer = tokenizer.decode(ids[:size], skip_special_tokens=True)
        assert longer.startswith(shown)
        shown = longer


def test_the_chat_template_writes_what_was_trained(tokenizer):
    item = chat(seed=0, n=1)[0]
    messages = []
    for turn, answer in list(zip(item.turns, item.answers, strict=True))[:3]:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    trained = "".join(f"{turn} {answer}</s>" for turn, answer in list(zip(item.turns, item.answers, strict=True))[:2])
    assert tokenizer(text).input_ids == tokenizer(f"{trained}{item.turns[2]}").input_ids
