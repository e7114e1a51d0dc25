"""Many prompts planned as a whole: what they share is computed and read once."""
