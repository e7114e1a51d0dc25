"""Tree search: what a caller asks for, the search under way, and what became of it."""
