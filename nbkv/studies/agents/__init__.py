"""Agents: reuse of what they tell each other, against its dumbest rivals."""
