"""Magics whose cell is a prompt: answered, asked in a chat, kept as a chunk, compared; also interrupted."""

import re
import signal

import pytest
from IPython.utils.capture import capture_output
from shells import heard_by, interrupt_at, quiet, refused, run

from nbkv.events import Token
from nbkv.magics.stream_output import TerminalLive
from nbkv.models.sampling import Chooser
from nbkv.result import Chunk, Comparison, Result

pytestmark = pytest.mark.usefixtures("fresh_notebook")

VIEW = "application/vnd.jupyter.widget-view+json"


def test_a_prompt_gives_a_result_and_its_text_once(shell):
    result = run(shell, "%%kvgen -n 5\nwho are you ?")
    assert isinstance(result, Result)
    assert len(result.token_ids) == 5
    assert run.stdout.count(result.text) == 1
    assert "8 fresh" in run.stdout or "reused" in run.stdout
    assert shell.user_ns["_kv"] is result


def test_the_token_map_reads_like_the_prompt(shell):
    text = "Nina pays in krona. The lamp cost her 48."
    result = run(shell, f"%%kvgen -n 1 --raw\n{text}")
    assert "".join(result.prompt_pieces).endswith(text)
    assert "pays in krona. The lamp" in re.sub("<[^>]*>", "", result._repr_html_())


def test_shown_again_a_result_has_its_text(shell):
    result = run(shell, "%%kvgen -n 5\nwho are you ?")
    run(shell, "_kv")
    assert run.stdout.count(result.text) == 1


def test_a_prompt_is_chat_unless_raw(shell, session):
    chat = run(shell, "%%kvgen -n 1\nwho are you </s> ?")
    message = [{"role": "user", "content": "who are you </s> ?"}]
    assert chat.prompt_ids == session.generate(message, max_new_tokens=1).prompt_ids
    raw = run(shell, "%%kvgen -n 1 --raw\nwho are you </s> ?")
    assert list(raw.prompt_ids) == session.tokenizer("who are you </s> ?")["input_ids"]
    assert chat.prompt_ids != raw.prompt_ids


@pytest.mark.parametrize("line", ["--prefill who", "--prefill 'who are'", "--prefill hello --template-kwargs deep=[1]"])
def test_an_answer_may_begin_with_given_words(shell, session, line):
    prefill = re.search(r"--prefill ('(.*)'|(\w+))", line)
    text = prefill[2] or prefill[3]
    for cell in ("%%kvgen", "%%kvcompare full"):
        run(shell, f"{cell} -n 2 {line} --out got\nwho are you ?")
        found = shell.user_ns["got"]
        found = found if cell == "%%kvgen" else found.results[0]
        messages = [{"role": "user", "content": "who are you ?"}, {"role": "assistant", "content": text}]
        assert found.prompt_ids == session.generate(messages, continue_final_message=True, max_new_tokens=1).prompt_ids
    assert "chat template" in refused(shell, f"%%kvgen --raw {line}\nwho are you ?")


def test_the_chat_template_has_variables(shell, session, monkeypatch):
    template = session.tokenizer.chat_template
    monkeypatch.setattr(session.tokenizer, "chat_template", "{% if deep %}who who{% endif %} " + template)
    shell.user_ns["REALLY"] = [1]
    plain = run(shell, "%%kvgen -n 1\nhello").prompt_ids
    deep = session.generate([{"role": "user", "content": "hello"}], template_kwargs={"deep": 1}, max_new_tokens=1)
    for word in ("deep=True", "deep=true", "deep=REALLY", "'deep=[1, 2]'"):
        assert run(shell, f"%%kvgen -n 1 --template-kwargs {word}\nhello").prompt_ids == deep.prompt_ids != plain
    assert run(shell, "%%kvgen -n 1 --template-kwargs deep=\nhello").prompt_ids == plain
    assert "NAME=VALUE" in refused(shell, "%%kvgen --template-kwargs deep\nhello")
    assert "nbkv sees to that" in refused(shell, "%%kvgen --template-kwargs tokenize=True\nhello")


def test_without_a_template_prompts_are_raw_and_chat_is_refused(shell, session, monkeypatch):
    monkeypatch.setattr(type(session), "has_template", False)
    raw = run(shell, "%%kvgen -n 1\nwho are you ?")
    assert list(raw.prompt_ids) == session.tokenizer("who are you ?")["input_ids"]
    assert "no chat template" in refused(shell, "%%kvgen --chat\nwho are you ?")


def test_text_variables_tokenise_as_if_they_had_been_typed(shell):
    shell.user_ns["who"] = "re you"
    filled = run(shell, "%%kvgen -n 1 --raw\nwho a{{ who }} ?")
    typed = run(shell, "%%kvgen -n 1 --raw\nwho are you ?")
    assert filled.prompt_ids == typed.prompt_ids


def test_ipython_expands_nothing(shell, session):
    shell.user_ns["x"] = "expanded"
    result = run(shell, "%%kvgen -n 1 --raw\n{x} $x ${x}")
    assert list(result.prompt_ids) == session.tokenizer("{x} $x ${x}")["input_ids"]
    assert "'$x'" in refused(shell, "%%kvgen --out $x\nhello")


def test_a_chunk_is_encoded_once_and_reused(shell, session):
    chunk = run(shell, "%%kvchunk notes\nMarta has 3 apples .\nJonas has 4 .")
    assert isinstance(chunk, Chunk)
    assert chunk.text == "Marta has 3 apples .\nJonas has 4 ."
    assert session.chunks["notes"] == chunk
    result = run(shell, "%%kvgen -n 1 --raw\n{{ notes }} who ?")
    assert result.tokens.reused == len(chunk) + 1  # and the BOS it was encoded behind
    assert result.chunks == (("notes", 1, 1 + len(chunk)),)


def test_a_result_is_reused_as_its_answer(shell):
    first = run(shell, "%%kvgen -n 4 --raw --out first\nwho are you ?")
    second = run(shell, "%%kvgen -n 1 --raw\n{{ first }} and")
    assert second.prompt_ids[1 : 1 + len(first.token_ids)] == first.token_ids


def test_out_keeps_the_result_under_a_name(shell):
    result = run(shell, "%%kvgen -n 1 --out mine\nhello")
    assert shell.user_ns["mine"] is result


def test_a_strategy_is_for_one_cell_only(shell, session):
    assert run(shell, "%%kvgen -n 1 -s full\nhello").strategy == "full"
    assert run(shell, "%%kvgen -n 1\nhello").strategy == "prefix"
    run(shell, "%kvuse full")
    assert session.strategy.name == "full"
    assert run(shell, "%%kvgen -n 1\nhello").tokens.reused == 0


def test_options_take_values_from_the_notebook(shell):
    shell.user_ns.update(how="full", room=3, rows=[1])
    result = run(shell, "%%kvgen -s {{ how }} -n {{room}} --raw\nhello")
    assert (result.strategy, len(result.token_ids)) == ("full", 3)
    assert "unknown name {{ rows }}" in refused(shell, "%%kvgen -n {{ rows }}\nhello")


def test_defaults_can_be_configured(shell, magics):
    try:
        run(shell, "%config KVMagics.max_new = 3")
        assert len(run(shell, "%%kvgen\nhello").token_ids) == 3
    finally:
        magics.max_new = 64


def test_temperature_samples_with_a_fixed_seed(shell):
    first, second = (run(shell, "%%kvgen -n 8 -t 1.5\nhello") for _ in range(2))
    assert first.token_ids == second.token_ids
    assert first.token_ids != run(shell, "%%kvgen -n 8\nhello").token_ids


@pytest.mark.parametrize("cell", ["%%kvcompare full, prefix -n 2 --repeat 1\nhello", "%%kvgen --compare -n 2\nhello"])
def test_comparisons(shell, cell):
    table = run(shell, cell)
    assert isinstance(table, Comparison)
    assert [row["strategy"] for row in table.rows] == ["full", "prefix"]
    assert shell.user_ns["_kv"] is table
    assert "speed-up" in run.stdout


def test_compare_takes_names_with_options_and_spaces(shell, session, monkeypatch):
    asked = []
    monkeypatch.setattr(session, "compare", lambda prompt, names, **_: asked.append(names))
    run(shell, "%%kvcompare full, a(budget=0.2, b=1) prefix\nhello")
    run(shell, "%%kvcompare full prefix\nhello")
    run(shell, "%%kvcompare full , prefix,\nhello")
    run(shell, "%%kvgen --compare full,a(x=1)\nhello")
    run(shell, "%%kvgen --compare -s full\nhello")
    assert asked == ["full,a(budget=0.2, b=1),prefix", "full,prefix", "full,prefix", "full,a(x=1)", "full"]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("%%kvgen\n{{ nothing }}", "unknown name {{ nothing }}"),
        ("%%kvgen\n \n", "holds no prompt (write it below the first line, in the same cell)"),
        ("%%kvgen", "holds no prompt (write it below"),
        ("%%kvgen -n 3 --raw", "holds no prompt (write it below"),
        ("%%kvcompare full, prefix", "holds no prompt (write it below"),
        ("%%kvchunk notes", "chunk"),
        ("%%kvgen -n many\nhello", "invalid int value: 'many'"),
        ("%%kvgen -n 0\nhello", "max_new_tokens"),
        ("%%kvgen -t -1\nhello", "temperature"),
        ("%%kvgen -s nothing\nhello", "unknown strategy 'nothing' (known: "),
        ("%%kvgen -s fulll\nhello", "did you mean 'full'?"),
        ("%%kvgen -s prefix(x=1)\nhello", "x"),
        ("%%kvgen --chat --raw\nhello", "not allowed with"),
        ("%%kvgen --unmask static\nhello", "tiny decodes token by token, it masks nothing (leave it out)"),
        ("%%kvgen --unmask dynamic(2)\nhello", "threshold is a probability between 0 and 1"),
        ("%kvload tiny --block-size 4", "tiny is causal and decodes token by token"),
        ("%%kvgen --wrong\nhello", "unrecognized arguments: --wrong (%%kvgen -h lists the options)"),
        ("%%kvgen --out 1x\nhello", "'1x'"),
        ("%%kvgen -s 'full\nhello", "unclosed quote"),
        ("%%kvgen --compare -t 1\nhello", "greedy"),
        ("%kvgen hello", "text stands in the cell"),
        ("%%kvchunk\nhello", "NAME"),
        ("%%kvchunk my-notes\nhello", "'my-notes'"),
        ("%%kvchunk notes\n\n", "chunk"),
        ("%%kvcompare\nhello", "required"),
        ("%%kvcompare nothing\nhello", "unknown strategy 'nothing'"),
        ("%kvuse nothing", "unknown strategy 'nothing'"),
        ("%kvuse", "--session NAME"),
        ("%kvuse --session nothing", "unknown session 'nothing'"),
        ("%kvload", "required: model"),
        ("%kvload ./no/such/folder", "./no/such/folder"),
        ("%kvload tiny --device warp", "unknown device 'warp'"),
        ("%kvload tiny --as 1x", "'1x'"),
        ("%kvstore nothing", "unknown store 'nothing'"),
        ("%kvclose nothing", "unknown session 'nothing'"),
        ("%kvstats now", "unrecognized arguments: now"),
        ("%kvverify nothing", "unknown strategy 'nothing'"),
        ("%kvverify prefix(x=1)", "x"),
        ("%kvverify --wrong", "unrecognized arguments: --wrong (%kvverify -h lists the options)"),
    ],
)
def test_mistakes_are_one_clear_line_and_the_session_goes_on(shell, magics, cell, told):
    assert told in refused(shell, cell)
    assert len(magics.sessions.names) == 1
    assert run(shell, "%%kvgen -n 1\nhello").finish_reason == "length"


def test_a_variable_that_hides_a_chunk_is_refused(shell):
    run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    shell.user_ns["notes"] = "other"
    assert "both a variable" in refused(shell, "%%kvgen\n{{ notes }}")


def test_an_interrupt_keeps_the_partial_result_and_stops_the_queue(shell, session):
    whole = run(shell, "%%kvgen -n 12\nhello")
    with interrupt_at(session, 4), capture_output() as captured:
        done = shell.run_cell("%%kvgen -n 12\nhello", store_history=False)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    partial = shell.user_ns["_kv"]
    assert partial.finish_reason == "interrupted"
    assert 1 <= len(partial.token_ids) < 12
    assert partial.token_ids == whole.token_ids[: len(partial.token_ids)]
    assert "interrupted]" in captured.stdout
    assert run(shell, "%%kvgen -n 12\nhello").token_ids == whole.token_ids


def test_an_interrupt_while_a_piece_is_drawn_keeps_the_partial_result(shell, monkeypatch):
    add, drawn = TerminalLive.add, []

    def interrupted(self, piece):
        drawn.append(piece)
        if len(drawn) == 3:  # nbkv's own handler is off between two pieces
            signal.raise_signal(signal.SIGINT)
        add(self, piece)

    monkeypatch.setattr(TerminalLive, "add", interrupted)
    with capture_output() as captured:
        done = shell.run_cell("%%kvgen -n 12\nhello", store_history=False)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    assert shell.user_ns["_kv"].finish_reason == "interrupted"
    assert len(shell.user_ns["_kv"].token_ids) == 3
    assert "interrupted]" in captured.stdout


def test_an_interrupted_comparison_leaves_the_session_usable(shell, monkeypatch):
    before = run(shell, "%%kvgen -n 3\nhello")
    choose, chosen = Chooser.choose, []

    def interrupted(self, logits):  # a comparison is no request and tells no events
        chosen.append(logits)
        if len(chosen) == 2:
            signal.raise_signal(signal.SIGINT)
        return choose(self, logits)

    monkeypatch.setattr(Chooser, "choose", interrupted)
    with capture_output():
        done = shell.run_cell("%%kvcompare prefix -n 9\nhello", store_history=False)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    assert shell.user_ns["_kv"].stopped == "stopped after 0 of 9 steps"
    assert run(shell, "%%kvgen -n 3\nhello").token_ids == before.token_ids


def test_stop_from_elsewhere_returns_what_there_is(shell, session):
    stop = lambda event: session.stop() if isinstance(event, Token) else None  # noqa: E731
    with heard_by(session, stop):
        assert run(shell, "%%kvgen -n 12\nhello").finish_reason == "interrupted"


def test_a_replaced_chunk_is_said(shell):
    run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    assert "replaces" not in run.stdout
    chunk = run(shell, "%%kvchunk notes\nJonas has 4 .")
    for shown in (run.stdout, repr(chunk), chunk._repr_html_().replace("&#x27;", "'")):
        assert "replaces another chunk named 'notes'" in shown


def test_a_chat_goes_on_and_a_turn_can_be_edited(shell, session):
    chat = run(shell, "%%kvchat -n 3\nMarta has 3 apples . Jonas has 4 .")
    assert run.stdout.count("turn") <= 1
    run(shell, "%%kvchat -n 3\nwho ?")
    assert "reused" in run.stdout
    assert run(shell, "%kvchat") is chat
    assert [turn["asked"] for turn in chat.to_dict()["turns"]] == ["Marta has 3 apples . Jonas has 4 .", "who ?"]
    run(shell, "%%kvchat -n 3 --edit 2\nhow many ?")
    assert [turn["asked"] for turn in chat.to_dict()["turns"]][1:] == ["how many ?"]
    assert shell.user_ns["_kv"] is chat.results[-1]
    assert chat.results[-1].tokens.reused > 0
    assert run(shell, "%%kvchat --edit 1 --keep-later\nAnna has 5 apples .") is chat
    assert [turn["asked"] for turn in chat.to_dict()["turns"]] == ["Anna has 5 apples .", "how many ?"]
    run(shell, "%%kvchat -n 1 --drop-thinking\nwho ?")
    assert len(chat.results) == 3
    assert "--keep-later is for a cell with --edit" in refused(shell, "%%kvchat --keep-later\nhello")
    assert run(shell, "%%kvchat --new -n 1\nhello") is not chat
    assert "no turn 5" in refused(shell, "%%kvchat --edit 5\nhello")
    assert "holds no prompt" in refused(shell, "%%kvchat\n  ")


def test_a_chat_takes_chunks_and_a_system_text(shell, session):
    chunk = run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    chat = run(shell, "%%kvchat -n 1 --system 'you are terse'\n{{ notes }} who ?")
    assert chat.to_dict()["system"] == "you are terse"
    assert chat.results[0].chunks[0][0] == "notes"
    assert len(chunk) == chat.results[0].chunks[0][2] - chat.results[0].chunks[0][1]


def test_an_interrupted_turn_is_none(shell, session):
    chat = run(shell, "%%kvchat --new -n 1\nhello")
    with interrupt_at(session, 3), capture_output():
        done = shell.run_cell("%%kvchat -n 12\nhello", store_history=False)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    assert len(chat.results) == 1
    assert shell.user_ns["_kv"].finish_reason == "interrupted"


def test_a_turn_in_a_notebook_is_one_output_with_its_bar(shell, front_end):
    quiet(shell, "%%kvchat --new -n 4\nhello")
    quiet(shell, "%%kvchat -n 4\nhello again")
    assert [kind for kind, _ in front_end].count("display") == 2
    last = front_end[-1][1]["text/html"]
    assert "nbkv-chat" in last
    assert "turn 2: " in last
    assert "so far" in last


def test_a_chat_in_a_notebook_is_a_live_view_over_its_picture(shell, front_end):
    quiet(shell, "%%kvchat --new -n 4\nhello")
    del front_end[:]
    quiet(shell, "chat = %kvchat")
    (view, picture) = [data for kind, data in front_end if kind == "display"]
    assert VIEW in view
    assert "Chat with" in view["text/plain"]
    assert "hello" in picture["text/html"]
    chat = shell.user_ns["chat"]
    quiet(shell, "%%kvchat -n 4\nhello again")
    updated = [data for kind, data in front_end if kind == "update"][-1]
    assert "hello again" in updated["text/html"]
    assert len(chat.results) == 2


def test_a_question_that_fails_in_place_of_another_leaves_both(shell, session):
    chat = run(shell, "%%kvchat --new -n 2\none")
    run(shell, "%%kvchat -n 2\ntwo")
    for line in ("-s nothing", "-n 0", "-t -1"):
        refused(shell, f"%%kvchat --edit 1 {line}\nother")
    with interrupt_at(session, 3), capture_output():
        shell.run_cell("%%kvchat --edit 1 -n 12\nother", store_history=False)
    assert [turn["asked"] for turn in chat.to_dict()["turns"]] == ["one", "two"]
