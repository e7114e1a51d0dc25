"""The table of eviction strategies: accuracy on long answers at equal memory, and how far past attention predicts use.

``python -m nbkv.studies.eviction`` (part of ``make tables``) runs this module on the bundled reader and writes
docs/tables/eviction.json and docs/eviction.md; the tests run a small slice of it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbkv.models.attention.layer import Attended
from nbkv.models.caches.evicting import EvictingCache
from nbkv.models.passes import over_slots
from nbkv.session.session import Session
from nbkv.strategy import Strategy, parse
from nbkv.studies.divergence import trace
from nbkv.studies.foresight import Foresight, attention_maps
from nbkv.studies.statistics import interval, not_above
from nbkv.tasks.evaluate import is_correct
from nbkv.tasks.report import report

if TYPE_CHECKING:
    from nbkv.strategies.lazyeviction import LazyEviction
    from nbkv.tasks.items import Item

BASELINES = ("h2o", "snapkv", "tova", "streaming", "window")
KEEPS = (0.5, 0.9)
SEEDS = (101, 102, 103)
COUNT = 171  # questions of each seed: 513 in all
SAMPLE = 7  # the seed of the questions that calibrate
_LITTLE = 0.25  # the share at which the oracle is asked too
_STRONG = 0.1  # attention weight of a use that an answer may hang on


@dataclass(frozen=True)
class EqualBytes:
    """LazyEviction with the budget at which it holds, on average over an answer, the share ``keep`` of full's K/V.

    It holds the whole prompt until the first window is over and up to a window above its budget later, so the budget
    is smaller than that of a method which never holds more. Where the calibrated ``window`` leaves no budget above
    itself, it is halved until it does.
    """

    keep: float
    window: int

    def __str__(self) -> str:
        """Return its name in the table."""
        return f"lazyeviction (keep={self.keep} on average)"

    def of(self, session: Session, prompt: Any, tokens: Sequence[int]) -> Strategy:  # noqa: ANN401  (what ``generate`` takes, or one that is built)
        """Return the strategy for one prompt and full's answer to it."""
        n = len(session._prompt(prompt).ids)  # noqa: SLF001
        keep, window = self.budget(n, len(tokens))
        return parse(f"lazyeviction(keep={keep}, window={window})")

    def budget(self, prompt: int, answer: int) -> tuple[int, int]:
        """Return LazyEviction's budget and window for a prompt and an answer of so many tokens."""
        most, window = self.keep * statistics.fmean(range(prompt + 1, prompt + answer)), self.window
        while True:
            fitting = [b for b in range(window + 1, prompt + answer) if mean_slots(prompt, answer, b, window) <= most]
            if fitting or window == 1:
                return max(fitting, default=2), window
            window //= 2


def mean_slots(prompt: int, answer: int, keep: int, window: int) -> float:
    """Return how many slots LazyEviction holds on average, after each of the ``answer`` tokens that is run."""
    held, found = prompt, []
    for step in range(1, answer):
        if step > 1 and (step - 1) % window == 0:
            held = min(held, keep)
        held += 1
        found.append(held)
    return statistics.fmean(found)


def questions(seeds: Sequence[int], n: int) -> list[Item]:
    """Return ``n`` reports of every seed, over 8 chunks of 6 lines."""
    return [item for seed in seeds for item in report(seed=seed, n=n, chunks=8, distance=1)]


def answered(session: Session, item: Item) -> tuple[list[str], tuple[int, ...], bool]:
    """Return the prompt, full's answer to it, and whether that is right."""
    prompt = [*item.chunks, item.question]
    result = session.generate(prompt, strategy="full", max_new_tokens=160)
    return prompt, result.token_ids, is_correct(result.text, item.answers)


def measure(
    session: Session, items: Sequence[Item], specs: Sequence[str | Foresight | EqualBytes]
) -> list[dict[str, Any]]:
    """Return one dict a strategy, full first; ``right`` is the list of 0 and 1 in the order of ``items``.

    A strategy is right where full is and every token it would pick is full's. ``kl`` and ``match`` are means over the
    answer's tokens, given full's tokens before them; ``until`` is the share of the answer before the first other token.
    """
    wanted = {str(spec): spec for spec in ("full", *specs)}
    cells: dict[str, dict[str, list[float]]] = {name: {} for name in wanted}
    for item in items:
        prompt, tokens, right = answered(session, item)
        full = trace(session, prompt, tokens, "full")
        for name, cell in cells.items():
            spec = wanted[name]
            chosen = spec if isinstance(spec, str) else spec.of(session, prompt, tokens)
            one = full if name == "full" else trace(session, prompt, tokens, chosen)
            same = np.array(one.picks()) == np.array(full.picks())
            other = len(same) if same.all() else int(same.argmin())
            figures = {
                "right": float(right and other == len(same)),
                "match": float(same.mean()),
                "until": other / len(same),
                "kl": one.distance(full),
                "held": one.mean_held / full.mean_held,
                "peak": one.peak / full.held,
                "step": one.step_s / full.step_s,
            }
            for key, value in figures.items():
                cell.setdefault(key, []).append(value)
    return [_summary(name, cell) for name, cell in cells.items()]


def _summary(name: str, cell: dict[str, list[float]]) -> dict[str, Any]:
    low, high = interval(np.array(cell["right"]))
    means = {key: statistics.fmean(values) for key, values in cell.items() if key != "right"}
    right = [int(value) for value in cell["right"]]
    return {"strategy": name, "low": low, "high": high, **means, "peak": max(cell["peak"]), "right": right}


def calibrate(
    session: Session,
    prompts: Sequence[Any],
    *,
    alpha: float | None = None,
    quantile: float = 0.8,
    max_new_tokens: int = 160,
) -> dict[str, Any]:
    """Return LazyEviction's ``window`` for sample ``prompts``: that ``quantile`` of the slots' longest intervals (MRI).

    As the paper does (section 4), from whole runs, over slots that came back into use; ``share`` is how many did.
    """
    intervals = []
    for prompt in prompts:
        tokens = session.generate(prompt, strategy="full", max_new_tokens=max_new_tokens).token_ids
        layers = _whole_run(session, prompt, tokens, alpha).layers
        intervals += [layer.mark("longest", torch.int32).flatten().float() for layer in layers]
    longest = torch.cat(intervals)
    back = longest[longest > 0]
    window = int(torch.quantile(back[:: max(1, len(back) // 2**20)], quantile)) if len(back) else 1
    return {"alpha": alpha, "window": max(1, window), "share": float((longest > 0).float().mean())}


def _whole_run(session: Session, prompt: Any, tokens: Sequence[int], alpha: float | None) -> EvictingCache:  # noqa: ANN401  (figures)
    """Return the cache of prompt and answer, nothing dropped, with what LazyEviction notes of the answer's rows."""
    adapter, ids = session.adapter, (*session._prompt(prompt).ids, *tokens)  # noqa: SLF001
    lazy: LazyEviction = parse(f"lazyeviction(alpha={alpha})")  # type: ignore[assignment]
    cache = EvictingCache(adapter.n_layers)

    def observe(seen: Attended) -> None:
        layer = cache.layers[seen.layer]
        lazy.see(layer, seen.weights.unflatten(0, (len(layer.positions), -1)), seen.rows)

    over_slots(adapter, adapter.tensor(ids), cache, observe=observe, observed=len(tokens))
    return cache


def foreseen(session: Session, items: Sequence[Item], strong: float = _STRONG) -> dict[str, float]:
    """Return the share of prompt slots that answers attend to, and how many of these the prompt itself attended to.

    A slot is used by the answer where a row of it attends with more than ``strong`` weight. ``used``: share of the
    prompt's slots; ``seen_before``: of those, the share that the prompt's own later rows had used too (more than
    ``_NEAR`` tokens behind the slot), which is all that any rule of past attention can know; ``again``: the share of
    them that the answer uses after more than ``_NEAR`` tokens without use twice or more.
    """
    used = before = again = slots = 0
    for item in items:
        prompt, tokens, _ = answered(session, item)
        n = len(session._prompt(prompt).ids)  # noqa: SLF001
        for weights in attention_maps(session, prompt, tokens):
            uses = weights > strong
            far = uses & (torch.arange(uses.shape[1])[:, None] > torch.arange(uses.shape[2]) + _NEAR)
            mine = far[:, n:, :n].any(dim=1)
            slots += mine.numel()
            used += int(mine.sum())
            before += int((mine & far[:, :n, :n].any(dim=1)).sum())
            again += int((mine & (_spells(far[:, n:, :n]) > 1)).sum())
    return {"used": used / slots, "seen_before": before / max(1, used), "again": again / max(1, used)}


_NEAR = 8  # tokens: two lines of the notes; what is used sooner than that is used while it is being read


def _spells(uses: torch.Tensor) -> torch.Tensor:
    """Return how often each slot of ``uses`` ``[H, n, T]`` comes into use after ``_NEAR`` rows without."""
    rest = torch.zeros(uses.shape[0], uses.shape[2], dtype=torch.long)
    found, idle = torch.zeros_like(rest), torch.full_like(rest, _NEAR + 1)
    for row in range(uses.shape[1]):
        found += uses[:, row] & (idle > _NEAR)
        idle = torch.where(uses[:, row], rest, idle + 1)
    return found


def specs(found: dict[str, float], keeps: Sequence[float] = KEEPS) -> list[str | Foresight | EqualBytes]:
    """Return the strategies to measure, one a row of the table, in its order.

    ``found`` is what ``calibrate`` gave for LazyEviction. At each budget of ``keeps``: LazyEviction, the published
    ``BASELINES``, the oracle; before them the oracle at a small budget.
    """
    rows: list[str | Foresight | EqualBytes] = [Foresight(_LITTLE)]
    for keep in keeps:
        published = (f"{name}(keep={keep})" for name in BASELINES)
        rows += [EqualBytes(keep, int(found["window"])), *published, Foresight(keep)]
    return rows


def main(n: int = COUNT, model: str = "tiny", folder: str = "docs") -> None:
    """Measure ``n`` questions of each seed and write the table; rows that it has already stay as they are."""
    import nbkv  # noqa: PLC0415

    command, items = f"python -m nbkv.studies.eviction {n}", questions(SEEDS, n)
    regime = f"`{model}`, {len(items)} reports over 8 chunks of 6 lines, seeds {SEEDS}"
    known = _known(Path(folder) / "tables" / "eviction.json", command, regime)
    with nbkv.load(model, strategy="full") as session:
        sample = questions([SAMPLE], 6)
        found = calibrate(session, [[*item.chunks, item.question] for item in sample])
        wanted = specs(found)
        measured = measure(session, items, [spec for spec in wanted if str(spec) not in known])
        rows = {row["strategy"]: row for row in measured} | known
        data = {
            "command": command,
            "regime": regime,
            "calibrated": found,
            "foreseen": foreseen(session, sample),
            "rows": [rows[name] for name in ("full", *map(str, wanted))],
        }
    write(data, Path(folder))


def _known(path: Path, command: str, regime: str) -> dict[str, dict[str, Any]]:
    """Return the rows that an earlier run of the same command has left, by strategy."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return (
        {row["strategy"]: row for row in data["rows"]}
        if data.get("command") == command and data["regime"] == regime
        else {}
    )


def write(data: dict[str, Any], out: Path) -> None:
    """Write the JSON and the page of a run."""
    (out / "tables").mkdir(parents=True, exist_ok=True)
    (out / "tables" / "eviction.json").write_text(json.dumps(data) + "\n", encoding="utf-8")
    (out / "eviction.md").write_text(markdown(data), encoding="utf-8")


def markdown(data: dict[str, Any]) -> str:
    """Return the page made from the JSON of a run."""
    found, why = data["calibrated"], data["foreseen"]
    full = next(row for row in data["rows"] if row["strategy"] == "full")
    lazy = {_keep(row): row for row in data["rows"] if row["strategy"].startswith("lazyeviction")}
    lines = [
        "# Eviction strategies on long answers",
        "",
        f"Made by `{data['command']}` (`make tables` asks {COUNT * len(SEEDS)}): {data['regime']}.",
        "A report lists everything one person bought: the answer copies a fifth of the prompt, line by line. `keep`",
        "is the most K/V a layer may hold, as a share of the tokens so far; LazyEviction, which waits, holds as much",
        "on average. *held* is bytes over full's, a mean over the answer, *peak* the most, over full's at its end (the",
        "prompt is one stretch, so every method's peak is the whole prompt). *right*: full is right and every greedy",
        "token is full's; 95 % interval of the bootstrap. *until*: share of the answer before",
        "the first other token. *match* and KL (nats): means over the answer's tokens, given full's tokens before",
        "them. *step*: median time of an answer token over full's. *p*: how often a resample of the questions (paired",
        "bootstrap) has LazyEviction no better at the same `keep`. The *oracle* knows what the answer will attend to.",
        *data.get("notes", []),
        "",
        "| strategy | right | 95 % | until | match | KL | held | peak | step | p |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        other = lazy.get(_keep(row))
        p = "" if other in (None, row) else f"{not_above(_right(other), _right(row)):.3f}"
        lines.append(
            f"| {row['strategy']} | {_right(row).mean():.3f} | {row['low']:.2f} to {row['high']:.2f} "
            f"| {row['until']:.2f} | {row['match']:.3f} | {row['kl']:.2g} | {row['held']:.2f} | {row['peak']:.2f} "
            f"| {'' if row['step'] is None else format(row['step'], '.2f')} | {p} |"
        )
    oracle = next((row for row in data["rows"] if row["strategy"] == str(Foresight(_LITTLE))), full)
    best = max(_right(row).mean() for row in lazy.values()) if lazy else 0.0
    lines += [
        "",
        "## What this says of LazyEviction here",
        "",
        f"Full is right on {_right(full).mean():.3f}, LazyEviction at best on {best:.3f}. It is not for want of room:",
        f"the oracle is right on {_right(oracle).mean():.3f} at `keep={_LITTLE}`. `alpha` is the default, the window",
        f"the 80th percentile of MRI on a sample of other questions: {int(found['window'])} tokens (halved to fit).",
        f"{found['share']:.0%} of the slots come back into use at all by that `alpha`.",
        "",
        f"An answer attends strongly (weight above {_STRONG}) to {why['used']:.1%} of the prompt's slots, counted by",
        f"layer and head. Of these, {why['seen_before']:.0%} had been attended to strongly by later rows of the",
        f"prompt, and {why['again']:.0%} are used in two or more spells of the answer. For the others nothing in past",
        "attention tells them from slots that are never used: their first use is the one that matters. LazyEviction",
        "waits for what comes back at intervals, as steps of a long chain of thought do; a report reads each line",
        "once, when its turn comes. What `window` and `streaming` get right are sections in the newest part.",
        "[Chains of steps](eviction-reasoning.md) are measured apart.",
    ]
    return "\n".join(lines) + "\n"


def _keep(row: dict[str, Any]) -> str:
    return str(row["strategy"]).partition("keep=")[2].split(",")[0].split(" ")[0].rstrip(")")


def _right(row: dict[str, Any]) -> Any:  # noqa: ANN401  (figures)
    return np.array(row["right"], dtype=np.float64)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
