"""A tokenizer's chat template: what it writes by itself, in which forms it reads contents, and how it is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError, nodes

from nbkv.errors import BadOption, BadPrompt, closest
from nbkv.scalars import kind_of

# Arguments of ``apply_chat_template`` that are not the template's: whoever asks for a prompt has no say in them.
_OWN = {
    "conversation",
    "messages",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
    "sanitize_control_tokens",
}
_READERS = {"split", "rsplit", "partition", "startswith", "endswith", "find", "rfind", "index", "count"}
_TAGS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own, which jinja does not know
_PROBE = "NBKVPROBE"


@dataclass(frozen=True)
class TemplateOptions:
    """How a chat template is asked: with which variables of its own, and whether to go on with the last message."""

    variables: Mapping[str, Any] = field(default_factory=dict)
    continue_final: bool = False

    @property
    def given(self) -> bool:
        """Return whether anything was asked for, which makes sense for messages only."""
        return bool(self.variables) or self.continue_final


def template_options(template_kwargs: object, continue_final_message: object) -> TemplateOptions:
    """Return what a caller asked of the chat template; raises ``BadOption`` for what is no such thing."""
    if not isinstance(continue_final_message, bool):
        message = (
            f"continue_final_message={continue_final_message!r:.60} is not accepted: True goes on with the last message"
        )
        raise BadOption(message)
    if template_kwargs is None:
        return TemplateOptions({}, continue_final_message)
    if not isinstance(template_kwargs, Mapping) or not all(isinstance(name, str) for name in template_kwargs):
        message = (
            f"template_kwargs is {kind_of(template_kwargs)} (accepted: a dict of what the chat template knows by name, "
            "such as {'enable_thinking': False} or {'tools': [function]})"
        )
        raise BadOption(message)
    if taken := sorted(_OWN & template_kwargs.keys()):
        near = closest(taken[0], ["tools", "documents"])
        message = f"template_kwargs has {taken[0]!r}{near}, which is not the template's: nbkv sees to that itself"
        raise BadOption(message)
    return TemplateOptions(dict(template_kwargs), continue_final_message)


class ChatTemplate:
    """The chat template of ``tokenizer`` as its ``source`` has it.

    ``written`` are words of the vocabulary that it writes by itself, such as ``<tool_call>``, also where the tokenizer
    does not flag them special. ``special`` finds in a text those that it does flag, ``control`` both kinds.
    """

    def __init__(self, tokenizer: Any, source: object, special: frozenset[str]) -> None:  # noqa: ANN401  (slow and fast tokenizers share no typed parent)
        """Find out what the template of ``tokenizer`` writes and reads."""
        self._tokenizer, self.source = tokenizer, source
        self.written = written_words(_sources(source), (t.content for t in tokenizer.added_tokens_decoder.values()))
        self.written_ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(self.written)))
        self.special, self.control = any_of(special), any_of(special | self.written)

    @cached_property
    def strings(self) -> bool:
        """Return whether the template reads contents that are text."""
        return self._reads(_PROBE)

    @cached_property
    def lists(self) -> bool:
        """Return whether the template reads contents that are lists of ``{"type": "text", "text": …}``."""
        return self._reads([{"type": "text", "text": _PROBE}])

    def render(self, messages: Sequence[Mapping[str, Any]], options: TemplateOptions) -> str:
        """Return what the template makes of ``messages``; raises ``BadPrompt``, with the template's own reason."""
        try:
            return self._applied(messages, options)
        except Exception as error:
            first = next(iter(str(error).splitlines()), "") or repr(error)
            message = f"the chat template refuses these messages: {first}"
            raise BadPrompt(message) from error

    def _applied(self, messages: Sequence[Mapping[str, Any]], options: TemplateOptions) -> str:
        how = {"tokenize": False, "continue_final_message": options.continue_final}
        how["add_generation_prompt"] = not options.continue_final
        return str(self._tokenizer.apply_chat_template(list(messages), **how, **options.variables))

    def _reads(self, content: object) -> bool:
        """Return whether the template writes the text of ``content`` as text, not as Python or JSON shows it."""
        try:
            text = self._applied([{"role": "user", "content": content}], TemplateOptions())
        except Exception:  # noqa: BLE001  (templates refuse by any error there is)
            return False
        return _PROBE in text and not re.search(r"""['"]type['"]:""", text)


def written_words(sources: Iterable[str], added: Iterable[str]) -> frozenset[str]:
    """Return which of the ``added`` words of a vocabulary a template of these ``sources`` writes.

    Some vocabularies have added words for line breaks, HTML tags or plain words: only what is set off by signs at both
    ends can be meant as control, and only what the template itself writes is.
    """
    written = "\0".join(text for source in sources for text in _written(source))
    return frozenset(word for word in added if _set_off(word) and word in written)


def _set_off(word: str) -> bool:
    ends = word[:1] + word[-1:]
    return len(word) > 2 and not any(end.isalnum() or end.isspace() for end in ends)  # noqa: PLR2004  (a sign in signs)


def _sources(source: object) -> list[str]:
    if isinstance(source, str):
        return [source]
    listed = source.values() if isinstance(source, Mapping) else source  # templates by name, as some tokenizers have
    return [each for each in listed if isinstance(each, str)] if isinstance(listed, Iterable) else []


def _written(source: str) -> list[str]:
    """Return the texts that a template contains for writing, not for comparing with; all of it where jinja gives up."""
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]).parse(_TAGS.sub("", source))  # noqa: S701  (nothing is rendered)
    except TemplateError:
        return [source]
    return list(_texts(tree))


def _texts(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Compare):
        return
    if isinstance(node, nodes.TemplateData):
        yield node.data
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        yield node.value
    reading = isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in _READERS
    for child in [node.node] if reading else node.iter_child_nodes():  # type: ignore[attr-defined]  # a Call
        yield from _texts(child)


def any_of(words: frozenset[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of ``words``, the longest first."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # of no words, nothing is found
