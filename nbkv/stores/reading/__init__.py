"""K/V on their way from tiers to where a request uses them, layer by layer."""
