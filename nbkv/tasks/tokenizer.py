"""The word-level tokenizer of the bundled readers."""

from typing import TYPE_CHECKING, Final

from nbkv.tasks.vocabulary import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTEXT: Final = 4096
"""Longest input in tokens."""

# whitespace is no token; a word, a number or a mark is one
PIECES: Final = r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]"

_ROLES: Final = {"bos": "s", "eos": "/s", "pad": "pad", "unk": "unk", "mask": "mask"}

# an assistant message ends with the end token, so that the next question follows it exactly as in training
CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{{- message['content'] + (eos_token if message['role'] == 'assistant' else '') + ' ' -}}"
    "{%- endfor -%}"
)
"""All messages, one after another, without roles."""


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the tokenizer: it adds BOS (``<s>``) before a text, has ``</s>`` as EOS, and decodes to spaced text."""
    # ruff: noqa: PLC0415  (tasks load without torch and transformers)
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(tokens())}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    # no step of decoding depends on later tokens: the text of more tokens begins with that of fewer
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
