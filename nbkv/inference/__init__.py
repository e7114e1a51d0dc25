"""The decode loops, and how one request is run from prompt to result."""
