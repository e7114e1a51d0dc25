"""Entries of K/V that tell of which tokens they are, for the tests of tiers."""

from __future__ import annotations

import random

from path_kv import truth

from nbkv.kv import Space
from nbkv.stores.tiers.entry import make_entry
from nbkv.stores.tiers.forms import form_of
from nbkv.stores.tiers.head import EntryFacts, Sealer

SPACE = Space("model", "float32")


def entry(ids, start=0, *, space=SPACE, sealer=None, form="", kv=None, **facts):
    kv = truth(ids, start, len(ids)) if kv is None else kv
    given = {"form": form_of(form), "sealer": sealer or Sealer(), "facts": EntryFacts(**facts)}
    return make_entry(space, ids, start, kv, **given)


def ids_of(number, length=70):
    return tuple(random.Random(number).randrange(1000) for _ in range(length))
