"""What attention kept between denoising passes costs in answers: accuracy, distance and drift on reports.

``make tables`` runs this module on the bundled block-diffusion reader and writes docs/tables/flashblock.json and
docs/flashblock.md; notebook 30_block_diffusion and the tests run slices of it. Reuse is forced everywhere
(``min_gain=0``): this is about what it does to answers, not about whether it pays.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbkv.session.session import Session
from nbkv.strategies.flashblock import FlashBlock
from nbkv.strategy import parse
from nbkv.studies.statistics import interval
from nbkv.tasks.evaluate import is_correct
from nbkv.tasks.report import report

if TYPE_CHECKING:
    import torch

    from nbkv.context import Context
    from nbkv.models.diffusion.block import Block
    from nbkv.models.work import Work
    from nbkv.strategy import Prefilled
    from nbkv.tasks.items import Item

FULL = "full"
TAUS = (
    "flashblock(tau=2, min_gain=0)",
    "flashblock(tau=2, threshold=None, min_gain=0)",
    "flashblock(tau=2, threshold=None, revealed='recompute', min_gain=0)",
    "flashblock(tau=3, threshold=None, min_gain=0)",
)
DENSITIES = (0.2, 0.3, 0.4)
UNMASK = ("static", "dynamic")
# What the paper's language models ran with: its released evaluation scripts.
PAPER = {
    "model": "TraDo-8B-Thinking",
    "block": "4 (main table) and 8",
    "strategy": TAUS[1],
    "tau": "2 (script; the yaml's default is 3)",
    "threshold": "none: all heads reuse (head by head is for video: 0.85, 0.9 for quality, at most 0.05 nats of lse)",
    "revealed": "stale",
    "unmask": "dynamic, confidence 0.9, 8 steps",
    "temperature": "1.0",
    "batch": "128, on 4 A100",
}
BLOCKS = (4, 8)
SEED, COUNT, FOLLOWED = 601, 48, 4  # settings were chosen on seed 301
_ROOM = 24  # tokens that an answer may be longer than the right one
_NEVER = 64  # tokens: no block has so many, so nothing is refreshed inside of one


def sparse(densities: Sequence[float] = DENSITIES, tau: int = _NEVER) -> list[str]:
    """Return sparse attention with and without the rest that it leaves out, at each density."""
    fixed = f"tau={tau}, threshold=None, min_gain=0"
    return [f"flashblock({fixed}, density={share}, residual={kept})" for share in densities for kept in (True, False)]


@dataclass(kw_only=True, repr=False)
class Shadow(FlashBlock):
    """Runs each pass twice and goes on from the exact one: what reuse would have said, pass by pass.

    ``kl`` are KL(exact || reuse) in nats and ``top1`` the agreement of the best tokens, means over masked rows.
    """

    def __post_init__(self) -> None:
        """Start without a pass."""
        super().__post_init__()
        self.kl: list[float] = []
        self.top1: list[float] = []

    def denoise(self, block: Block, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Compare one pass, and return the exact one's logits."""
        said = super().denoise(block, prefilled, ctx, work)
        exact = ctx.adapter.denoise(block.ids, prefilled.cache, start=block.start)
        mine, full = (logits[block.masked].float().log_softmax(-1) for logits in (said, exact))
        self.kl.append(max(0.0, float((full.exp() * (full - mine)).sum(-1).mean())))
        self.top1.append(float((full.argmax(-1) == mine.argmax(-1)).float().mean()))
        return exact


def measure(
    session: Session,
    items: Sequence[Item],
    specs: Sequence[str],
    unmask: str | None = None,
    followed: int = FOLLOWED,
) -> list[dict[str, Any]]:
    """Return one dict a strategy: its answers to ``items``, and its passes along full's way on the first ``followed``.

    ``right`` is the list of 0 and 1 in the order of ``items``; ``difference`` is that of the accuracy to the first
    strategy's, with its 95 % interval. ``kl`` (nats) and ``top1`` are means over all passes, the exact ones included.
    ``…_low`` and ``…_high`` are the ends of the 95 % intervals of what varies from answer to answer.
    """
    rows = [_row(session, items, spec, unmask, followed) for spec in specs]
    first = np.array(rows[0]["right"], dtype=np.float64)
    for row in rows:
        gaps = np.array(row["right"], dtype=np.float64) - first
        low, high = interval(gaps)
        row |= {"difference": float(gaps.mean()), "low": low, "high": high}
    return rows


def _row(session: Session, items: Sequence[Item], spec: str, unmask: str | None, followed: int) -> dict[str, Any]:
    results = [_ask(session, item, spec, unmask) for item in items]
    said = [result.decoding for result in results]
    shadows = _followed(session, items[:followed], spec, unmask)
    right = [int(is_correct(result.text, item.answers)) for result, item in zip(results, items, strict=True)]
    spread = {
        "accuracy": right,
        "tokens_per_second": [len(result.token_ids) / result.timing.total_s for result in results],
        "kl": [statistics.fmean(shadow.kl) for shadow in shadows] or [0.0],
        **{name: [one.get(name) for one in said] for name in ("drift_cosine", "attention_s")},
    }
    return {
        "strategy": spec,
        "block": said[0]["block"],
        "unmask": said[0]["unmask"],
        "right": right,
        "accuracy": statistics.fmean(right),
        "tokens_per_forward": statistics.fmean(one["tokens_per_forward"] for one in said),
        "tokens_per_second": sum(len(r.token_ids) for r in results) / sum(r.timing.total_s for r in results),
        "kl": statistics.fmean(kl for shadow in shadows for kl in shadow.kl) if shadows else 0.0,
        "top1": statistics.fmean(same for shadow in shadows for same in shadow.top1) if shadows else 1.0,
        **{
            name: _mean(one.get(name) for one in said)
            for name in ("reuse_rate", "effective_reuse", "drift_cosine", "drift_lse")
        },
        "attention_s": _mean(one.get("attention_s") for one in said),
        "computed_heads": said[-1].get("computed_heads", 0),
        **{end: value for name, values in spread.items() for end, value in _ends(name, values).items()},
    }


def _ask(session: Session, item: Item, strategy: Any, unmask: str | None) -> Any:  # noqa: ANN401  (figures)
    room = len(session.tokenizer(" ".join(item.answers)).input_ids) + _ROOM
    return session.generate([*item.chunks, item.question], strategy=strategy, max_new_tokens=room, unmask=unmask)


def _followed(session: Session, items: Sequence[Item], spec: str, unmask: str | None) -> list[Shadow]:
    strategy = parse(spec)
    if not isinstance(strategy, FlashBlock):
        return []
    shadows = [Shadow(**vars(strategy)) for _ in items]
    for item, shadow in zip(items, shadows, strict=True):
        _ask(session, item, shadow, unmask)
    return shadows


def _ends(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    found = [value for value in values if value is not None]
    low, high = interval(np.array(found, dtype=np.float64)) if found else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _mean(values: Any) -> float | None:  # noqa: ANN401  (figures)
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def main(model: str = "tiny-diffusion", folder: str = "docs", n: int = COUNT, blocks: Sequence[int] = BLOCKS) -> None:
    """Measure the table and write it; sparse attention under the rule that reuses most, one token a pass."""
    import nbkv  # noqa: PLC0415

    items, rows = report(seed=SEED, n=n, distance=0), []
    for block in blocks:
        with nbkv.load(model, block_size=block, strategy=FULL) as session:
            for unmask in UNMASK:
                specs = [FULL, *TAUS, *((*sparse(tau=2), *sparse()) if unmask == UNMASK[0] else ())]
                rows += measure(session, items, specs, unmask)
            name = session.model_name
    regime = f"`{name}`, {n} reports of 48 lines of notes, seed {SEED}, float32, reuse forced"
    write({"regime": regime, "followed": FOLLOWED, "paper": PAPER, "rows": rows}, Path(folder))


def write(data: dict[str, Any], out: Path) -> None:
    """Write the JSON and the page of a run."""
    (out / "tables").mkdir(parents=True, exist_ok=True)
    (out / "tables" / "flashblock.json").write_text(json.dumps(data) + "\n", encoding="utf-8")
    (out / "flashblock.md").write_text(markdown(data), encoding="utf-8")


def markdown(data: dict[str, Any]) -> str:
    """Return the page made from the JSON of a run; it tells no times, which the benchmark measures."""
    lines = [
        "# FlashBlock: what kept attention costs in answers",
        "",
        f"Made by `python -m nbkv.studies.flashblock`: {data['regime']}.",
        "*asked*: share of the passes in which the rule reuses; *effective*: share of the attention to finished blocks",
        "(rows x K/V heads x keys, of all layers and passes) that was really taken from an earlier pass, without heads",
        "and rows that are computed again and keys that are read anew. *accuracy* with its difference to full and the",
        "95 % interval of that; KL (nats) and *top-1* of passes against the exact pass on full's way, means over all",
        f"passes of {data['followed']} questions; *tokens*: a pass; *cos* and *lse* (nats): how much kept",
        "attention had changed.",
        *data.get("notes", []),
        "",
        "| strategy | block | unmask | accuracy | difference | tokens | asked | effective | KL | top-1 | cos | lse |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        found = [_cell(row[name], ".2f") for name in ("reuse_rate", "effective_reuse")]
        drift = [_cell(row[name], ".2f") for name in ("drift_cosine", "drift_lse")]
        mark = " (*)" if _is_papers(row) else ""
        lines.append(
            f"| {row['strategy']}{mark} | {row['block']} | {row['unmask']} | {row['accuracy']:.3f} "
            f"| {row['difference']:+.3f} ({row['low']:+.2f} to {row['high']:+.2f}) | {row['tokens_per_forward']:.2f} "
            f"| {' | '.join(found)} | {row['kl']:.1e} | {row['top1']:.3f} | {' | '.join(drift)} |"
        )
    lines += [
        "",
        "(*) The setting of the paper's language models, but for the model, the temperature and the batch:",
        "",
    ]
    lines += [
        "| option | in the paper |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in data["paper"].items()),
    ]
    return "\n".join(lines) + "\n"


def _is_papers(row: dict[str, Any]) -> bool:
    return row["strategy"] == PAPER["strategy"] and row["unmask"].startswith("dynamic") and row["block"] in {4, 8}


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
