from __future__ import annotations

import pytest
import torch

import nbkv

MASK = 198


def allowed(n, size):
    """Which keys a row sees: all of its own block and of those before."""
    blocks = torch.arange(n) // size
    return (blocks[:, None] >= blocks[None, :])[None, None]


def plain_logits(model, ids, size):
    """Return the model's own logits of a whole sequence, without any cache."""
    with torch.no_grad():
        return model(torch.tensor([ids]), attention_mask=allowed(len(ids), size), use_cache=False).logits[0].float()


def chances_of(logits):
    logits = logits.clone()
    logits[MASK] = float("-inf")
    return torch.softmax(logits, dim=-1)


def best(sure, count):
    """Return the ``count`` places (keys of ``sure``) of highest confidence."""
    return sorted(sure, key=lambda place: -sure[place])[:count]


def schedule(size, steps, step):
    return size // steps + (step < size % steps)


RULES = {
    "static": lambda sure, dists, size, step: best(sure, 1),
    "static(steps=2)": lambda sure, dists, size, step: best(sure, schedule(size, 2, step % 2)),
    "static(steps=3)": lambda sure, dists, size, step: best(sure, schedule(size, 3, step % 3)),
    "dynamic(threshold=0.05)": lambda sure, dists, size, step: [p for p in sure if sure[p] > 0.05] or best(sure, 1),
    "dynamic(threshold=0.0)": lambda sure, dists, size, step: list(sure),
    "dynamic(0.9, steps=2)": lambda sure, dists, size, step: (
        high
        if len(high := [p for p in sure if sure[p] > 0.9]) >= min(len(sure), schedule(size, 2, step % 2))
        else best(sure, schedule(size, 2, step % 2))
    ),
    "entropy(bound=4.0)": lambda sure, dists, size, step: bounded(dists, 4.0),
    "sequential": lambda sure, dists, size, step: sorted(sure)[:1],
    "sequential(steps=2)": lambda sure, dists, size, step: sorted(sure)[: schedule(size, 2, step % 2)],
}


def bounded(dists, bound):
    entropies = {place: float(-(p[p > 0] * p[p > 0].log()).sum()) for place, p in dists.items()}
    taken, total = [], 0.0
    for place in sorted(entropies, key=lambda place: entropies[place]):
        if taken and total > bound:
            break
        taken.append(place)
        total += entropies[place]
    return taken


def reference(model, prompt, n, size, rule, *, shifted=False, sub=None):
    """Decode ``n`` tokens block by block, each pass over the whole sequence; return them."""
    ids, pick, sub = list(prompt), RULES[rule], sub or size
    while len(ids) < len(prompt) + n:
        start = len(ids) // size * size
        row = [*ids, *[MASK] * (start + size - len(ids))]
        if shifted and len(ids) == start:
            row[start] = int(chances_of(plain_logits(model, ids, size)[-1]).argmax())
        for begin in range(start, start + size, sub):
            step = 0
            while MASK in row[begin : begin + sub]:
                logits = plain_logits(model, row, size)
                open_ = [at for at in range(begin, begin + sub) if row[at] == MASK]
                dists = {at: chances_of(logits[at - 1 if shifted else at]) for at in open_}
                sure = {at: float(dists[at].max()) for at in open_}
                for at in pick(sure, dists, sub, step):
                    row[at] = int(dists[at].argmax())
                step += 1
        ids = row
    return ids[len(prompt) : len(prompt) + n]


@pytest.fixture
def sdar(make_model, make_tokenizer):
    """Sessions on random Qwen3 models that decode in blocks; their prompts have no BOS."""
    opened, tokenizer = [], make_tokenizer(bos=False)

    def open_session(block=4, changes=None, **options):
        model = make_model("qwen3", block_size=block, mask_token_id=MASK, **changes or {})
        opened.append(nbkv.load(model, tokenizer=tokenizer, **options))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


@pytest.fixture
def fast_dllm(make_model, make_tokenizer):
    """A session on a random Qwen2 model whose rows tell the token after them, decoded in parts of a block."""
    opened, tokenizer = [], make_tokenizer(bos=False)

    def open_session(block=16, sub=4, **options):
        told = {"block_size": block, "sub_block_size": sub, "shifted_logits": True, "mask_token_id": MASK}
        opened.append(nbkv.load(make_model("qwen2", **told), tokenizer=tokenizer, **options))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


@pytest.fixture(name="reference")
def _reference():
    return reference


@pytest.fixture(name="plain_logits")
def _plain_logits():
    return plain_logits


@pytest.fixture(params=sorted(RULES))
def rule(request):
    return request.param
