"""Tiers: where KV outlives the process that computed it, entry by entry, as safetensors bytes."""
