"""Agents: texts that several prompts share, at places of prompt templates that come again and again."""
