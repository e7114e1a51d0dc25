"""Cache files: what is written is taken in elsewhere bit for bit, or refused by name; no damage becomes an answer."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zipfile

import pytest
import torch

import nbkv
from nbkv.errors import BadPrompt, LoadError, UnknownName, UnsupportedModel
from nbkv.session.exports import archive, golden
from nbkv.session.exports.archive import Archive
from nbkv.session.exports.golden import GoldenRows
from nbkv.stores.tiers.head import Sealer


@pytest.fixture
def exported(session_of, words, tmp_path):
    """A file with one chunk and one prefix, and the session that wrote it."""
    session = session_of()
    session.chunk(words(80, seed=1), name="contract")
    path = tmp_path / "cache.nbkv"
    session.export(path, ["contract"], prefix=words(90, seed=2))
    return path, session


def answers(session, words):
    """Ask what the file is about; return the answers' ids and how much was reused."""
    chunk = session.chunks.get("contract") or session.chunk(words(80, seed=1), name="contract")
    asked = [session.generate([chunk, words(4, seed=5)], max_new_tokens=4)]
    asked.append(session.generate(words(90, seed=2) + " w1 w2", max_new_tokens=4))
    asked.append(session.generate([words(6, seed=7), chunk, words(4, seed=5)], strategy="blend", max_new_tokens=4))
    return [one.token_ids for one in asked], [one.tokens.reused for one in asked]


def test_what_was_read_once_is_known_in_another_session(exported, session_of, words):
    path, session = exported
    other = session_of()
    file = other.import_(path)

    assert [name for name, _ in file.sequences] == ["chunk 'contract'", "prefix"]
    assert file.tokens == (81 + 91)
    assert all(finding.ok for _, finding in file.findings)
    assert other.chunks["contract"].token_ids == session.chunks["contract"].token_ids
    ids, reused = answers(other, words)
    assert (ids, reused) == answers(session, words)
    assert min(reused[:2]) >= 81
    assert ids == answers(session_of(), words)[0], "what a session without the file answers"


def test_the_bits_are_the_same_and_so_is_the_file(exported, session_of, tmp_path):
    path, session = exported
    other = session_of()
    other.import_(path)
    ids = (*session.chunks["contract"].sink, *session.chunks["contract"].token_ids)
    spaces = [each._open().for_request().space() for each in (session, other)]
    read = []
    for each, space in zip((session, other), spaces, strict=True):
        with each.store.reading(space, ids) as found:
            read.append([tensor for _, kv in found for tensor in (*kv.keys, *kv.values)])
    assert all(torch.equal(a, b) for a, b in zip(*read, strict=True))
    session.export(tmp_path / "one.nbkv", ["contract"])
    other.export(tmp_path / "two.nbkv", ["contract"])
    assert (tmp_path / "one.nbkv").read_bytes() == (tmp_path / "two.nbkv").read_bytes()


def test_importing_runs_a_few_rows_only(exported, session_of, monkeypatch):
    path, _ = exported
    other = session_of()
    rows, own = [], other.adapter.model_forward.run
    ran = type(other.adapter.model_forward).run

    def counting(self, ids, *args, **kwargs):
        rows.append(len(ids))
        return ran(self, ids, *args, **kwargs)

    monkeypatch.setattr(type(other.adapter.model_forward), "run", counting)
    other.import_(path)
    assert own is not None
    assert sum(rows) <= 2 * (64 + 4), "of each sequence its first 64 tokens, and four rows"


def test_a_results_prompt_and_answer_can_be_exported(session_of, words, tmp_path):
    session, other = session_of(), session_of()
    result = session.generate(words(40), max_new_tokens=6)
    session.export(tmp_path / "cache", prefix=result)
    other.import_(tmp_path / "cache")
    again = other.generate(words(40), max_new_tokens=6)

    assert again.tokens.reused == 40
    assert again.token_ids == result.token_ids


SCRIPT = """
import sys, torch, transformers, nbkv
sys.path[:0] = sys.argv[2:]
from conftest import make_tokenizer, words
from random_models import make_model
with nbkv.load(make_model("llama"), tokenizer=make_tokenizer()) as session:
    file = session.import_(sys.argv[1])
    asked = session.generate([session.chunks["contract"], words(4, seed=5)], max_new_tokens=4)
    print(asked.tokens.reused, *asked.token_ids)
"""


def test_another_process_takes_it_in(exported, words, request):
    path, session = exported
    tests = request.config.rootpath / "tests"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(path), str(tests), str(tests / "families")],
        capture_output=True,
        text=True,
        check=False,
        cwd=request.config.rootpath,
    )
    assert done.returncode == 0, done.stderr
    reused, *ids = map(int, done.stdout.split())
    asked = session.generate([session.chunks["contract"], words(4, seed=5)], max_new_tokens=4)
    assert reused == 81
    assert tuple(ids) == asked.token_ids


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_goes_round_and_is_too_coarse_for_float32(make_model, tokenizer, words, tmp_path, dtype):
    def session(kind):
        return nbkv.load(make_model("llama").to(getattr(torch, kind)), tokenizer=tokenizer)

    with session(dtype) as one, session(dtype) as two, session("float32") as wide:
        one.chunk(words(70), name="text")
        one.export(tmp_path / "cache")
        assert all(each.ok for _, each in two.import_(tmp_path / "cache").findings)
        with pytest.raises(UnsupportedModel, match=f"head off by .*made by .* in {dtype}") as refused:
            wide.import_(tmp_path / "cache")
        assert "float32" in str(refused.value)
        assert wide.store.figures()[0]["tokens"] == 0
        assert not wide.chunks


def test_float32_serves_half_precision_within_its_noise(make_model, tokenizer, words, tmp_path):
    wide = nbkv.load(make_model("llama"), tokenizer=tokenizer)
    narrow = nbkv.load(make_model("llama").to(torch.bfloat16), tokenizer=tokenizer)
    with wide, narrow:
        wide.chunk(words(70), name="text")
        wide.export(tmp_path / "cache")
        file = narrow.import_(tmp_path / "cache")
        assert all(finding.error > 0 for _, finding in file.findings)
        assert "made elsewhere" in file.notes[0]
        assert "float32 there, bfloat16 here" in file.notes[0]
        assert narrow.store.figures()[0]["tokens"] == 71


def perturbed(make_model, scale):
    model = make_model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.3])
def test_another_models_kv_are_refused_by_name(exported, make_model, tokenizer, scale):
    path, _ = exported
    torch.manual_seed(5)
    with nbkv.load(perturbed(make_model, scale), tokenizer=tokenizer) as other:
        with pytest.raises(UnsupportedModel, match="chunk 'contract': head off by"):
            other.import_(path)
        assert other.store.figures()[0]["tokens"] == 0


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "phi3"])
def test_another_familys_kv_are_refused(exported, session_of, family):
    path, _ = exported
    other = session_of(family)
    with pytest.raises(UnsupportedModel, match="nothing of it was imported"):
        other.import_(path)
    assert other.store.figures()[0]["tokens"] == 0


@pytest.mark.parametrize("family", ["gemma2", "qwen3", "gpt2", "gemma3n", "smollm3"])
def test_each_kind_of_kv_goes_round(session_of, words, tmp_path, family):
    session, other = session_of(family), session_of(family)
    result = session.generate(words(40), max_new_tokens=3)
    session.export(tmp_path / "cache", prefix=words(40))
    other.import_(tmp_path / "cache")
    again = other.generate(words(40), max_new_tokens=3)

    assert again.tokens.reused == 40
    assert again.token_ids == result.token_ids


def test_diffusion_blocks_go_round_whole(blockwise_reader, tmp_path):
    text = "Alice bought a lamp. Bob sold a chair. " * 6
    with nbkv.load(blockwise_reader) as session, nbkv.load(blockwise_reader) as other:
        result = session.generate(text, max_new_tokens=8)
        session.export(tmp_path / "cache", prefix=text)
        other.import_(tmp_path / "cache")
        again = other.generate(text, max_new_tokens=8)
        assert again.token_ids == result.token_ids
        assert again.tokens.reused > 0.8 * again.tokens.prompt


def test_stored_kv_that_were_changed_and_sealed_again_are_caught(exported, session_of, tmp_path):
    """Digests do not help against whoever can make them; the golden rows do, where no key keeps him out."""
    path, _ = exported
    sealer = Sealer()
    found = archive.read(path, sealer)
    from nbkv.stores.tiers.entry import make_entry
    from nbkv.stores.tiers.forms import form_of

    changed = []
    for entry in found.entries.values():
        kv, header = entry.kv(), entry.header
        for values in kv.values:
            values[:, 20:] = values.flip(1)[:, 20:]
        changed.append(make_entry(header.space, header.ids, 0, kv, form=form_of(""), sealer=sealer, facts=header.facts))
    manifest = {key: found.manifest[key] for key in ("made", "provenance", "sequences", "chunks")}
    archive.write(tmp_path / "forged", manifest, found.golden, changed, sealer)
    with pytest.raises(UnsupportedModel, match="head off by"):
        session_of().import_(tmp_path / "forged")


def test_a_key_keeps_out_who_has_another_or_none(session_of, words, tmp_path, monkeypatch):
    session, other = session_of(), session_of()
    session.chunk(words(30), name="text")
    for sealed, opened in (("one", "two"), ("", "two"), ("one", "")):
        monkeypatch.setenv("NBKV_STORE_KEY", sealed)
        session.export(tmp_path / "cache")
        monkeypatch.setenv("NBKV_STORE_KEY", opened)
        with pytest.raises(LoadError, match=r"seal|changed"):
            other.import_(tmp_path / "cache")
    assert other.store.figures()[0]["tokens"] == 0
    monkeypatch.setenv("NBKV_STORE_KEY", "one")
    other.import_(tmp_path / "cache")
    assert b"one" not in (tmp_path / "cache").read_bytes()[:200]


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "entries/../../x.safetensors", "C:\\x", "entries/x.safetensors", "extra", "a\0b"]
)
def test_a_member_whose_name_leads_elsewhere_is_refused(exported, session_of, tmp_path, name):
    path, _ = exported
    forged = tmp_path / "forged"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(forged, "w") as new:
        for member in old.infolist():
            new.writestr(member, old.read(member))
        new.writestr(zipfile.ZipInfo(name), b"x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LoadError, match=r"which no export has|not those it names"):
        session_of().import_(forged)
    assert sorted(tmp_path.rglob("*")) == before


def test_packed_and_doubled_members_are_refused(exported, session_of, tmp_path):
    path, _ = exported
    for number, how in enumerate(("packed", "doubled")):
        forged = tmp_path / f"forged{number}"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(forged, "w") as new:
            for member in old.infolist():
                kind = zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED
                new.writestr(member.filename, old.read(member), kind)
            if how == "doubled":
                with pytest.warns(UserWarning, match="Duplicate"):
                    new.writestr("manifest.json", b"{}")
        with pytest.raises(LoadError, match=r"compressed|two members"):
            session_of().import_(forged)


def broken(data, members, kind, draw):
    """Return ``data`` damaged in one of the ways that files are."""
    data = bytearray(data)
    if kind == "flip":
        at = draw.randrange(len(data))
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[draw.randrange(len(data)) :]
    elif kind == "zeros":
        at = draw.randrange(len(data))
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif kind == "moved":
        one, two, size = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(1, 2000)
        data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]
    else:
        at = draw.randrange(len(data))
        data[at:at] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9)))
    return bytes(data)


KINDS = ["flip", "cut", "zeros", "moved", "longer"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_damaged_files_of_each_kind_give_no_wrong_answer(exported, session_of, words, tmp_path, kind):
    path, session = exported
    data, draw = path.read_bytes(), random.Random(kind)
    want = answers(session_of(), words)[0]
    other, path, taken = session_of(), tmp_path / "damaged", 0
    for _ in range(200):
        path.write_bytes(broken(data, None, kind, draw))
        try:
            other.import_(path)
        except (LoadError, UnsupportedModel):
            assert other.store.figures()[0]["tokens"] == 0, "refused, and yet something was kept"
            continue
        taken += 1  # the damage lay where nothing is read, such as a date
        assert answers(other, words)[0] == want
        other.store.clear()
        other.chunks.clear()
    assert taken < 40
    assert session is not other


def test_what_two_files_hold_cannot_be_swapped(session_of, words, tmp_path):
    session, other = session_of(), session_of()
    paths = []
    for number in range(2):
        session.chunk(words(50, seed=number), name="text")
        paths.append(tmp_path / f"cache{number}")
        session.export(paths[-1], ["text"])
    for member in ("seal", "manifest.json", "golden.safetensors", "entries/"):
        forged = tmp_path / "forged"
        with zipfile.ZipFile(paths[0]) as one, zipfile.ZipFile(paths[1]) as two, zipfile.ZipFile(forged, "w") as new:
            entries = [each for each in two.namelist() if each.startswith(member)]
            for each in one.namelist():
                new.writestr(each, two.read(entries[0]) if each.startswith(member) else one.read(each))
        with pytest.raises(LoadError):
            other.import_(forged)
    assert other.store.figures()[0]["tokens"] == 0


@pytest.fixture
def strangers(make_model, tokenizer, words, tmp_path):
    """Files like ``exported``'s, made by other models, in another dtype, and of other text; and their sessions."""
    models = {
        "another model": perturbed(make_model, 0.3),
        "nearly the same": perturbed(make_model, 1e-3),
        "another family": make_model("qwen3"),
        "another dtype": make_model("llama").to(torch.bfloat16),
        "another text": make_model("llama"),
    }
    files = {}
    for name, model in models.items():
        with nbkv.load(model, tokenizer=tokenizer) as session:
            session.chunk(words(80, seed=1 if name != "another text" else 9), name="contract")
            files[name] = tmp_path / name.replace(" ", "-")
            session.export(files[name], ["contract"], prefix=words(90, seed=2 if name != "another text" else 8))
    return files


def test_two_hundred_files_with_members_of_others_give_no_wrong_answer(
    exported, strangers, session_of, words, tmp_path
):
    draw, want, other = random.Random(6), answers(session_of(), words)[0], session_of()
    path, forged, taken = exported[0], tmp_path / "forged", 0
    for _ in range(200):
        with zipfile.ZipFile(path) as one, zipfile.ZipFile(draw.choice(list(strangers.values()))) as two:
            foreign = dict.fromkeys(draw.sample(one.namelist(), draw.randrange(1, 4)))
            theirs = {name.split("/")[0]: name for name in two.namelist()}
            with zipfile.ZipFile(forged, "w") as new:
                for name in one.namelist():
                    source, inner = (two, theirs[name.split("/")[0]]) if name in foreign else (one, name)
                    new.writestr(name, source.read(inner))
        try:
            other.import_(forged)
        except (LoadError, UnsupportedModel):
            assert other.store.figures()[0]["tokens"] == 0
            continue
        taken += 1  # a member that is the same in both files
        assert answers(other, words)[0] == want
        other.store.clear()
        other.chunks.clear()
    assert taken < 20


@pytest.mark.parametrize("theirs", ["kv", "golden", "both"])
@pytest.mark.parametrize("name", ["another model", "nearly the same", "another dtype", "another text"])
def test_files_put_together_of_two_and_sealed_again_are_refused_by_name(
    exported, strangers, session_of, tmp_path, theirs, name
):
    """Whoever can make seals can make any file; what its K/V are is found out by running golden rows."""
    from nbkv.stores.tiers.entry import make_entry
    from nbkv.stores.tiers.forms import form_of

    own, foreign = archive.read(exported[0], Sealer()), archive.read(strangers[name], Sealer())
    by_length = {entry.header.stop: entry for entry in foreign.entries.values()}
    entries, golden_of = [], dict(own.golden)
    for key, entry in own.entries.items():
        other, header = by_length[entry.header.stop], entry.header
        kv = entry.kv() if theirs == "golden" else other.kv()
        given = {"form": form_of(""), "sealer": Sealer(), "facts": header.facts}
        entries.append(make_entry(header.space, header.ids, 0, kv, **given))
        if theirs != "kv":
            golden_of |= {f"{key}.{part}": foreign.golden[f"{other.header.key}.{part}"] for part in ("logits", "rows")}
    manifest = {each: own.manifest[each] for each in ("made", "provenance", "sequences", "chunks")}
    archive.write(tmp_path / "forged", manifest, golden_of, entries, Sealer())
    session = session_of()
    with pytest.raises(UnsupportedModel, match=r"(head|rows|logits) off by .*nothing of it was imported"):
        session.import_(tmp_path / "forged")
    assert session.store.figures()[0]["tokens"] == 0


@pytest.mark.parametrize("version", ["5.16.0", "6.1.0", "4.57.3", ""])
def test_another_version_of_transformers_is_taken_where_its_rows_agree_and_says_so(
    exported, session_of, words, tmp_path, version
):
    own = archive.read(exported[0], Sealer())
    manifest = {each: own.manifest[each] for each in ("made", "provenance", "sequences", "chunks")}
    manifest["made"] = manifest["made"] | {"transformers": version, "fingerprint": "of another version"}
    archive.write(tmp_path / "older", manifest, own.golden, list(own.entries.values()), Sealer())
    session = session_of()
    file = session.import_(tmp_path / "older")
    assert f"transformers {version} there" in file.notes[0]
    assert answers(session, words)[0] == answers(session_of(), words)[0]


def test_what_cannot_be_exported_is_refused_in_one_line(session_of, words, tmp_path):
    session = session_of()
    with pytest.raises(BadPrompt, match="nothing to export"):
        session.export(tmp_path / "cache")
    session.chunk(words(20), name="contract")
    with pytest.raises(UnknownName, match="did you mean 'contract'"):
        session.export(tmp_path / "cache", ["contrakt"])
    with pytest.raises(LoadError, match="cannot be written"):
        session.export(tmp_path / "no" / "folder" / "cache")
    with pytest.raises(LoadError, match="no file"):
        session.import_(tmp_path / "nothing")
    (tmp_path / "text").write_text("no export")
    with pytest.raises(LoadError, match="it is no export"):
        session.import_(tmp_path / "text")
    with pytest.raises(LoadError, match="cannot be read"):
        session.import_(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"] or (tmp_path / "remembered").exists()


def test_another_tokenizer_is_refused(exported, model_of, make_tokenizer, words):
    path, _ = exported
    turned = make_tokenizer()
    backend = json.loads(turned.backend_tokenizer.to_str())
    vocabulary = backend["model"]["vocab"]
    vocabulary["w0"], vocabulary["w1"] = vocabulary["w1"], vocabulary["w0"]
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), **named)
    text = words(80, seed=1)
    if not {"w0", "w1"} & set(text.split()):
        pytest.skip("the words that were exchanged are not in the text")
    with (
        nbkv.load(model_of("llama"), tokenizer=other) as session,
        pytest.raises(UnsupportedModel, match="other tokens of its text"),
    ):
        session.import_(path)


def test_golden_rows_catch_what_is_not_a_number(exported, session_of):
    path, _ = exported
    session = session_of()
    found: Archive = archive.read(path, Sealer())
    entry = next(iter(found.entries.values()))
    kv, key = entry.kv(), str(entry.header.key)
    rows = GoldenRows(tuple(found.golden[f"{key}.rows"].tolist()), found.golden[f"{key}.logits"])
    for tensor in (kv.keys[1], kv.values[2], rows.logits):
        kept = tensor.clone()
        tensor[..., 1:, :] = float("nan")
        assert not all(each.ok for each in golden.check(session.adapter, entry.header.ids, kv, rows))
        tensor.copy_(kept)
    assert all(each.ok for each in golden.check(session.adapter, entry.header.ids, kv, rows))


def test_a_cache_file_shows_itself(exported, session_of):
    path, session = exported
    file = session_of().import_(path)
    data = json.loads(json.dumps(file.to_dict()))

    assert data["tokens"] == 172
    assert "imported" in repr(file)
    assert "head" in repr(file)
    assert "<table" in file._repr_html_()
    assert "exported" in repr(session.export(path.with_name("other")))


def test_the_commands_write_a_file_and_take_it_into_a_store_on_disk(tmp_path, capsys):
    from nbkv.cli import main

    text = "Alice bought a lamp. Bob sold a chair. " * 4
    (tmp_path / "text").write_text(text)
    file, store = str(tmp_path / "cache.nbkv"), f"memory+disk:{tmp_path / 'store'}"
    given = ["--chunk", "lamp", str(tmp_path / "text"), "--prefix", str(tmp_path / "text")]
    assert main(["store", "export", "tiny", file, *given]) == 0
    assert main(["store", "import", "tiny", file, "--store", store]) == 0
    said = capsys.readouterr().out
    assert "exported" in said
    assert "chunk 'lamp'" in said
    with nbkv.load("tiny", store=store) as session:
        found = session.generate(text + "Who bought a lamp ?", max_new_tokens=2)
        assert found.tokens.reused > 0.8 * found.tokens.prompt, "the first request of a new process hits"
    assert main(["store", "import", "tiny", str(tmp_path / "text"), "--store", store]) == 2
