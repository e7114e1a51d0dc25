"""Many prompts at once: what they are, in which order they run, what came of them."""
