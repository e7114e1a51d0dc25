"""How a chunk is encoded: its ids, its K/V, and what stands in front of it meanwhile."""
