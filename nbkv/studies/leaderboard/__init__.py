"""The leaderboard: every strategy that reuses chunks, by task, budget and model, quality against what is computed."""
