"""What the rows of a pass attend to, and how a layer's attention is computed."""
