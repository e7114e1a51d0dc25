"""Routing: the expected cost and measured fidelity of each strategy that could serve a prompt."""
