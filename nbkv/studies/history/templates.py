"""Chat templates of the kinds that agents meet, short, for any tokenizer that has no tool turns of its own.

Each writes ``now``, a variable of the template, into its first line where that is given, as templates with dates do.
"""

from __future__ import annotations

from dataclasses import dataclass

_HEAD = "{% if now is defined %}Now: {{ now }}\n{% endif %}"
_LAST_USER = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class TranscriptTemplate:
    """A template by its Jinja ``source``; ``strips``: it leaves thinking before the last question out by itself.

    ``marks`` are what thinking stands between in a content.
    """

    name: str
    source: str
    strips: bool = False
    marks: tuple[str, str] = ("<think>\n", "\n</think>\n\n")


# as Qwen3's: thinking before the last question is left out, calls and results of tools stand in tags
QWEN = TranscriptTemplate(
    "qwen",
    _LAST_USER + "{% for m in messages %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'system' %}" + _HEAD + "{% endif %}"
    "{% if m.role == 'assistant' and loop.index0 < ns.last and '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    strips=True,
)

# as Llama 3's: roles in headers, a call is the whole content; nothing is left out
LLAMA = TranscriptTemplate(
    "llama",
    "{% for m in messages %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'system' %}" + _HEAD + "{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
)

# plain ChatML: tools are a role like others
CHATML = TranscriptTemplate(
    "chatml",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'system' %}" + _HEAD + "{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)

# in the words of the bundled readers, which know no tags and no JSON
NOTES = TranscriptTemplate(
    "notes",
    "{% for m in messages %}{% if m.role == 'system' and now is defined %}{{ now }} .\n{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.arguments.item }} ?{% endfor %}\n{% endfor %}",
    marks=("( ", " )\n"),
)

TEMPLATES = {each.name: each for each in (QWEN, LLAMA, CHATML, NOTES)}
