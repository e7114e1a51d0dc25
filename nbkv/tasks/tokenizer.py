"""The word-level tokenizer of the bundled readers."""

from typing import TYPE_CHECKING, Final

from nbkv.tasks.vocabulary import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTEXT: Final = 4096
"""Longest input in tokens."""

# White space never counts; a word, a number or a mark is one token.
PIECES: Final = r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]"

_ROLES: Final = {"bos": "s", "eos": "/s", "pad": "pad", "unk": "unk", "mask": "mask"}

# An answer's turn ends with its end token, so that a new question follows it exactly as in training.
CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{{- message['content'] + (eos_token if message['role'] == 'assistant' else '') + ' ' -}}"
    "{%- endfor -%}"
)
"""What is said, one after another: a question ends with its mark, an answer with the end token."""


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Make the tokenizer: adds `<s>` in front, ends answers with `</s>`, decodes to spaced text."""
    # ruff: noqa: PLC0415  (tasks load without torch and transformers)
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(tokens())}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    # Every step only looks at what is already there: a longer output begins with the shorter one.
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            *(decoders.Replace(f" {mark}", mark) for mark in ".,:;?!)"),
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
