"""Tasks answered in steps that can be checked one by one, for search over steps."""
