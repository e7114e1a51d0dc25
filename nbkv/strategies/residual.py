"""Residual recompute (KV-Direct, arXiv 2603.19664), with every form of what is held instead of K/V."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nbkv.context import Context
from nbkv.families.options import check_keep, check_rows
from nbkv.families.residual import forms
from nbkv.families.residual.base import Restoring, planned_form
from nbkv.families.residual.forms import Form
from nbkv.models.adapter import ModelAdapter
from nbkv.strategy import Strategy


@dataclass(kw_only=True, repr=False)
class Residual(Restoring):
    """Hold K/V of the newest ``keep`` tokens only; restore those of older ones for every token, layer by layer.

    ``keep`` is a share of the tokens so far (a float in (0, 1]) or a number of tokens. ``form`` is what is held of a
    token, in bytes for L layers of H K/V heads of D dimensions, width d and b bytes a value:

    - ``ids``: its id, 4 bytes. All layers run again over the older tokens, as in a prefill.
    - ``start(l)``: its residual before layer l, and K/V of the layers below: d b + 2 H D b l. The rest runs again.
      ``start(0)`` is KV-Direct's one vector per token: it holds no more than the id does, and costs d b.
    - ``every(k)``: its residual before every k-th layer: d b L / k. The layers between run again.
    - ``layers``: its residual before each layer: d b L. K/V are projected, no layer runs (HCache).
    - ``int8``, ``int4``: the same in 8 or 4 bits, scales included 1.125 or 0.625 bytes for b (XQuant). Approximate.
    - ``latent``, ``latent(rank)``, ``latent(rank, bits)``: what the K and V projections of each layer read, in the
      space they share: rank b L; without a rank all of it, min(d, 2 H D). Approximate, at full rank by rounding alone.
    - ``host``: K/V in host memory, 2 H D b L, copied back layer by layer. On a CPU that is the same memory.
    - ``first(m)``: the first m layers run again from the ids, K/V of the others stay: 2 H D b (L - m).
    - ``mix(m)``: m layers from their residuals, those between them from the host, loaded while a layer is projected:
      the memory of two layers instead of one.
    - ``auto``: the fastest exact form that takes at most half the bytes of K/V on the device, as measured here.

    A form that costs more than K/V is refused. Residuals are held of all tokens, since later nothing gives them back.
    ``rows`` older tokens are restored at a time (default: an eighth of all).

    Exact: bit for bit ``full`` for a prompt of which nothing is known (it is the very same pass), as long as all tokens
    keep their K/V, and always with ``host``. K/V that are projected or computed again are bit for bit those of the pass
    that first made them if the same rows go through at once. Here older rows go through in blocks of ``rows``, which
    is not how they first came, so they differ by the rounding of matrix products of another shape: the same tokens by
    the house's rule for exact strategies, not the same bits. So do K/V that one kernel projects (``models.fused``),
    which it does for layers of the usual kind where kernels are used: on CUDA, unless ``NBKV_KERNELS=torch``. The
    approximate forms are no exact strategy at all, and their results say so.
    """

    name: ClassVar[str] = "residual"
    paper: ClassVar[str] = "KV-Direct, arXiv 2603.19664; HCache, arXiv 2410.05004; XQuant, arXiv 2508.10395"
    summary: ClassVar[str] = "keep K/V of the newest tokens, restore older ones layer by layer from ids or residuals"

    keep: float = 0.25
    form: str = "ids"
    rows: int | None = None

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for values out of range; with an approximate form the strategy is not ``exact``."""
        check_keep(self)
        check_rows(self)
        if self.form != "auto" and not forms.parse(self.form).exact:
            vars(self)["exact"] = False

    def at_full_budget(self) -> Strategy:
        """Return this strategy keeping K/V of all tokens."""
        return Residual(keep=1.0, form=self.form)

    def form_of(self, adapter: ModelAdapter, ctx: Context | None) -> Form:
        """Return the form that was asked for, or the one the planner picks."""
        if self.form != "auto":
            return forms.parse(self.form, adapter.n_layers)
        return planned_form(ctx) if ctx is not None else forms.parse("ids", adapter.n_layers)
