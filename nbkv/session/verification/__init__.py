"""What the self-check is made of: made-up prompts, the model's own answers to them, and what must agree."""
