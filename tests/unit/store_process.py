"""A process that reads and writes a disk store as fast as it can: ``python store_process.py FOLDER SEED OPERATIONS``.

It works on few keys, in a budget with room for some of them, and checks all that it reads. Its last line is ``done``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from entries import entry, ids_of
from path_kv import same
from waiting import PATIENCE_S

from nbkv.stores.tiers.disk import DiskTier
from nbkv.stores.tiers.indexed import index_file

KEYS = 12


def main(folder, seed, operations):
    index_file._WAIT_S = PATIENCE_S  # for the other process, which a busy machine may let wait
    made = [entry(ids_of(i, 80 + i)) for i in range(KEYS)]
    limit = 6 * made[0].nbytes
    tier, draw = DiskTier(root=Path(folder), limit=limit), random.Random(int(seed))
    for _ in range(int(operations)):
        each, move = draw.choice(made), draw.random()
        if move < 0.5:
            tier.put(each)
        elif move < 0.6:
            tier.drop(each.header.key)
        else:
            for key in tier.find(each.header.marks[:1]).get(each.header.marks[0], []):
                found = tier.get(key)
                assert found is None or same(found.kv(), each.kv())
                tier.use([key])
        assert tier.nbytes <= limit
        sys.stdout.write(f"{move}\n")
        sys.stdout.flush()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
