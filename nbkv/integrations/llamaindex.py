"""A session as a LlamaIndex model: ``NbkvLLM(session=session)`` is a ``CustomLLM``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nbkv.errors import BadPrompt
from nbkv.integrations.figures import figures
from nbkv.integrations.tool_calls import template_call
from nbkv.prompts.prompt import PromptLike
from nbkv.result import Chunk
from nbkv.session.stream import Stream

try:
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseGen,
        LLMMetadata,
        MessageRole,
        TextBlock,
        ThinkingBlock,
        ToolCallBlock,
    )
    from llama_index.core.llms import CustomLLM
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.schema import MetadataMode, NodeWithScore

    from nbkv.integrations.session_model import SessionModel
except ImportError as error:
    needed = 'nbkv.integrations.llamaindex needs llama-index-core: pip install "nbkv[llamaindex]"'
    raise ImportError(needed) from error

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


class NbkvLLM(SessionModel, CustomLLM):
    """A LlamaIndex model that answers from an nbkv session, which stays open and its owner's.

    ``nodes`` (an argument of ``chat``, ``complete`` and their streams) are retrieved ``NodeWithScore`` objects: each is
    encoded once, as a chunk, and put where a message has its text, else before the last question. A query engine writes
    retrieved text itself and hands no nodes on: ``remember(nodes)`` before, and it is reused there too. A response's
    ``raw`` has the figures of reuse. Other options are those of ``session.generate``; ``strategy`` None is the
    session's own. A chat needs a chat template; ``complete`` asks the text as it is.
    """

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex knows it."""
        return "nbkv"

    @property
    def metadata(self) -> LLMMetadata:
        """Return what LlamaIndex asks of a model: its context, and whether it chats."""
        return LLMMetadata(
            context_window=self.session.adapter.capabilities.context,
            num_output=self.max_new_tokens,
            is_chat_model=self.session.has_template,
            model_name=self.session.model_name,
        )

    def remember(self, nodes: Sequence[NodeWithScore]) -> list[Chunk]:
        """Encode the text of ``nodes`` as prompts have it, once; it is reused wherever a prompt has it from now on."""
        return self.passages.add(each.node.get_content(metadata_mode=MetadataMode.LLM) for each in nodes)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:  # noqa: ANN401  (as LlamaIndex has it)
        """Return the answer to ``messages``."""
        chunks, options = self._asked(kwargs)
        result = self.session.generate(self._prompt(messages, chunks), **options)
        return ChatResponse(message=_said(result.text), raw=figures(result))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:  # noqa: ANN401  (as above)
        """Yield the answer to ``messages`` as it comes; the last response has the figures."""
        chunks, options = self._asked(kwargs)

        def response(text: str, piece: str, raw: dict[str, Any] | None) -> ChatResponse:
            return ChatResponse(message=_said(text), delta=piece, raw=raw)

        return _pieces(self.session.stream(self._prompt(messages, chunks), **options), response)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: ANN401, ARG002, FBT001, FBT002  (as above)
        """Return what comes after ``prompt``."""
        chunks, options = self._asked(kwargs)
        result = self.session.generate(self._text(prompt, chunks), **options)
        return CompletionResponse(text=result.text, raw=figures(result))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:  # noqa: ANN401, ARG002, FBT001, FBT002  (as above)
        """Yield what comes after ``prompt`` as it comes; the last response has the figures."""
        chunks, options = self._asked(kwargs)

        def response(text: str, piece: str, raw: dict[str, Any] | None) -> CompletionResponse:
            return CompletionResponse(text=text, delta=piece, raw=raw)

        return _pieces(self.session.stream(self._text(prompt, chunks), **options), response)

    def _asked(self, given: dict[str, Any]) -> tuple[list[Chunk], dict[str, Any]]:
        options = self._options(given)
        return self.remember(options.pop("nodes", None) or []), options

    def _prompt(self, messages: Sequence[ChatMessage], chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
        return self.passages.placed([_message(message) for message in messages], chunks)

    def _text(self, prompt: str, chunks: Sequence[Chunk]) -> PromptLike:
        parts = self.passages.parts(prompt)
        there = {part.name for part in parts if isinstance(part, Chunk)}
        parts = [*(chunk for chunk in dict.fromkeys(chunks) if chunk.name not in there), *parts]
        return prompt if parts == [prompt] else parts


def _pieces(stream: Stream, response: Callable[[str, str, dict[str, Any] | None], Any]) -> Any:  # noqa: ANN401  (a generator of either kind)
    """Yield the responses of ``stream``; left early, the session is free again."""
    text = ""
    try:
        for piece in stream:
            text += piece
            yield response(text, piece, None)
    finally:
        stream.close()
    assert stream.result is not None  # noqa: S101
    yield response(stream.result.text, "", figures(stream.result))


def _said(text: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.ASSISTANT, content=text)


def _message(message: ChatMessage) -> dict[str, Any]:
    """Return ``message`` as nbkv has messages; raises ``BadPrompt`` for contents that are no text.

    Thinking that a message carries apart is left out, as chat templates leave it out of earlier answers.
    """
    texts: list[str] = []
    calls: list[dict[str, Any]] = list(message.additional_kwargs.get("tool_calls") or [])
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolCallBlock):
            calls.append(template_call(block.tool_name, block.tool_kwargs, block.tool_call_id))
        elif not isinstance(block, ThinkingBlock):
            text = f"a {block.block_type} block is not accepted (accepted: text, tool_call; nbkv serves text only)"
            raise BadPrompt(text)
    made: dict[str, Any] = {"role": _ROLES[message.role], "content": "\n".join(texts)}
    more = {
        name: message.additional_kwargs[name] for name in ("tool_call_id", "name") if name in message.additional_kwargs
    }
    return made | more | ({"tool_calls": calls} if calls else {})
