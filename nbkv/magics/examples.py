"""One line of each magic as it is used: what ``-h`` shows below the options."""

from __future__ import annotations

EXAMPLES = {
    "kvload": "%kvload smollm2 -s prefix",
    "kvgen": "%%kvgen -n 32 -s prefix\nWho bought the lamp, {{ who }} or Nina?",
    "kvchat": "%%kvchat --system 'Answer in one sentence.'\nWhat is a KV cache?",
    "kvchunk": "%%kvchunk notes\nNina bought the lamp for 48 krona.",
    "kvcompare": "%%kvcompare full, prefix, cacheblend(budget=0.2) -n 16\n{{ notes }} Who bought the lamp?",
    "kvuse": "%kvuse cacheblend(budget=0.2)",
    "kvstore": "%kvstore memory?device=4GiB",
    "kvverify": "%kvverify prefix, cacheblend",
    "kvplan": "%kvplan -n 512",
    "kvstats": "%kvstats",
    "kvplot": "%kvplot",
    "kvdash": "%kvdash",
    "kvplay": "%kvplay",
    "kvlist": "%kvlist",
    "kvclose": "%kvclose",
}


def example(magic: str) -> str:
    """Return what stands at the end of the help of ``magic``."""
    lines = EXAMPLES[magic].splitlines()
    return "\n".join(["example:", *(f"  {line}" for line in lines)])
