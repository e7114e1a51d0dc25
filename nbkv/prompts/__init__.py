"""From what a user writes to token ids, and back to text."""
