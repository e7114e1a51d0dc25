"""A session behind LangChain and LlamaIndex: what they ask is what is asked, and they are told what was reused."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

import nbkv
from nbkv.integrations.figures import figures
from nbkv.integrations.passages import Passages
from nbkv.integrations.tool_calls import tool_calls

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

TEMPLATE = (
    "{% for t in tools or [] %}w150 {{ t.function.name }} {% endfor %}"
    "{% for m in messages %}{{ {'system': 'w180', 'user': 'w181', 'assistant': 'w182', 'tool': 'w183'}[m.role] }} "
    "{{ m.content }} {% for c in m.tool_calls or [] %}w184 {{ c.function.name }} {{ c.function.arguments.at }} "
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}w182 {% endif %}"
)
DOCUMENTS = [" ".join(f"w{(7 * at + shift) % 140}" for at in range(24)) for shift in (1, 3)]


@pytest.fixture
def session(model_of, make_tokenizer):
    tokenizer = make_tokenizer(bos=False, template=TEMPLATE)
    with nbkv.load(model_of("llama"), tokenizer=tokenizer, strategy="prefix") as made:
        yield made


def ids(session, text):
    return session.tokenizer(text, add_special_tokens=False)["input_ids"]


# what both are made of


def test_passages_are_encoded_once_and_put_where_their_text_stands(session):
    known, (one, two) = Passages(session), DOCUMENTS
    chunks = known.add([one, two, one, " "])
    assert [chunk.text for chunk in chunks] == [one, two, one]
    assert len(known) == len(session.chunks) == 2

    asked = [{"role": "user", "content": f"w1 {one} w2"}, {"role": "assistant", "content": "w3"}]
    first, second = known.placed(asked, chunks)
    assert first["content"] == [chunks[1], "w1 ", chunks[0], " w2"]
    assert second["content"] == "w3"
    assert known.placed([{"role": "system", "content": "w1"}], chunks) == [{"role": "system", "content": "w1"}]


@pytest.mark.parametrize(
    ("text", "left", "calls"),
    [
        ("Yes.", "Yes.", []),
        ('So <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', "So", [("add", {"a": 1})]),
        (
            '<tool_call>{"name": "f", "parameters": {}}</tool_call><tool_call>{"name": "g"}</tool_call>',
            "",
            [("f", {}), ("g", {})],
        ),
        ("<tool_call>add 1</tool_call>", "<tool_call>add 1</tool_call>", []),
        ('<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
        ("<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
    ],
)
def test_calls_of_tools_are_read_from_an_answer(text, left, calls):
    assert tool_calls(text) == (left, calls)


def test_figures_are_those_of_the_result(session):
    session.generate("w1 w2 w3 w4", max_new_tokens=1)
    result = session.generate("w1 w2 w3 w5", max_new_tokens=2, fidelity=True)
    told = figures(result)
    assert (told["hit_rate"], told["reused"], told["fresh"]) == (0.75, 3, 1)
    assert (told["exact"], told["strategy"], told["finish_reason"]) == (True, "prefix", "length")
    assert told["ttft_s"] == result.timing.ttft_s
    assert told["fidelity"]["kl"] == result.fidelity.kl


@pytest.mark.parametrize("module", ["langchain", "llamaindex"])
def test_without_its_extra_an_integration_names_it(module):
    package = {"langchain": "langchain_core", "llamaindex": "llama_index"}[module]
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"try:\n    import nbkv.integrations.{module}\nexcept ImportError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f'pip install "nbkv[{module}]"' in said


# LangChain


@pytest.fixture
def chat(session):
    from nbkv.integrations.langchain import ChatNbkv

    return ChatNbkv(session=session, max_new_tokens=5)


def conversation():
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

    call = {"name": "w160", "args": {"at": "w161"}, "id": "c1"}
    return [
        SystemMessage("w1"),
        HumanMessage("w2 w3"),
        AIMessage("w4", tool_calls=[call]),
        ToolMessage("w5", tool_call_id="c1"),
        HumanMessage([{"type": "text", "text": "w6"}]),
    ]


def test_messages_of_langchain_are_the_templates(session, chat):
    answer = chat.invoke(conversation())
    wanted = "w180 w1 w181 w2 w3 w182 w4 w184 w160 w161 w183 w5 w181 w6 w182"

    assert session.last.prompt_ids == tuple(ids(session, wanted))
    assert answer.content == session.last.text
    assert answer.usage_metadata["input_tokens"] == len(session.last.prompt_ids)
    assert answer.response_metadata["finish_reason"] == "length"
    again = chat.invoke(conversation())
    assert again.response_metadata["hit_rate"] > 0.9
    assert again.usage_metadata["input_token_details"]["cache_read"] == again.response_metadata["reused"] > 0
    assert again.response_metadata["exact"] is True


def test_langchain_streams_what_it_answers(session, chat):
    whole = chat.invoke("w9 w8")
    pieces = list(chat.stream("w9 w8"))
    total = pieces[0]
    for piece in pieces[1:]:
        total += piece

    assert len(pieces) > 2
    assert total.content == whole.content
    assert total.response_metadata["strategy"] == "prefix"
    assert total.usage_metadata["output_tokens"] == 5


def test_a_stream_that_is_left_frees_the_session(session, chat):
    stream = chat.stream("w9 w8 w7", max_tokens=40)
    next(stream)
    stream.close()
    assert not session.busy
    assert len(session.last.token_ids) < 40
    assert chat.invoke("w1", max_tokens=1).usage_metadata["output_tokens"] == 1


def test_langchain_awaits_and_batches(session, chat):
    async def asked():
        streamed = [piece.content async for piece in chat.astream("w9 w8")]
        return streamed, await chat.ainvoke("w9 w8")

    streamed, awaited = asyncio.run(asked())
    assert "".join(streamed) == awaited.content == chat.invoke("w9 w8").content
    assert [each.content for each in chat.batch(["w9 w8", "w9 w8", "w3"])][:2] == [awaited.content] * 2


def test_stop_and_options_reach_the_session(session, chat):
    whole = chat.invoke("w9 w8").content.split()
    stopped = chat.invoke("w9 w8", stop=[whole[-1]])
    assert stopped.content.split() == whole[: whole.index(whole[-1])]
    assert stopped.response_metadata["finish_reason"] == "stop"
    drawn = [chat.invoke("w9 w8", temperature=3.0, seed=seed).content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(nbkv.BadOption, match="max_new_token"):
        chat.invoke("w1", max_new_token=3)


@pytest.mark.parametrize("where", ["in the text", "before the question", "remembered"])
def test_documents_of_langchain_are_chunks(session, chat, where):
    from langchain_core.documents import Document

    documents = [Document(page_content=text) for text in DOCUMENTS]
    text = f"w9 {DOCUMENTS[1]} w8 {DOCUMENTS[0]} w7" if where != "before the question" else "w7"
    if where == "remembered":
        chat.remember(documents)
    given = {} if where == "remembered" else {"documents": documents}
    answer = chat.invoke(text, strategy="epic(first_k=2)", **given)

    assert len(session.last.chunks) == 2
    assert answer.response_metadata["exact"] is False
    assert answer.response_metadata["reused"] >= 2 * (24 - 2)
    chained = chat.bind(documents=documents, strategy="prefix").invoke(text)
    assert chained.response_metadata["exact"] is True


def test_tools_go_to_the_template_and_calls_come_back(session, chat, monkeypatch):
    def w170(at: int) -> int:
        """Look there."""
        return at

    bound = chat.bind_tools([w170])
    bound.invoke("w1")
    assert session.last.prompt_ids[:2] == tuple(ids(session, "w150 w170"))
    from dataclasses import replace

    own = type(session).generate
    said = '<tool_call>{"name": "w170", "arguments": {"at": 5}}</tool_call>'
    monkeypatch.setattr(type(session), "generate", lambda *given, **more: replace(own(*given, **more), text=said))
    (call,) = bound.invoke("w1").tool_calls
    assert (call["name"], call["args"]) == ("w170", {"at": 5})


def test_a_message_that_is_none_of_a_conversation_is_refused(chat):
    from langchain_core.messages import FunctionMessage, HumanMessage

    with pytest.raises(nbkv.BadPrompt, match="type 'function'"):
        chat.invoke([FunctionMessage("w1", name="f")])
    with pytest.raises(nbkv.BadPrompt, match="text only"):
        chat.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])])


# LlamaIndex


@pytest.fixture
def llm(session):
    from nbkv.integrations.llamaindex import NbkvLLM

    return NbkvLLM(session=session, max_new_tokens=5)


def test_messages_of_llamaindex_are_the_templates(session, llm):
    from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ThinkingBlock, ToolCallBlock

    call = ToolCallBlock(tool_call_id="c1", tool_name="w160", tool_kwargs={"at": "w161"})
    messages = [
        ChatMessage(role=MessageRole.SYSTEM, content="w1"),
        ChatMessage(role=MessageRole.USER, content="w2 w3"),
        ChatMessage(role=MessageRole.ASSISTANT, blocks=[ThinkingBlock(content="w99"), TextBlock(text="w4"), call]),
        ChatMessage(role=MessageRole.TOOL, content="w5", additional_kwargs={"tool_call_id": "c1"}),
        ChatMessage(role=MessageRole.USER, content="w6"),
    ]
    answer = llm.chat(messages)
    wanted = "w180 w1 w181 w2 w3 w182 w4 w184 w160 w161 w183 w5 w181 w6 w182"

    assert session.last.prompt_ids == tuple(ids(session, wanted))
    assert answer.message.content == session.last.text
    assert llm.chat(messages).raw["hit_rate"] > 0.9
    assert (llm.metadata.is_chat_model, llm.metadata.num_output) == (True, 5)
    assert llm.metadata.context_window == session.adapter.capabilities.context


def test_llamaindex_streams_and_awaits_what_it_answers(session, llm):
    from llama_index.core.base.llms.types import ChatMessage

    asked = [ChatMessage(content="w9 w8")]
    whole = llm.chat(asked).message.content
    pieces = list(llm.stream_chat(asked))
    assert "".join(piece.delta for piece in pieces) == pieces[-1].message.content == whole
    assert pieces[-1].raw["strategy"] == "prefix"
    assert "raw" not in pieces[0].model_dump(exclude_none=True)

    async def awaited():
        streamed = [piece async for piece in await llm.astream_chat(asked)]
        chatted, completed = await llm.achat(asked), await llm.acomplete("w9 w8")
        return streamed[-1].message.content, chatted.message.content, completed.text

    streamed, chatted, completed = asyncio.run(awaited())
    assert streamed == chatted == whole
    assert completed == llm.complete("w9 w8").text == list(llm.stream_complete("w9 w8"))[-1].text
    assert session.last.prompt_ids == tuple(ids(session, "w9 w8"))


def test_a_llamaindex_stream_that_is_left_frees_the_session(session, llm):
    stream = llm.stream_complete("w9 w8 w7", max_tokens=40)
    next(stream)
    stream.close()
    del stream
    assert llm.complete("w1", max_tokens=1).raw["finish_reason"] == "length"
    assert llm.complete("w9 w8", stop="w").text == ""


@pytest.mark.parametrize("how", ["chat", "complete", "remembered"])
def test_nodes_of_llamaindex_are_chunks(session, llm, how):
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.schema import NodeWithScore, TextNode

    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]
    more = {"strategy": "epic(first_k=2)"} | ({} if how == "remembered" else {"nodes": nodes})
    text = f"w9 {DOCUMENTS[1]} w8 {DOCUMENTS[0]} w7"
    if how == "remembered":
        llm.remember(nodes)
    raw = llm.complete(text, **more).raw if how != "chat" else llm.chat([ChatMessage(content=text)], **more).raw

    assert len(session.last.chunks) == 2
    assert raw["exact"] is False
    assert raw["reused"] >= 2 * (24 - 2)
    assert llm.complete("w7", nodes=nodes).raw["exact"] is True
    assert len(session.last.chunks) == 2


def test_a_block_that_is_no_text_is_refused(llm):
    from llama_index.core.base.llms.types import ChatMessage, ImageBlock

    with pytest.raises(nbkv.BadPrompt, match="image block is not accepted"):
        llm.chat([ChatMessage(blocks=[ImageBlock(image=b"abc")])])
