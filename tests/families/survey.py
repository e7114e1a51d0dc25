"""What nbkv does with every family transformers has: exact with `prefix`, served in full only, or refused, and why.

`make tables` runs this file, which writes docs/families.md; the tests run the same survey, family by family.
"""

from __future__ import annotations

import contextlib
import random
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from shrinking import families, small_model
from tokenizers import Tokenizer, models, pre_tokenizers

import nbkv
from nbkv.registry import strategies as registry

TURNS = 6
TABLE = Path(__file__).parents[2] / "docs" / "families.md"


@dataclass(frozen=True)
class Row:
    """One family; ``served`` is ``prefix``, ``full``, ``refused``, or ``not built`` if transformers cannot make it."""

    family: str
    served: str
    walk: bool = False
    chunks: bool = False
    positions: str = ""
    why: str = ""

    def line(self) -> str:
        """Return the row of the table."""
        marks = ["yes" if mark else "no" for mark in (self.walk, self.chunks)] if self.positions else ["", ""]
        return f"| {self.family} | {self.served} | {marks[0]} | {self.positions} | {marks[1]} | {self.why} |"


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a word-level tokenizer that fits the small models."""
    words = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(190))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def survey(family: str) -> Row:
    """Return what becomes of ``family``; raises ``AssertionError`` if anything it gives is not the model's own."""
    try:
        model = small_model(family)
    except Exception as error:  # noqa: BLE001  (a config or a model that transformers cannot make here)
        return Row(family, "not built", why=_one_line(f"{type(error).__name__}: {error}"))
    try:
        session = nbkv.load(model, tokenizer=tokenizer(), strategy="full")
    except nbkv.UnsupportedModel as refusal:
        return Row(family, "refused", why=_one_line(str(refusal).split(":", 1)[-1]))
    with session:
        found = session.adapter.capabilities
        strategy = "prefix" if found.prefix else "full"
        report = session.verify([strategy, *_with_chunks(session, family)])
        assert report.ok, report
        _chat(session, strategy)
        missing = found.why_not("relocation" if found.prefix else "prefix")
        why = "; ".join(filter(None, [*session.adapter.notes, missing if not found.relocation else ""]))
        why = missing if not found.prefix else why
        return Row(family, strategy, found.walk, found.relocation, found.positions, _one_line(why))


def _with_chunks(session: nbkv.Session, family: str) -> list[str]:
    """Return one strategy that reuses chunks, of those that serve this model: another one for each family."""
    served = []
    for name in registry.names():
        if "relocation" in registry.get(name).needs:
            with contextlib.suppress(nbkv.UnsupportedModel):
                registry.get(name)().check(session.adapter)
                served.append(name)
    return served[sum(map(ord, family)) % len(served) :][:1] if served else []


def _chat(session: nbkv.Session, strategy: str) -> None:
    """Hold house rule 1 over six turns: the model's own greedy tokens, up to its first near tie, and real hits."""
    model, draw = session.adapter.model, random.Random(0)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = None
    chat = session.chat()
    for turn in range(TURNS):
        result = chat.send("".join(f" w{draw.randrange(190)}" for _ in range(9)), strategy=strategy, max_new_tokens=5)
        ids = torch.tensor([result.prompt_ids + result.token_ids])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, len(result.prompt_ids) - 1 : -1].float()
        known = _decided(logits)
        assert list(result.token_ids[:known]) == logits.argmax(-1).tolist()[:known], (turn, result.token_ids)
        if strategy == "prefix" and turn:
            before = chat.results[turn - 1]
            assert result.tokens.reused == len(before.prompt_ids) + len(before.token_ids) - 1, turn


def _decided(logits: torch.Tensor) -> int:
    """Return how many of the first rows of ``logits`` ``[n, V]`` have a clear winner (house rule 1)."""
    top = logits.topk(2, dim=-1).values
    ties = (top[:, 0] - top[:, 1]) / logits.abs().max().clamp(min=1.0) < 2e-4
    return int(ties.nonzero()[0]) if bool(ties.any()) else len(logits)


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:160]


def write(rows: list[Row]) -> None:
    """Write the table."""
    counts = {
        served: sum(row.served == served for row in rows) for served in ("prefix", "full", "refused", "not built")
    }
    head = f"""# Families of models

Made by `make tables` with transformers {transformers.__version__}: a small random model of every type in transformers'
mappings for causal and for image-text language models (served as text) goes through the self-check and a chat of six
turns. *prefix*: exact with `prefix`, greedy tokens and logits the model's own; with recurrent layers by checkpoints of
their states. *full*: served, every prompt computed in full; the reason stands beside it. *walk*: layers are run one by
one. *chunks*: keys can be moved to another position, which chunk reuse needs; the self-check then runs a strategy that
reuses chunks as well, at its full and at its own budget. Models of other code are probed in the same way when they are
loaded: `nbkv verify MODEL`.

{counts["prefix"]} with prefix reuse, {counts["full"]} in full only, {counts["refused"]} refused, {counts["not built"]}
that transformers does not build from a small config here.

| family | served | walk | positions | chunks | why not more |
|---|---|---|---|---|---|
"""
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(head + "\n".join(row.line() for row in rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    asked = sys.argv[1:]
    found = []
    for each in asked or families():
        try:
            found.append(survey(each))
            sys.stdout.write(found[-1].line() + "\n")
        except Exception as error:  # noqa: BLE001  (the survey goes on; a wrong family must not be in the table)
            sys.stdout.write(f"WRONG {each}: {type(error).__name__} {error}\n")
    if not asked:
        write(found)
