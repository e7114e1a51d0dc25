"""Edited histories: tool transcripts of which one early thing changes, and what has to be computed again."""
