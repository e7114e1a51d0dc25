"""Sequences that branch: what they have in common is held once, and a pass runs the next token of each."""
