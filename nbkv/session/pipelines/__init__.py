"""``nbkv.Pipeline``: agents whose prompts name each other's outputs, in which order they run, what each reused."""
