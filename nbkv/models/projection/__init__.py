"""K and V from a layer's input, without running the layer."""
