"""``python -m nbkv.studies.flashblock``."""

from __future__ import annotations

import sys

from nbkv.studies.flashblock.table import main

if __name__ == "__main__":
    sys.exit(main())
