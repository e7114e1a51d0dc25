"""What a model writes its K/V and states into."""
