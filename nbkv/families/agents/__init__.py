"""Reuse between agents: what one has decoded is read by others, whose prompts have other words before it."""
