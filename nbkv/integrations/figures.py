"""What a framework is told of an answer: how it ended, what was reused of its prompt, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nbkv.result import Result


def figures(result: Result) -> dict[str, Any]:
    """Return the figures of ``result`` as JSON-able data, for a response's metadata.

    ``exact``: the answer is that of the full computation; ``fidelity`` is None unless it was
    asked for, ``ttft_s`` and ``total_s`` are seconds, token counts those of the prompt.
    """
    tokens, timing = result.tokens, result.timing
    return {
        "model_name": result.model,
        "finish_reason": result.finish_reason,
        "strategy": result.strategy,
        "exact": result.lineage == "exact",
        "hit_rate": result.hit_rate,
        "reused": tokens.reused,
        "recomputed": tokens.recomputed,
        "fresh": tokens.fresh,
        "compute_share": result.compute.share,
        "ttft_s": timing.ttft_s,
        "total_s": timing.total_s,
        "fidelity": None if result.fidelity is None else asdict(result.fidelity),
        "notes": list(result.notes),
    }
