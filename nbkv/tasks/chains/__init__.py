"""Tasks for chains of agents: what each has to hand on, and what the last one is asked."""
