"""What a model is, and what was found out about it."""
