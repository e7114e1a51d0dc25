"""KVLink: what each row sees, held against a plain forward with that very mask; weights, refusals, counts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import nbkv
from nbkv.errors import BadOption, BadPrompt, LoadError, UnsupportedModel
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.input_embeddings import embeddings_work
from nbkv.models.link_tokens import Links, read_links, write_links
from nbkv.models.sampling import Sampling
from nbkv.prompts import prompt as prompts
from nbkv.strategy import parse

SLOTS, LINKS = 4, 3


def random_links(hidden=64, slots=SLOTS, links=LINKS, seed=0):
    return torch.randn(slots, links, hidden, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "links.safetensors"
    write_links(path, Links(random_links()))
    return str(path)


def next_logits(session, prompt, strategy):
    ctx = session._ctx.for_request()
    built = prompts.build(ctx.codec, prompt, ctx.adapter.fingerprint, ctx.eos)
    return follow(RequestRun(ctx, parse(strategy), built, Sampling()), [0])[0]


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
    whole, slot, codec = Dense(session.adapter.model), 0, session._ctx.codec
    whole.ids(list(codec.bos_ids))
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
    tokens = result.tokens
    assert (tokens.reused, tokens.recomputed, tokens.fresh) == (19, 0, 4)  # BOS is known from the chunks
    assert result.compute.share == pytest.approx((4 + 2 * LINKS) / 23)
    assert "ran 6 link tokens for 2 chunks" in result.notes
    assert result.kv_bytes["working"] == (23 + 2 * LINKS + 1) * 4 * 2 * 2 * 16 * 4


def test_a_prompt_may_end_with_a_chunk_and_may_have_none(session_of, words, weights):
    session, spec = session_of(), f"kvlink({weights!r})"
    chunk = session.chunk(words(9), name="c")

    assert close(next_logits(session, [chunk, chunk], spec), dense(session, [chunk, chunk], random_links()).logits())
    assert close(next_logits(session, words(9), spec), next_logits(session, words(9), "full"))


def test_two_turns_of_a_chat(session_of, words, weights):
    session = session_of(strategy=f"kvlink({weights!r})")
    chunk, chat = session.chunk(words(9), name="c"), session.chat()
    first = chat.send([chunk, words(4, seed=1)], max_new_tokens=5)
    second = chat.send(words(3, seed=2), max_new_tokens=3)
    reference = dense(session, [chunk, words(4, seed=1)], random_links())
    reference.ids(first.token_ids)
    reference.ids(second.prompt_ids[-3:])

    assert second.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids
    assert second.tokens.reused == 10  # an answer is text here
    assert second.token_ids[0] == int(reference.logits().argmax())


def test_links_take_the_dtype_of_the_model(make_model, tokenizer, words, weights):
    model = make_model("llama").to(torch.bfloat16)
    with nbkv.load(model, tokenizer=tokenizer, strategy=f"kvlink({weights!r})") as session:
        result = session.generate([session.chunk(words(9), name="c"), words(4)], max_new_tokens=3)
        assert len(result.token_ids) == 3


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
    with pytest.raises(BadPrompt, match="501 tokens and 12 link tokens are too many"):
        session.generate([chunk, *[session.chunk("w1", name="short")] * 3, words(97)])


def test_more_chunks_than_slots_are_refused(session_of, words, weights):
    session = session_of(strategy=f"kvlink({weights!r})")
    chunk = session.chunk(words(3), name="c")

    with pytest.raises(BadPrompt, match="5 chunks are too many: there are link tokens for 4 in a prompt"):
        session.generate([*[chunk] * 5, words(4)])


def test_a_chunk_that_was_evicted_is_encoded_again(session_of, words, weights):
    session, spec = session_of(), f"kvlink({weights!r})"
    chunk = session.chunk(words(9), name="c")
    parts = [words(5, seed=1), chunk, words(4, seed=3)]
    session.store.clear()
    result = session.generate(parts, strategy=spec, max_new_tokens=2)

    assert (result.tokens.reused, result.tokens.fresh) == (1, 18)  # the BOS that the chunk was encoded behind
    assert any("encoded again" in note for note in result.notes)
    assert close(next_logits(session, parts, spec), dense(session, parts, random_links()).logits())


# where the link tokens come from


def test_weights_are_written_and_read_as_they_are(tmp_path):
    links = random_links()
    write_links(tmp_path / "new" / "l.safetensors", Links(links, trained_on="abc"))
    read = read_links(tmp_path / "new" / "l.safetensors")

    assert torch.equal(read.vectors, links)
    assert (read.slots, read.trained_on) == (SLOTS, "abc")
    write_links(tmp_path / "new" / "l.safetensors", Links(links[:2]))
    assert read_links(tmp_path / "new" / "l.safetensors").slots == 2  # a file that changes is read again


def test_weights_beside_the_model_are_found(session_of, words, tokenizer, tmp_path, weights):
    session_of().adapter.model.save_pretrained(tmp_path)  # the links are there already
    tokenizer.save_pretrained(tmp_path)
    with nbkv.load(tmp_path) as session:
        prompt = [session.chunk(words(9), name="c"), words(4)]
        result = session.generate(prompt, strategy="kvlink", max_new_tokens=2)
        assert "ran 3 link tokens for 1 chunk" in result.notes
        assert not any("other weights" in note for note in result.notes)

        write_links(weights, Links(random_links(), trained_on="another model"))
        result = session.generate(prompt, strategy="kvlink", max_new_tokens=2)
        assert any("trained on other weights" in note for note in result.notes)


def test_without_weights_it_says_what_to_do(session_of):
    what_to_do = r"no link tokens for LlamaForCausalLM.*train_links\.ipynb.*first_id"
    with pytest.raises(UnsupportedModel, match=what_to_do) as error:
        session_of(strategy="kvlink")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"links": torch.zeros(4, 3)}, r"holds float32 \[4, 3\] \(accepted: .*slots, links, hidden"),
        ({"links": torch.zeros(4, 3, 64, dtype=torch.int64)}, r"holds int64 \[4, 3, 64\]"),
        ({"other": torch.zeros(4, 3, 64)}, "holds no such tensor"),
        (None, "cannot read"),
    ],
)
def test_what_is_no_file_of_links_is_refused(session_of, tmp_path, tensors, message):
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(b"no tensors") if tensors is None else save_file(tensors, path)

    with pytest.raises(LoadError, match=message) as error:
        session_of(strategy=f"kvlink({str(path)!r})")
    assert "\n" not in str(error.value)


def test_links_of_another_width_and_a_missing_file_are_refused(session_of, tmp_path):
    write_links(tmp_path / "wide.safetensors", Links(random_links(hidden=48)))
    with pytest.raises(UnsupportedModel, match=r"shape \[4, 3, 48\] do not fit .* embeddings have 64 values"):
        session_of(strategy=f"kvlink({str(tmp_path / 'wide.safetensors')!r})")
    with pytest.raises(LoadError, match="no file 'nowhere' with link tokens"):
        session_of(strategy="kvlink('nowhere')")


def test_the_file_says_how_many_links_a_chunk_has(session_of, weights):
    session_of(strategy=f"kvlink(weights={weights!r}, links={LINKS})")
    with pytest.raises(BadOption, match="links=4 is not accepted: the file has 3 link tokens a chunk"):
        session_of(strategy=f"kvlink(weights={weights!r}, links=4)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("weights='a', first_id=3", "not both"),
        ("links=0", "links=0 is not accepted"),
        ("first_id=-1", "first_id=-1 is not accepted"),
        ("marks=(1,)", "marks takes two token ids"),
        ("marks=7", "marks takes two token ids"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(BadOption, match=message):
        parse(f"kvlink({options})")


def test_layers_that_look_at_token_ids_are_refused(session_of, make_model, tokenizer, weights):
    gemma3n = make_model("gemma3n")
    with nbkv.load(gemma3n, tokenizer=tokenizer) as session:
        assert embeddings_work(session.adapter)  # untrained, its per-layer inputs are scaled by zeros
    with torch.no_grad():
        for layer in gemma3n.model.layers:
            layer.altup.correct_output_scale.fill_(1.0)
    with (
        pytest.raises(UnsupportedModel, match="its layers look at token ids themselves"),
        nbkv.load(gemma3n, tokenizer=tokenizer, strategy=f"kvlink({weights!r})"),
    ):
        pass
    assert not embeddings_work(session_of("gemma4").adapter)
    assert embeddings_work(session_of("gemma3").adapter)


# KVLink checkpoints, whose link tokens are ids of the vocabulary


@pytest.fixture
def checkpoint(make_model, tokenizer, tmp_path):
    """A random model in the layout of the published checkpoints, written and read."""
    make_model("llama", vocab_size=128_256, hidden_size=16, num_hidden_layers=2).save_pretrained(tmp_path / "kvlink5")
    tokenizer.save_pretrained(tmp_path / "kvlink5")
    with nbkv.load(tmp_path / "kvlink5") as session:
        yield session


def test_ids_of_a_checkpoint_stand_where_it_was_trained_to_see_them(checkpoint, words):
    one, two = (checkpoint.chunk(words(n, seed=n), name=f"c{n}", sink="none") for n in (11, 7))
    before, question = words(5, seed=1), words(4, seed=3)
    codec, whole = checkpoint._ctx.codec, Dense(checkpoint.adapter.model)
    whole.ids([*codec.bos_ids, *codec.part(before, first=True), 128_254])
    whole.ids(one.token_ids, owner=0)
    whole.ids(range(128_011, 128_016))
    whole.ids(two.token_ids, owner=1)
    whole.ids([*range(128_016, 128_021), 128_255, *codec.part(question, first=False)])
    parts = [before, one, two, question]
    result = checkpoint.generate(parts, strategy="kvlink(first_id=128011)", max_new_tokens=2)

    assert close(next_logits(checkpoint, parts, "kvlink(first_id=128011)"), whole.logits())
    assert "ran 10 link tokens and 2 marks for 2 chunks" in result.notes
    assert not any("sink" in note for note in result.notes)
    assert len(result.provenance) == len(result.prompt_ids) == 28
    assert result.compute.share == pytest.approx((6 + 4 + 12) / 28)


def test_a_checkpoint_wants_bare_chunks_and_takes_other_layouts(session_of, checkpoint, words):
    chunk = checkpoint.chunk(words(5), name="c")
    result = checkpoint.generate([chunk, "w1"], strategy="kvlink(first_id=128011)", max_new_tokens=1)
    assert any("sink='none'" in note for note in result.notes)

    with pytest.raises(UnsupportedModel, match=r"has 199 ids, link tokens from 128011 on .* go up to 128255"):
        session_of(strategy="kvlink(first_id=128011)")
    small = session_of(strategy="kvlink(first_id=150, links=1, marks=())")
    result = small.generate([small.chunk(words(5), name="c", sink="none"), "w1"], max_new_tokens=1)
    assert "ran 1 link token for 1 chunk" in result.notes


def test_an_exception_leaves_the_embedding_as_it_was(session_of, words, weights, monkeypatch):
    session = session_of(strategy=f"kvlink({weights!r})")
    prompt = [session.chunk(words(9), name="c"), words(4)]
    expected = session.generate(prompt, max_new_tokens=3).token_ids

    def boom(*_, **__):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("nbkv.families.blend.partial.PartialPrefill.finish", boom)
        with pytest.raises(ZeroDivisionError):
            session.generate(prompt, max_new_tokens=3)
    assert not session.adapter.model.get_input_embeddings()._forward_hooks
    assert session.generate(prompt, max_new_tokens=3).token_ids == expected
