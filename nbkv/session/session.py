"""The session: how one is loaded, all that it can be asked, and its way into files and out of them."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nbkv.models.loading import load_model
from nbkv.prompts.prompt import PromptLike
from nbkv.result import Chunk
from nbkv.roster import roster
from nbkv.session.arguments import exportable
from nbkv.session.experiments import Experiments
from nbkv.session.exports.transfer import CacheFile
from nbkv.session.exports.transfer import export as exported
from nbkv.session.exports.transfer import import_ as imported
from nbkv.session.measure import FidelityMeter
from nbkv.session.requests import Requests
from nbkv.stores.base import Store
from nbkv.stores.spec import check_spec
from nbkv.strategy import Strategy, parse

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(
    model: str | Path | PreTrainedModel,
    *,
    strategy: str | Strategy = "prefix",
    store: str | Sequence[str] | Store = "memory",
    tenant: str = "default",
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    model_kwargs: dict[str, Any] | None = None,
    tokenizer: Any = None,  # noqa: ANN401  (slow and fast tokenizers share no typed parent)
    name: str | None = None,
    fidelity_every: int = 0,
    block_size: int | None = None,
) -> Session:
    """Return a session on ``model``: a known name, a hub id, a folder, a GGUF file, or a loaded model.

    Known names are those of bundled models (``"tiny"``) and of pretrained ones that packages carry (``"smollm2"``; see
    docs/models.md). Weights of a GGUF file are dequantised, and a note says from what. A loaded model needs its
    ``tokenizer``.

    ``strategy`` is a registered name, ``"name(option=value)"`` or a Strategy object; ``store`` a specification such as
    ``"memory?device=4GiB"`` or ``"memory+disk:~/.cache/nbkv"`` (docs/stores.md). ``dtype="auto"`` is float32 on a CPU
    and the checkpoint's own on a GPU. ``model_kwargs`` go to ``from_pretrained``. ``fidelity_every=n`` measures every
    n-th request against full (0: none). ``block_size`` chooses the block of a block-diffusion model among those it was
    made for. Raises ``LoadError``, ``UnknownName``, ``BadOption``, ``UnsupportedModel``.
    """
    chosen, fidelity_meter = parse(strategy), FidelityMeter(fidelity_every)
    if isinstance(store, (str, list, tuple)):
        check_spec(store)
    given: dict[str, Any] = {"device": device, "dtype": dtype, "model_kwargs": model_kwargs, "block_size": block_size}
    loaded = load_model(model, tokenizer=tokenizer, **given)
    return Session(loaded, chosen, store, tenant=tenant, name=name, fidelity_meter=fidelity_meter)


class Session(Requests, Experiments):
    """One model with its store and strategy; one request at a time."""

    def export(
        self, path: str | Path, chunks: Iterable[str | Chunk] | None = None, *, prefix: PromptLike | None = None
    ) -> CacheFile:
        """Write KV to a file that another session, process or machine can ``import_``: what was read once is there.

        ``chunks`` are names or chunks (None: all of them, unless a ``prefix`` is given); ``prefix`` is what
        ``generate`` takes, or a Result: its prompt and answer. Raises ``UnknownName``, ``BadPrompt``,
        ``UnsupportedModel``, ``LoadError``.
        """
        ctx = self._open().for_request()
        wanted = exportable(chunks, prefix, self.chunks, ctx)
        with self._lock.request():
            return exported(ctx, path, *wanted)

    def import_(self, path: str | Path) -> CacheFile:
        """Take in what ``export`` wrote, once a few golden rows, run again here, agree within this model's noise.

        Chunks of the file are then this session's, by their names. Raises ``LoadError`` for a damaged file, and
        ``UnsupportedModel``, with the check that failed, where this model computes other KV: then nothing is taken in.
        """
        ctx = self._open().for_request()
        with self._lock.request():
            file, chunks = imported(ctx, path)
        for chunk in chunks:
            self.chunks[chunk.name] = chunk
            self._journal.chunk(chunk, ctx)
        return file


@atexit.register
def _stop_all() -> None:
    """End half-read streams while torch still can: if Python clears them up, torch aborts the process."""
    for session in roster:
        session.stop()
