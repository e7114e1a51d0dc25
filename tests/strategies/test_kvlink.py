"""KVLink: what each row sees, held against a plain forward with that very mask; weights, refusals, counts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import nbkv
from nbkv.errors import BadOption, BadPrompt, LoadError, UnsupportedModel
from nbkv.models.links import Links, read_links, write_links
from nbkv.running import Run, follow
from nbkv.models.decode import Sampling
from nbkv.models import prompt as prompts

SLOTS, LINKS = 4, 3


def random_links(hidden=64, slots=SLOTS, links=LINKS, seed=0):
    return torch.randn(slots, links, hidden, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "links.safetensors"
    write_links(path, Links(random_links()))
    return str(path)


def next_logits(session, prompt, strategy):
    engine = session._engine
    built = prompts.build(engine.codec, prompt, engine.adapter.fingerprint, engine.eos)
    return follow(Run(engine, nbkv.strategy.parse(strategy), built, Sampling()), [0])[0]


class Dense:
    """The rows of a linked prompt, and one plain forward over all of them with the mask written out."""

    def __init__(self, model):
        self.model, self.embedding = model, model.get_input_embeddings()
        self.vectors, self.positions, self.owners = [], [], []
        self.at = 0

    def add(self, vectors, owner=None, *, sink=False):
        """Append rows; ``owner``: the chunk that they belong to; a sink stands before it and takes no room."""
        start = self.at - len(vectors) if sink else self.at
        self.vectors.append(vectors)
        self.positions += range(start, start + len(vectors))
        self.owners += [(owner, sink)] * len(vectors)
        self.at = start + len(vectors)

    def ids(self, ids, owner=None, *, sink=False):
        if len(ids):
            self.add(self.embedding(torch.tensor(ids)), owner, sink=sink)

    def logits(self):
        n, positions = len(self.positions), self.positions
        seen = torch.zeros(n, n, dtype=torch.bool)
        for row, (mine, _) in enumerate(self.owners):
            for key, (theirs, sink) in enumerate(self.owners):
                allowed = theirs == mine if mine is not None else not sink
                seen[row, key] = allowed and positions[key] <= positions[row] and not (sink and key > row)
        config, at = self.model.config, torch.tensor(positions)
        mask = {"full_attention": seen[None, None]}
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            mask["sliding_attention"] = (seen & (at[:, None] - at[None] < config.sliding_window))[None, None]
        with torch.no_grad():
            out = self.model(
                inputs_embeds=torch.cat(self.vectors)[None],
                position_ids=at[None],
                attention_mask=mask if len(mask) > 1 else mask["full_attention"],
                use_cache=False,
            )
        return out.logits[0, -1]


def dense(session, parts, links):
    """``parts``: text or chunks; ``links`` ``[slots, links, H]``."""
    whole, slot, codec = Dense(session.adapter.model), 0, session._engine.codec
    whole.ids(list(codec.front))
    for number, part in enumerate(parts):
        if isinstance(part, str):
            whole.ids(codec.part(part, first=number == 0))
            continue
        whole.ids(list(part.sink), owner=slot, sink=True)
        whole.ids(list(part.token_ids), owner=slot)
        whole.add(links[slot])
        slot += 1
    return whole


def close(got, expected):
    return float((got - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("sink", ["bos", "none"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_rows_see_what_the_paper_says(session_of, words, weights, family, sink):
    session, spec = session_of(family), f"kvlink({weights!r})"
    one, two = (session.chunk(words(n, seed=n), name=f"c{n}", sink=sink) for n in (11, 7))
    parts = [words(5, seed=1), one, two, words(3, seed=2), one, words(4, seed=3)]
    reference = dense(session, parts, random_links())

    assert close(next_logits(session, parts, spec), reference.logits())
    # decoded tokens stand behind the link tokens too
    for token in session.generate(parts, strategy=spec, max_new_tokens=4).token_ids:
        assert token == int(reference.logits().argmax())
        reference.ids([token])


def test_an_exact_prefix_is_not_taken_for_chunks(session_of, words, weights):
    session, spec = session_of(), f"kvlink({weights!r})"
    chunk = session.chunk(words(9), name="c")
    parts = [words(5, seed=1), chunk, words(4, seed=3)]
    session.generate(parts, max_new_tokens=2)  # the store now knows the chunk as it is behind the text before it
    result = session.generate(parts, strategy=spec, max_new_tokens=2)

    assert close(next_logits(session, parts, spec), dense(session, parts, random_links()).logits())
    assert result.provenance.tolist() == [1] * 6 + [2] * 9 + [0] * 4


def test_links_are_rows_of_the_cache_and_no_tokens_of_the_prompt(session_of, words, weights):
    session = session_of(strategy=f"kvlink({weights!r})")
    one, two = (session.chunk(words(n, seed=n), name=f"c{n}") for n in (11, 7))
    result = session.generate([one, two, words(4)], max_new_tokens=2)

    assert result.prompt_ids == (0, *one.token_ids, *two.token_ids, *result.prompt_ids[-4:])
    assert (result.tokens.reused, result.tokens.recomputed, result.tokens.fresh) == (18, 0, 5)
    assert result.compute.share == pytest.approx((5 + 2 * LINKS) / 23)
    assert "6 link tokens run for 2 chunks" in result.notes
    assert result.kv_bytes["working"] == (23 + 2 * LINKS + 1) * 4 * 2 * 2 * 16 * 4


def test_a_prompt_may_end_with_a_chunk_and_may_have_none(session_of, words, weights):
    session, spec = session_of(), f"kvlink({weights!r})"
    chunk = session.chunk(words(9), name="c")

    assert close(next_logits(session, [chunk, chunk], spec), dense(session, [chunk, chunk], random_links()).logits())
    assert close(next_logits(session, words(9), spec), next_logits(session, words(9), "full"))
    assert session.generate([chunk], strategy=spec, max_new_tokens=1).tokens.fresh == 1


def test_two_turns_of_a_chat(session_of, words, weights):
    session = session_of(strategy=f"kvlink({weights!r})")
    chunk, chat = session.chunk(words(9), name="c"), session.chat()
    first = chat.send([chunk, words(4, seed=1)], max_new_tokens=5)
    second = chat.send(words(3, seed=2), max_new_tokens=3)
    said = "".join(f" w{i - 3}" for i in first.token_ids)  # an answer is text
    reference = dense(session, [chunk, words(4, seed=1)], random_links())
    reference.ids(first.token_ids)
    reference.ids(second.prompt_ids[-3:])

    assert said
    assert second.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids
    assert second.tokens.reused == 10 - 0 - (0 if second.provenance[0] else 1)
    assert second.token_ids[0] == int(reference.logits().argmax())


def test_streaming_gives_the_same(session_of, words, weights):
    session = session_of(strategy=f"kvlink({weights!r})")
    prompt = [session.chunk(words(9), name="c"), words(4, seed=1)]
    stream = session.stream(prompt, max_new_tokens=5)

    assert "".join(stream) == session.generate(prompt, max_new_tokens=5).text
    assert stream.result.finish_reason == "length"


def test_the_answer_ends_where_the_context_does(session_of, words, weights):
    session = session_of(strategy=f"kvlink({weights!r})")
    chunk = session.chunk(words(400), name="c")
    result = session.generate([chunk, words(100, seed=1)], max_new_tokens=64)

    assert len(result.token_ids) == 512 - 501 - LINKS
    assert any("limited to 8 tokens" in note for note in result.notes)
    with pytest.raises(BadPrompt, match="508 tokens and 6 link tokens are too many"):
        session.generate([chunk, chunk, words(107)][1:] + [session.chunk("w1"), words(-0 or 0) or "w2"], max_new_tokens=1)
