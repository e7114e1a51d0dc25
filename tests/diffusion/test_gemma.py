"""DiffusionGemma: its encoder's KV are reused, its own sampler draws the same tokens as its own ``generate``."""

from __future__ import annotations

import pytest
import torch
import transformers

import nbkv
from nbkv.errors import BadOption, UnsupportedModel

# transformers asks torch's compiler, which is loaded then, whether it is in use
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")

TEXT = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 12,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SPECIAL = {"image_token_id": 198, "boi_token_id": 197, "eoi_token_id": 196}


@pytest.fixture(scope="module")
def gemma():
    torch.manual_seed(0)
    vision = VISION | {"num_key_value_heads": 2, "head_dim": 16}
    config = transformers.DiffusionGemmaConfig(text_config=TEXT, vision_config=vision, canvas_length=8, **SPECIAL)
    model = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(3.0)
    model.generation_config.max_denoising_steps = 6
    return model


@pytest.fixture
def session(gemma, make_tokenizer):
    with nbkv.load(gemma, tokenizer=make_tokenizer(bos=False)) as opened:
        yield opened


def generated(model, ids, n, seed=0, **options):
    torch.manual_seed(seed)
    out = model.generate(torch.tensor([ids]), max_new_tokens=n, **options)
    return out.sequences[0, len(ids) :].tolist()[:n]


@pytest.mark.parametrize("strategy", ["full", "prefix"])
@pytest.mark.parametrize("n_prompt", [1, 12, 30])
def test_it_draws_what_generate_draws(session, gemma, words, strategy, n_prompt):
    same = []
    for seed in (0, 3, 5, 7, 11):
        got = session.generate(words(n_prompt), max_new_tokens=20, strategy=strategy, seed=seed)

        assert len(got.prompt_ids) == n_prompt
        same.append(list(got.token_ids) == generated(gemma, got.prompt_ids, 20, seed))
    # A processor's own rounding may tip one draw in a hundred, or an expert's choice; anything wrong parts them all.
    assert sum(same) >= len(same) - 1
    if strategy == "prefix" and n_prompt > 1:
        assert got.tokens.reused == n_prompt - 1
    assert got.decoding["block"] == 8
    assert any("own schedule, temperature 0.8 to 0.4" in note for note in got.notes)


def test_torch_s_own_randomness_is_left_alone(session, words):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    session.generate(words(5), max_new_tokens=9)

    assert torch.equal(torch.rand(2), expected)


def test_branches_and_chats_reuse_the_encoder_s_kv(session, gemma, words):
    shared = words(26)
    for seed in (1, 2, 1):
        got = session.generate(shared + words(6, seed=seed), max_new_tokens=9, strategy="prefix")
        assert list(got.token_ids) == generated(gemma, got.prompt_ids, 9)
    assert got.tokens.reused >= 26
    chat = session.chat()
    for turn in range(3):
        result = chat.send(words(7, seed=turn), max_new_tokens=17, strategy="prefix")
        assert list(result.token_ids) == generated(gemma, result.prompt_ids, 17)
        if turn:
            before = chat.results[turn - 1]
            assert result.tokens.reused == len(before.prompt_ids) + 16  # canvases that were encoded


def test_the_answer_ends_at_eos(session, gemma, words):
    free = session.generate(words(9), max_new_tokens=24)
    end = free.token_ids[10]
    gemma.generation_config.eos_token_id = end
    try:
        got = session.generate(words(9), max_new_tokens=24)
    finally:
        gemma.generation_config.eos_token_id = None

    assert got.finish_reason == "stop"
    assert got.token_ids == free.token_ids[: free.token_ids.index(end) + 1]


def test_the_bound_of_its_sampler_is_an_option(session, gemma, words):
    config = transformers.models.diffusion_gemma.generation_diffusion_gemma.EntropyBoundSamplerConfig
    got = session.generate(words(9), max_new_tokens=8, unmask="entropy(bound=3)")

    assert list(got.token_ids) == generated(gemma, got.prompt_ids, 8, sampler_config=config(entropy_bound=3.0))
    assert got.decoding["unmask"] == "entropy(bound=3)"


def test_what_it_cannot_follow_is_refused(session, gemma, words):
    for options, says in (
        ({"temperature": 0.7}, "temperature=0.7 is not accepted: DiffusionGemma draws by its own schedule"),
        ({"top_p": 0.5}, "top_p=0.5 is not accepted"),
        ({"unmask": "static"}, "DiffusionGemma's rule is entropy"),
    ):
        with pytest.raises(BadOption) as refusal:
            session.generate(words(5), **options)
        assert says in str(refusal.value)
    with pytest.raises(UnsupportedModel, match="kvlink cannot serve"):
        session.generate(words(5), strategy="kvlink")
    with pytest.raises(UnsupportedModel, match="leave block_size out"):
        nbkv.load(gemma, tokenizer=session.tokenizer, block_size=8)


def test_kept_attention_goes_by_the_tokens_that_change(session, words):
    def ask(**options):
        spec = ", ".join(f"{name}={value}" for name, value in ({"threshold": None, "min_gain": 0} | options).items())
        return session.generate(words(30), strategy=f"flashblock({spec})", max_new_tokens=16)

    full = session.generate(words(30), strategy="full", max_new_tokens=16)
    always, never = ask(tau=1), ask(tau=9)

    assert always.token_ids == full.token_ids
    assert always.decoding["reuse_rate"] == 0
    assert never.decoding["passes"]["reused"] > never.decoding["passes"]["refreshed"]
    assert never.tokens.reused > 0


def test_verify_fidelity_and_chunks(session, words):
    report = session.verify(["full", "prefix", "cacheblend"])
    chunk = session.chunk(words(20), name="c")
    prompt = [words(5, seed=1), chunk, words(6, seed=2)]
    loose = session.generate(prompt, strategy="epic(first_k=0)", fidelity=True, max_new_tokens=8)
    full = session.generate(prompt, strategy="cacheblend(budget=1.0)", fidelity=True, max_new_tokens=8)

    assert report.ok
    assert loose.tokens.reused == 20
    assert loose.fidelity.kl > 1e-5
    assert full.fidelity.kl < 1e-6
    assert full.fidelity.top1 == 1


def test_eager_attention(gemma, make_tokenizer, words):
    import copy

    eager = copy.deepcopy(gemma)
    eager.set_attn_implementation("eager")
    with nbkv.load(eager, tokenizer=make_tokenizer(bos=False)) as session:
        got = session.generate(words(30), max_new_tokens=9)
        assert list(got.token_ids) == generated(gemma, got.prompt_ids, 9)


def test_it_is_loaded_from_a_folder(gemma, make_tokenizer, tmp_path, words):
    gemma.save_pretrained(tmp_path)
    make_tokenizer(bos=False).save_pretrained(tmp_path)
    for _ in range(2):  # proved, then remembered
        with nbkv.load(str(tmp_path)) as session:
            got = session.generate(words(9), max_new_tokens=8)
            assert list(got.token_ids) == generated(gemma, got.prompt_ids, 8)


def test_a_stop_between_passes(session, words):
    from nbkv.events import Token

    asked = []

    def stop_at_the_first_token(event):
        if isinstance(event, Token) and not asked:
            asked.append(event)
            session.stop()

    session.events.add(stop_at_the_first_token)
    got = session.generate(words(9), max_new_tokens=40, strategy="prefix")

    assert got.finish_reason == "interrupted"
    assert len(got.token_ids) == 8
