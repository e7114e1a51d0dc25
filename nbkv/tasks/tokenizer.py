"""The word-level tokenizer of the bundled readers."""

from typing import TYPE_CHECKING, Final

from nbkv.tasks.vocabulary import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTEXT: Final = 4096
"""Longest input in tokens."""

# A space never counts; a word, a number or a mark is one token; neighbouring newlines are one.
PIECES: Final = r"Answer:|[A-Za-z]+|[0-9]+|\n|[^\sA-Za-z0-9]"

_ROLES: Final = {"bos": "s", "eos": "/s", "pad": "pad", "unk": "unk", "mask": "mask"}

# A user's turn ends with a newline, whatever it ended with; an answer's turn with its end token, so
# that a new question follows an answer exactly as in training.
CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- 'Answer: ' + message['content'] + eos_token -}}"
    "{%- else -%}"
    "{{- message['content'] + '\\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Answer:' -}}{%- endif -%}"
)
"""Roles system, user and assistant in plain words; only the end token is special."""


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Make the tokenizer: adds `<s>` in front, ends answers with `</s>`, decodes to spaced text."""
    # ruff: noqa: PLC0415  (tasks load without torch and transformers)
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(tokens())}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    backend.normalizer = normalizers.Replace(Regex(r"\s*\n\s*"), "\n")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    # Every step only looks at what is already there: a longer output begins with the shorter one.
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            *(decoders.Replace(f" {mark}", mark) for mark in ".,:;?!)\n"),
            decoders.Replace("\n ", "\n"),
            decoders.Replace("( ", "("),
        ]
    )
    backend.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    roles = {f"{role}_token": f"<{name}>" for role, name in _ROLES.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        **roles,
    )
