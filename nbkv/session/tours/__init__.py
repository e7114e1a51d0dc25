"""A tour of what reuse is worth on a user's own model and documents."""
