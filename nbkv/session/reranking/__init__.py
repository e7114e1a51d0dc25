"""Re-ranking by attention: which documents a query's tokens look at, over KV that are computed once."""
