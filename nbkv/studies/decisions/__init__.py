"""Decisions under reuse: which option a model picks, and whether that is the one it picks in full."""
