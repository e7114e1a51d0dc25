"""Prompts become token ids, with the spans of their chunks; generated ids become text."""
