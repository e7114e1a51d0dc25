"""Tree search over reasoning steps: which branches go on, and how many of each."""
