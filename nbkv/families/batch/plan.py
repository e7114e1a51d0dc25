"""Planning a batch: which prompts share a prefix, in which order their groups run, and which cannot run together."""

from __future__ import annotations

from collections.abc import Sequence

from nbkv.context import Context, Request
from nbkv.events import Fallback
from nbkv.families.batch.prompt_tree import shared_prefixes
from nbkv.models.probing.packing import why_not_packed
from nbkv.strategy import BatchPlan, RequestGroup

_LENGTH = "beyond its trained length this model's KV depends on the prompt's length"


def planned(
    requests: Sequence[Request], ctx: Context, least: int, *, width: int, tokens: int, nbytes: int
) -> BatchPlan:
    """Return the plan of ``requests``: groups by shared prefix, those that decode most for what they prefill first.

    A shared prefix has at least ``least`` tokens; the other limits are those of the plan. Prompts that end beyond the
    length up to which K/V do not depend on it run alone, and so do all where the model cannot run tokens of several
    sequences in one pass; those with equal beginnings then follow each other.
    """
    ids, stable = [request.ids for request in requests], ctx.adapter.capabilities.stable_context
    if why := _why_alone(ctx):
        ctx.tell(Fallback, why=why)
        return BatchPlan(alone=tuple(sorted(range(len(ids)), key=lambda at: ids[at])), why=why)
    fits = [at for at, request in enumerate(requests) if len(request.ids) + request.max_new_tokens <= stable]
    known = [ctx.store.holds(ctx.space(), ids[at]) for at in fits]
    found = shared_prefixes([ids[at] for at in fits], known, least)
    groups = [RequestGroup(each.tokens, tuple(fits[at] for at in each.members)) for each in found]
    alike = [part for group in groups for part in _alike(group, requests)]
    return BatchPlan(
        groups=decode_heavy_first(alike, requests),
        alone=tuple(at for at in range(len(ids)) if at not in set(fits)),
        width=width,
        tokens=tokens,
        nbytes=nbytes,
        why=_LENGTH if len(fits) < len(ids) else "",
    )


def decode_heavy_first(groups: Sequence[RequestGroup], requests: Sequence[Request]) -> tuple[RequestGroup, ...]:
    """Return ``groups`` with those first that decode most for what they prefill (BatchLLM, section 4.3).

    Their long decodes then have the prefills of later groups to share passes with, rather than a tail of few rows.
    """

    def decodes(group: RequestGroup) -> float:
        new = sum(requests[at].max_new_tokens for at in group.members)
        return new / (group.shared + sum(len(requests[at].ids) - group.shared for at in group.members))

    return tuple(sorted(groups, key=decodes, reverse=True))


def _alike(group: RequestGroup, requests: Sequence[Request]) -> list[RequestGroup]:
    """Return ``group`` with the longest prompts first: what is padded and what is reserved is then little.

    Where nothing is shared nothing is lost by taking it apart, so that none is less than half as long as another.
    """
    parts: list[list[int]] = []
    for at in sorted(group.members, key=lambda at: -len(requests[at].ids)):
        if parts and (group.shared or 2 * _length(requests[at]) >= _length(requests[parts[-1][0]])):
            parts[-1].append(at)
        else:
            parts.append([at])
    return [RequestGroup(group.shared, tuple(part)) for part in parts]


def _length(request: Request) -> int:
    return len(request.ids) + request.max_new_tokens


def _why_alone(ctx: Context) -> str:
    found = why_apart(ctx)
    return f"one prompt after another, those that begin alike together: {found}" if found else ""


def why_apart(ctx: Context) -> str:
    """Return why this model's sequences cannot share passes, found out once for each model; empty if they can."""
    name = f"packed@{ctx.model}@{ctx.adapter.dtype}"
    found: str | None = ctx.verdicts.get(name)
    if found is None:
        found = why_not_packed(ctx.adapter)
        ctx.verdicts.put(name, found)
    return found
