"""A session as a LangChain chat model: ``ChatNbkv(session=session)`` is a ``BaseChatModel``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from nbkv.errors import BadPrompt
from nbkv.integrations.figures import figures
from nbkv.integrations.tool_calls import template_call, tool_calls
from nbkv.result import Chunk, Result

try:
    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.documents import Document
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.utils.function_calling import convert_to_openai_tool

    from nbkv.integrations.session_model import SessionModel
except ImportError as error:
    needed = 'nbkv.integrations.langchain needs langchain-core: pip install "nbkv[langchain]"'
    raise ImportError(needed) from error

_ROLES = {"system": "system", "human": "user", "ai": "assistant", "tool": "tool"}


class ChatNbkv(SessionModel, BaseChatModel):
    """A LangChain chat model that answers from an nbkv session, which stays open and its owner's.

    ``documents`` (in ``invoke``, ``bind`` and the others) are retrieved ``Document`` objects: each is encoded once, as
    a chunk, and put where a message has its text, else before the last question. ``remember`` does so beforehand.
    ``tools`` of ``bind_tools`` go to the chat template; calls in ``<tool_call>`` tags become the message's
    ``tool_calls``. ``response_metadata`` has the figures of reuse, ``usage_metadata`` reused tokens as ``cache_read``.
    Other options are those of ``session.generate``; ``strategy`` None is the session's own. One request runs at a time.
    """

    def remember(self, documents: Sequence[Document]) -> list[Chunk]:
        """Encode ``documents``, once; from now on they are reused wherever a message has the text of one."""
        return self.passages.add(document.page_content for document in documents)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:  # noqa: ANN401  (as LangChain has it)
        """Return this model with ``tools``, which its chat template is given."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    @property
    def _llm_type(self) -> str:
        return "nbkv"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.session.model_name, "strategy": self.strategy, "max_new_tokens": self.max_new_tokens}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401  (as LangChain has it)
    ) -> ChatResult:
        prompt, options = self._request(messages, stop, kwargs)
        result = self.session.generate(prompt, **options)
        return ChatResult(generations=[ChatGeneration(message=_answer(result))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401  (as LangChain has it)
    ) -> Iterator[ChatGenerationChunk]:
        """Yield the answer's text as it comes, then its calls of tools and figures; left early, the session is free."""
        prompt, options = self._request(messages, stop, kwargs)
        stream = self.session.stream(prompt, **options)
        try:
            for piece in stream:
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
                if run_manager is not None:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
        finally:
            stream.close()
        assert stream.result is not None  # noqa: S101
        yield ChatGenerationChunk(message=_last(stream.result))

    def _request(self, messages: Sequence[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> Any:  # noqa: ANN401  (a prompt and options)
        options = self._options(given)
        options.pop("stream", None)
        chunks = self.remember(options.pop("documents", None) or [])
        if tools := options.pop("tools", None):
            options["template_kwargs"] = {**(options.get("template_kwargs") or {}), "tools": tools}
        prompt = self.passages.placed([_message(message) for message in messages], chunks)
        return prompt, options | {"stop": stop}


_numbers: Callable[[], int] = count(1).__next__


def _message(message: BaseMessage) -> dict[str, Any]:
    """Return ``message`` as nbkv has messages; raises ``BadPrompt`` for a kind that is none of a conversation's."""
    role = _ROLES.get(message.type) or getattr(message, "role", None)
    if role is None:
        text = f"a message of type {message.type!r} is not accepted (accepted: {', '.join(_ROLES)}, and ChatMessage)"
        raise BadPrompt(text)
    made: dict[str, Any] = {"role": role, "content": message.content}
    if isinstance(message, AIMessage) and message.tool_calls:
        made["tool_calls"] = [template_call(call["name"], call["args"], call["id"]) for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        made |= {"tool_call_id": message.tool_call_id} | ({"name": message.name} if message.name else {})
    return made


def _usage(result: Result) -> dict[str, Any]:
    asked, said = len(result.prompt_ids), len(result.token_ids)
    details = {"cache_read": result.tokens.reused}
    return {
        "input_tokens": asked,
        "output_tokens": said,
        "total_tokens": asked + said,
        "input_token_details": details,
    }


def _answer(result: Result) -> AIMessage:
    text, calls = tool_calls(result.text)
    made = [{"name": call.name, "args": call.arguments, "id": f"call_{_numbers()}"} for call in calls]
    return AIMessage(content=text, tool_calls=made, response_metadata=figures(result), usage_metadata=_usage(result))


def _last(result: Result) -> AIMessageChunk:
    """Return what ends a stream: the calls of tools in what was said, and the figures."""
    calls = _answer(result).tool_calls
    return AIMessageChunk(
        content="",
        tool_calls=calls,
        response_metadata=figures(result),
        usage_metadata=_usage(result),
        chunk_position="last",
    )
