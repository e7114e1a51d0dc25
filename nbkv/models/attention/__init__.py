"""What a layer's attention sees, and how it is computed."""
