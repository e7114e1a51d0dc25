"""``python -m nbkv.cli``."""

from __future__ import annotations

import sys

from nbkv.cli import main

if __name__ == "__main__":
    sys.exit(main())
